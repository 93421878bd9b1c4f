// New NumPy arrays, made by numpy.empty itself: a third of what a view of memory of ours costs, which a single search
// would pay twice.
#include "arrays.hpp"

#include <array>
#include <cstring>
#include <string>
#include <utility>

namespace nb = nanobind;

namespace vicinal::py {
namespace {

// Held as long as the process lives, as the module is.
struct NumPy {
  PyObject* empty = nullptr;
  std::array<std::pair<const char*, PyObject*>, 5> dtypes{};
  bool data_first = false;
};
NumPy numpy;

// An array object begins with the address of its elements: the C macros of NumPy read it there, so that no release can
// move it. Looked at once all the same.
void* data_field(PyObject* array) noexcept {
  void* data = nullptr;
  std::memcpy(static_cast<void*>(&data), reinterpret_cast<const char*>(array) + sizeof(PyObject), sizeof(data));
  return data;
}

void* data_by_buffer(PyObject* array) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(array, &buffer, PyBUF_WRITABLE) != 0) throw nb::python_error();
  void* data = buffer.buf;
  PyBuffer_Release(&buffer);
  return data;
}

}  // namespace

nb::object empty_array(const char* dtype, const std::size_t* shape, std::size_t ndim) {
  PyObject* type = nullptr;
  for (const auto& [name, object] : numpy.dtypes) {
    if (std::strcmp(name, dtype) == 0) type = object;
  }
  if (type == nullptr) throw Error(ErrorCode::internal, std::string("no new arrays of ") + dtype);
  const nb::object dims = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(ndim)));
  if (!dims.is_valid()) throw nb::python_error();
  for (std::size_t i = 0; i < ndim; ++i) {
    PyObject* extent = PyLong_FromSize_t(shape[i]);
    if (extent == nullptr) throw nb::python_error();
    PyTuple_SET_ITEM(dims.ptr(), static_cast<Py_ssize_t>(i), extent);
  }
  PyObject* arguments[] = {nullptr, dims.ptr(), type};
  nb::object array =
      nb::steal(PyObject_Vectorcall(numpy.empty, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  return array;
}

void* array_data(const nb::object& array) {
  return numpy.data_first ? data_field(array.ptr()) : data_by_buffer(array.ptr());
}

}  // namespace vicinal::py

void init_arrays(nb::module_&) {
  using vicinal::py::numpy;
  const nb::module_ module = nb::module_::import_("numpy");
  numpy.empty = nb::object(module.attr("empty")).release().ptr();
  std::size_t n = 0;
  for (const char* name : {"float32", "int64", "uint8", "uint32", "uint64"}) {
    numpy.dtypes[n++] = {name, nb::object(module.attr("dtype")(name)).release().ptr()};
  }
  const nb::object sample = module.attr("empty")(3);
  numpy.data_first = vicinal::py::data_field(sample.ptr()) == vicinal::py::data_by_buffer(sample.ptr());
}
