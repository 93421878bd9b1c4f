// Kernels as Python sees them: for tests, for checks of incoming rows and for norms.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <vector>

#include "arrays.hpp"
#include "distance/distance.hpp"
#include "distance/rows.hpp"

namespace nb = nanobind;
using namespace vicinal;

namespace {

// The dtype of stored rows in an array: uint8 is read as codes unless the caller says bits.
DType dtype_of(const py::AnyArray& rows) {
  const nb::dlpack::dtype t = rows.dtype();
  for (const DType d : {DType::f32, DType::f16, DType::i8, DType::u8}) {
    if (t == py::row_dtype(d)) return d;
  }
  throw Error(ErrorCode::invalid_argument,
              "rows are " + py::describe(rows) + "; pass float32, float16, int8 or uint8 of two dimensions");
}

nb::object distances(const py::AnyArray& query, const py::AnyArray& rows, const std::string& kernel,
                     const std::string& isa) {
  const Kernel k = py::parse_kernel(kernel);
  const DType dtype = k == Kernel::hamming ? DType::bit : dtype_of(rows);
  const py::View r = py::row_matrix(rows, dtype, "rows");
  const nb::dlpack::dtype query_type = py::query_dtype(dtype);
  const py::View q = py::view(query, query_type, py::dtype_name(query_type), 1, "query");
  if (q.rows != r.columns) {
    throw Error(ErrorCode::dimension, "query has " + std::to_string(q.rows) + " elements, rows have " +
                                          std::to_string(r.columns) + "; pass vectors of one length");
  }
  const Distance d = distance(dtype, k, isa.empty() ? best_isa() : py::parse_isa(isa));
  const std::size_t dim = dtype == DType::bit ? r.columns * 8 : r.columns;
  const auto out = py::new_array<float>({r.rows});
  {
    const nb::gil_scoped_release release;
    d.batch(q.data, r.data, row_bytes(dtype, dim), nullptr, r.rows, dim, out.data);
  }
  return out.array;
}

std::pair<std::int64_t, std::int64_t> check(const py::AnyArray& rows) {
  const DType dtype = dtype_of(rows);
  const py::View r = py::row_matrix(rows, dtype, "rows");
  const nb::gil_scoped_release release;
  const RowCheck found = check_rows(r.data, row_bytes(dtype, r.columns), r.rows, r.columns, dtype);
  return {found.first_non_finite, found.first_zero};
}

nb::object norms(const py::AnyArray& rows) {
  const DType dtype = dtype_of(rows);
  const py::View r = py::row_matrix(rows, dtype, "rows");
  static_cast<void>(squared_norms(dtype, Isa::scalar));  // refuses types without norms before memory is taken
  const auto out = py::new_array<float>({r.rows});
  {
    const nb::gil_scoped_release release;
    inverse_norms(r.data, row_bytes(dtype, r.columns), r.rows, r.columns, dtype, best_isa(), out.data);
  }
  return out.array;
}

// How many dimensions the array has, 1 or 2, where it is the usual thing to search with: see usual_matrix() and
// usual_squares(). 0: it is not, which says nothing of what is wrong.
int usual_queries(nb::handle array, std::size_t columns) {
  py::AnyArray given;
  if (!given.look_at(array)) return 0;
  const py::View q = py::usual_matrix(given, nb::dtype<float>(), columns);
  if (q.rows == 0) return 0;
  const auto ndim = static_cast<int>(given.ndim());
  if (q.rows == 1) return usual_squares(q.data, 1, columns) ? ndim : 0;
  const nb::gil_scoped_release release;
  return usual_squares(q.data, q.rows, columns) ? ndim : 0;
}

nb::list supported_isas() {
  nb::list names;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (isa_supported(isa)) names.append(isa_name(isa));
  }
  return names;
}

}  // namespace

void init_distance(nb::module_& m) {
  m.def("distances", &distances, nb::arg("query"), nb::arg("rows"), nb::arg("kernel"), nb::arg("isa") = "",
        "Quantity (l2, dot, l1, hamming) of one query against each row: float32 (n,). isa='' takes the best.");
  m.def("check_rows", &check, nb::arg("rows"),
        "(first row with NaN or infinity, first zero row), -1 where there is none.");
  m.def("inverse_norms", &norms, nb::arg("rows"), "1 / |row| of each row as float32 (n,); 0 for a zero row.");
  m.def(
      "usual_queries", &usual_queries, nb::arg("array"), nb::arg("columns"),
      "Dimensions of the array, 1 or 2, where it is C-contiguous float32 of so many columns and the sum of squares of "
      "each row lies between NORM_SQUARED_MIN and NORM_SQUARED_MAX; else 0.");
  m.attr("NORM_SQUARED_MIN") = kNormSquaredMin;
  m.attr("NORM_SQUARED_MAX") = kNormSquaredMax;
  m.def("supported_isas", &supported_isas, "Names of the instruction sets that this processor runs.");
  m.def("best_isa", [] { return isa_name(best_isa()); }, "The instruction set in use; VICINAL_ISA lowers it.");
}
