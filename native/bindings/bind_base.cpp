// Checksums, byte strings out of a block of many, facts about the processor, the heap.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "base/cpu_features.hpp"
#include "base/crc32c.hpp"
#include "base/error.hpp"
#include "base/heap.hpp"
#include "base/thread_pool.hpp"

namespace nb = nanobind;

namespace {

// Holds a buffer export for the length of a call.
class BytesLike {
 public:
  explicit BytesLike(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~BytesLike() { PyBuffer_Release(&buffer_); }
  BytesLike(const BytesLike&) = delete;
  BytesLike& operator=(const BytesLike&) = delete;

  [[nodiscard]] const void* data() const noexcept { return buffer_.buf; }
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(buffer_.len); }

 private:
  Py_buffer buffer_{};
};

std::uint32_t checksum(nb::handle data, std::uint32_t init) {
  const BytesLike bytes(data);
  const nb::gil_scoped_release release;
  return vicinal::crc32c(bytes.data(), bytes.size(), init);
}

// The byte strings of (n, k) rows, a list for each n: that of row r is blob[offsets[r]:offsets[r + 1]].
nb::list take_pieces(const vicinal::py::AnyArray& offsets, const vicinal::py::AnyArray& blob,
                     const vicinal::py::AnyArray& rows) {
  namespace py = vicinal::py;
  const py::View ends = py::vector<std::uint64_t>(offsets, "offsets");
  const py::View block = py::vector<std::uint8_t>(blob, "blob");
  const py::View wanted = py::view(rows, nb::dtype<std::int64_t>(), "int64", 2, "rows");
  const auto* end = ends.as<std::uint64_t>();
  const auto* row = wanted.as<std::int64_t>();
  const auto* bytes = reinterpret_cast<const char*>(block.data);
  // All are looked up before the first is copied, so that their cache misses come together.
  for (std::size_t i = 0; i < wanted.rows * wanted.columns; ++i) {
    const auto r = static_cast<std::uint64_t>(row[i]);
    if (r >= ends.rows || r + 1 >= ends.rows || end[r] > end[r + 1] || end[r + 1] > block.rows) {
      throw vicinal::Error(vicinal::ErrorCode::internal, "row " + std::to_string(row[i]) + " has no piece among " +
                                                             std::to_string(ends.rows) + " offsets into " +
                                                             std::to_string(block.rows) + " bytes");
    }
    __builtin_prefetch(bytes + end[r]);
  }
  nb::list lists;
  for (std::size_t i = 0; i < wanted.rows; ++i) {
    const nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(wanted.columns)));
    if (!list.is_valid()) throw nb::python_error();
    for (std::size_t j = 0; j < wanted.columns; ++j) {
      const auto r = static_cast<std::size_t>(row[i * wanted.columns + j]);
      PyObject* piece = PyBytes_FromStringAndSize(bytes + end[r], static_cast<Py_ssize_t>(end[r + 1] - end[r]));
      if (piece == nullptr) throw nb::python_error();
      PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(j), piece);
    }
    lists.append(list);
  }
  return lists;
}

nb::dict cpu_info() {
  const vicinal::CpuFeatures& f = vicinal::cpu_features();
  nb::dict info;
  info["sse42"] = f.sse42;
  info["avx2"] = f.avx2;
  info["avx512"] = f.avx512;
  info["neon"] = f.neon;
  info["arm_crc"] = f.arm_crc;
  info["threads"] = vicinal::hardware_threads();
  return info;
}

}  // namespace

void init_base(nb::module_& m) {
  m.def("crc32c", &checksum, nb::arg("data"), nb::arg("init") = 0,
        "CRC-32C of a contiguous bytes-like object; `init` is the checksum of what came before it.");
  m.def("take_pieces", &take_pieces, nb::arg("offsets"), nb::arg("blob"), nb::arg("rows"),
        "Lists of bytes for (n, k) int64 rows: blob[offsets[row]:offsets[row + 1]] of each.");
  m.def("cpu_info", &cpu_info, "Instruction sets of this processor and usable threads.");
  m.def("hardware_threads", &vicinal::hardware_threads, "Threads worth running: affinity lowered by a CPU quota.");
  m.def("release_free_memory", &vicinal::release_free_memory, nb::call_guard<nb::gil_scoped_release>(),
        "Give free pages of the heap back to the system.");
}
