// NumPy arrays by NumPy's own interface: importing one by its buffer takes ten times as long, and making one by a call
// of numpy.empty twice, which a single search would pay for two of each.
#include "arrays.hpp"

#include <algorithm>
#include <string>

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#include <numpy/arrayobject.h>

namespace nb = nanobind;

namespace vicinal::py {
namespace {

nb::dlpack::dtype element_type(int kind, npy_intp bytes) noexcept {
  nb::dlpack::dtype_code code = nb::dlpack::dtype_code::Complex;  // what no argument is
  if (PyTypeNum_ISBOOL(kind)) {
    code = nb::dlpack::dtype_code::Bool;
  } else if (PyTypeNum_ISFLOAT(kind)) {
    code = nb::dlpack::dtype_code::Float;
  } else if (PyTypeNum_ISSIGNED(kind)) {
    code = nb::dlpack::dtype_code::Int;
  } else if (PyTypeNum_ISUNSIGNED(kind)) {
    code = nb::dlpack::dtype_code::UInt;
  }
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bytes * 8), 1};
}

int type_number(nb::dlpack::dtype dtype) {
  if (dtype == nb::dtype<float>()) return NPY_FLOAT32;
  if (dtype == nb::dtype<std::int64_t>()) return NPY_INT64;
  if (dtype == nb::dtype<std::uint8_t>()) return NPY_UINT8;
  if (dtype == nb::dtype<std::uint32_t>()) return NPY_UINT32;
  if (dtype == nb::dtype<std::uint64_t>()) return NPY_UINT64;
  throw Error(ErrorCode::internal, std::string("no new arrays of ") + dtype_name(dtype));
}

}  // namespace

bool AnyArray::look_at(nb::handle object) noexcept {
  if (!PyArray_Check(object.ptr())) return false;
  auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
  if (PyArray_ISBYTESWAPPED(array)) return false;
  owner_ = nb::borrow(object);
  data_ = PyArray_DATA(array);
  ndim_ = static_cast<std::size_t>(PyArray_NDIM(array));
  shape_ = PyArray_DIMS(array);
  contiguous_ = PyArray_IS_C_CONTIGUOUS(array) != 0;
  dtype_ = element_type(PyArray_TYPE(array), PyArray_ITEMSIZE(array));
  return true;
}

NewBytes new_bytes(nb::dlpack::dtype dtype, const std::size_t* shape, std::size_t ndim) {
  npy_intp dims[4];
  std::copy_n(shape, std::min<std::size_t>(ndim, 4), dims);
  nb::object array = nb::steal(PyArray_SimpleNew(static_cast<int>(ndim), dims, type_number(dtype)));
  if (!array.is_valid()) throw nb::python_error();
  void* data = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr()));
  return {std::move(array), data};
}

}  // namespace vicinal::py

void init_arrays(nb::module_&) {
  if (PyArray_ImportNumPyAPI() < 0) throw nb::python_error();
}
