// Arrays across the boundary: checked views of NumPy input, NumPy output that owns its memory.
//
// Nothing is cast or copied here: an array of another dtype, shape or layout is refused with a message that says
// what to pass.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "distance/distance.hpp"

namespace vicinal::py {

namespace nb = nanobind;

// A NumPy array as it was given, in the machine's byte order, alive as long as this is. Nothing else is taken.
class AnyArray {
 public:
  // False where the object is no such array.
  [[nodiscard]] bool look_at(nb::handle object) noexcept;

  [[nodiscard]] nb::dlpack::dtype dtype() const noexcept { return dtype_; }
  [[nodiscard]] std::size_t ndim() const noexcept { return ndim_; }
  [[nodiscard]] std::size_t shape(std::size_t i) const noexcept { return static_cast<std::size_t>(shape_[i]); }
  [[nodiscard]] const void* data() const noexcept { return data_; }
  [[nodiscard]] bool contiguous() const noexcept { return contiguous_; }

 private:
  nb::object owner_;
  const void* data_ = nullptr;
  const Py_ssize_t* shape_ = nullptr;  // the array's own
  std::size_t ndim_ = 0;
  nb::dlpack::dtype dtype_{};
  bool contiguous_ = false;
};

inline std::string describe(const AnyArray& a) {
  const nb::dlpack::dtype t = a.dtype();
  std::string text;
  switch (static_cast<nb::dlpack::dtype_code>(t.code)) {
    case nb::dlpack::dtype_code::Int:
      text = "int";
      break;
    case nb::dlpack::dtype_code::UInt:
      text = "uint";
      break;
    case nb::dlpack::dtype_code::Float:
      text = "float";
      break;
    case nb::dlpack::dtype_code::Bool:
      text = "bool";
      break;
    default:
      text = "other";
      break;
  }
  if (text != "bool") text += std::to_string(t.bits);
  text += " of shape (";
  for (std::size_t i = 0; i < a.ndim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(a.shape(i));
  return text + ")";
}

// A C-contiguous array seen through its bytes.
struct View {
  const std::byte* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;  // 1 for vectors
  template <class T>
  [[nodiscard]] const T* as() const noexcept {
    return reinterpret_cast<const T*>(data);
  }
};

// Checks that `a` has `ndim` dimensions, is C-contiguous and holds elements of that dtype; `name` is the argument's.
inline View view(const AnyArray& a, nb::dlpack::dtype dtype, const char* dtype_name, std::size_t ndim,
                 const char* name) {
  if (a.dtype() != dtype || a.ndim() != ndim) {
    throw Error(ErrorCode::invalid_argument, std::string(name) + " is " + describe(a) + "; pass " + dtype_name +
                                                 (ndim == 1 ? " of one dimension" : " of two dimensions"));
  }
  if (!a.contiguous()) {
    throw Error(ErrorCode::invalid_argument,
                std::string(name) + " is not C-contiguous; pass numpy.ascontiguousarray(" + name + ")");
  }
  return {static_cast<const std::byte*>(a.data()), a.shape(0), ndim == 1 ? 1 : a.shape(1)};
}

inline nb::dlpack::dtype float16_dtype() noexcept {
  return {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
}

// The element type in which rows of that DType are stored.
inline nb::dlpack::dtype row_dtype(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return nb::dtype<float>();
    case DType::f16:
      return float16_dtype();
    case DType::i8:
      return nb::dtype<std::int8_t>();
    case DType::bit:
    case DType::u8:
      return nb::dtype<std::uint8_t>();
  }
  return {};
}

// The element type of queries against such rows.
inline nb::dlpack::dtype query_dtype(DType dtype) noexcept {
  return dtype == DType::f16 ? nb::dtype<float>() : row_dtype(dtype);
}

inline const char* dtype_name(nb::dlpack::dtype t) noexcept {
  if (t == nb::dtype<float>()) return "float32";
  if (t == float16_dtype()) return "float16";
  if (t == nb::dtype<std::int8_t>()) return "int8";
  if (t == nb::dtype<std::uint8_t>()) return "uint8";
  if (t == nb::dtype<std::uint32_t>()) return "uint32";
  if (t == nb::dtype<std::int64_t>()) return "int64";
  if (t == nb::dtype<std::uint64_t>()) return "uint64";
  return "another dtype";
}

inline View row_matrix(const AnyArray& a, DType dtype, const char* name) {
  return view(a, row_dtype(dtype), dtype_name(row_dtype(dtype)), 2, name);
}

inline View query_matrix(const AnyArray& a, DType dtype, const char* name) {
  return view(a, query_dtype(dtype), dtype_name(query_dtype(dtype)), 2, name);
}

// Queries as most callers have them: one of one dimension, or a matrix, C-contiguous, of that dtype and so many
// columns. No rows: it is anything else.
inline View usual_matrix(const AnyArray& a, nb::dlpack::dtype dtype, std::size_t columns) noexcept {
  const std::size_t ndim = a.ndim();
  if (a.dtype() != dtype || !a.contiguous() || (ndim != 1 && ndim != 2) || a.shape(ndim - 1) != columns) return {};
  return {static_cast<const std::byte*>(a.data()), ndim == 1 ? 1 : a.shape(0), columns};
}

template <class T>
View vector(const AnyArray& a, const char* name) {
  return view(a, nb::dtype<T>(), dtype_name(nb::dtype<T>()), 1, name);
}

// A new NumPy array with uninitialised elements; `data` stays valid as long as `array` lives.
template <class T>
struct NewArray {
  nb::object array;
  T* data;
};

struct NewBytes {
  nb::object array;
  void* data;
};

// MemoryError where there is no room.
[[nodiscard]] NewBytes new_bytes(nb::dlpack::dtype dtype, const std::size_t* shape, std::size_t ndim);

template <class T>
NewArray<T> new_array(std::initializer_list<std::size_t> shape) {
  NewBytes made = new_bytes(nb::dtype<T>(), shape.begin(), shape.size());
  return {std::move(made.array), static_cast<T*>(made.data)};
}

// Names as the Python side spells them; Error{invalid_argument} lists the known ones.
[[nodiscard]] DType parse_dtype(const std::string& name);
[[nodiscard]] Metric parse_metric(const std::string& name);
[[nodiscard]] Kernel parse_kernel(const std::string& name);
[[nodiscard]] Isa parse_isa(const std::string& name);
[[nodiscard]] const char* dtype_name(DType dtype) noexcept;
[[nodiscard]] const char* metric_name(Metric metric) noexcept;

}  // namespace vicinal::py

namespace nanobind::detail {

template <>
struct type_caster<vicinal::py::AnyArray> {
  NB_TYPE_CASTER(vicinal::py::AnyArray, const_name("numpy.ndarray"))

  bool from_python(handle src, std::uint8_t, cleanup_list*) noexcept { return value.look_at(src); }
};

}  // namespace nanobind::detail
