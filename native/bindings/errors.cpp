// The one place where native errors become classes of vicinal.model.errors.
#include <nanobind/nanobind.h>

#include <exception>

#include "base/error.hpp"

namespace nb = nanobind;

namespace {

const char* class_name(vicinal::ErrorCode code) noexcept {
  switch (code) {
    case vicinal::ErrorCode::invalid_argument:
      return "InvalidArgumentError";
    case vicinal::ErrorCode::dimension:
      return "DimensionError";
    case vicinal::ErrorCode::vector_value:
      return "VectorValueError";
    case vicinal::ErrorCode::corrupt:
      return "CorruptionError";
    case vicinal::ErrorCode::format_version:
      return "FormatVersionError";
    case vicinal::ErrorCode::io:
      return "StorageError";
    case vicinal::ErrorCode::capacity:
      return "LimitError";
    case vicinal::ErrorCode::cancelled:
      return "CancelledError";
    case vicinal::ErrorCode::internal:
      return "InternalError";
  }
  return "InternalError";
}

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const vicinal::Error& error) {
    try {
      const nb::object type = nb::module_::import_("vicinal.model.errors").attr(class_name(error.code()));
      PyErr_SetString(type.ptr(), error.what());
    } catch (nb::python_error& lookup) {
      lookup.restore();  // the package is broken: its own error says more than ours
    }
  }
}

}  // namespace

void init_errors(nb::module_& /*m*/) { nb::register_exception_translator(translate); }
