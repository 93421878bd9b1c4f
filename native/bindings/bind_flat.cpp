// The exact index and the exact scan over an array of the caller's.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <optional>

#include "arrays.hpp"
#include "flat/flat_index.hpp"

namespace nb = nanobind;
using namespace vicinal;

namespace {

std::size_t columns(const FlatIndex& index) { return index.dtype() == DType::bit ? index.dim() / 8 : index.dim(); }

void check_columns(const FlatIndex& index, const py::View& v, const char* name) {
  if (v.columns == columns(index)) return;
  throw Error(ErrorCode::dimension, std::string(name) + " has " + std::to_string(v.columns) +
                                        " columns, the index needs " + std::to_string(columns(index)) +
                                        (index.dtype() == DType::bit ? " (dim / 8 bytes)" : ""));
}

std::size_t append_rows(FlatIndex& index, const py::AnyArray& rows) {
  const py::View v = py::row_matrix(rows, index.dtype(), "rows");
  check_columns(index, v, "rows");
  const nb::gil_scoped_release release;
  return index.append(v.data, v.rows);
}

std::size_t remove_rows(FlatIndex& index, const py::AnyArray& rows) {
  const py::View v = py::vector<std::int64_t>(rows, "rows");
  const nb::gil_scoped_release release;
  return index.remove(v.as<std::int64_t>(), v.rows);
}

nb::tuple search(const FlatIndex& index, const py::AnyArray& queries, std::size_t k, unsigned threads,
                 nb::handle filter) {
  const py::View q = py::query_matrix(queries, index.dtype(), "queries");
  check_columns(index, q, "queries");
  std::optional<py::AnyArray> bits;  // keeps the array alive
  py::View words;
  if (!filter.is_none()) {
    bits = nb::cast<py::AnyArray>(filter);
    words = py::vector<std::uint64_t>(*bits, "filter");
  }
  auto rows = py::new_array<std::int64_t>({q.rows, k});
  auto distances = py::new_array<float>({q.rows, k});
  {
    const nb::gil_scoped_release release;
    index.search(q.data, q.rows, k, threads, bits ? words.as<std::uint64_t>() : nullptr, words.rows, rows.data,
                 distances.data);
  }
  return nb::make_tuple(rows.array, distances.array);
}

nb::object vectors(const FlatIndex& index, const py::AnyArray& rows) {
  const py::View v = py::vector<std::int64_t>(rows, "rows");
  auto out = py::new_array<std::uint8_t>({v.rows, index.row_size()});
  {
    const nb::gil_scoped_release release;
    index.copy_rows(v.as<std::int64_t>(), v.rows, reinterpret_cast<std::byte*>(out.data));
  }
  return out.array;
}

}  // namespace

void init_flat(nb::module_& m) {
  nb::class_<FlatIndex>(m, "Flat", "Exact index; wrapped by vicinal.index.FlatIndex, which documents it.")
      .def(
          "__init__",
          [](FlatIndex* self, std::size_t dim, const std::string& metric, const std::string& dtype) {
            new (self) FlatIndex(dim, py::parse_metric(metric), py::parse_dtype(dtype));
          },
          nb::arg("dim"), nb::arg("metric"), nb::arg("dtype"))
      .def("append", &append_rows, nb::arg("rows"))
      .def("remove", &remove_rows, nb::arg("rows"))
      .def("search", &search, nb::arg("queries"), nb::arg("k"), nb::arg("threads"), nb::arg("filter").none())
      .def("vectors", &vectors, nb::arg("rows"), "The rows' bytes as uint8 (n, bytes of a row).")
      .def("save", &FlatIndex::save, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>())
      .def_static("load", &FlatIndex::load, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("n", &FlatIndex::size)
      .def_prop_ro("n_live", &FlatIndex::live)
      .def_prop_ro("memory_bytes", &FlatIndex::memory_bytes)
      .def_prop_ro("dim", &FlatIndex::dim)
      .def_prop_ro("metric", [](const FlatIndex& index) { return py::metric_name(index.metric()); })
      .def_prop_ro("dtype", [](const FlatIndex& index) { return py::dtype_name(index.dtype()); });
}
