// Checksums, facts about the processor, the heap.
#include <nanobind/nanobind.h>

#include <cstdint>

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
  m.def("cpu_info", &cpu_info, "Instruction sets of this processor and usable threads.");
  m.def("hardware_threads", &vicinal::hardware_threads, "Threads worth running: affinity lowered by a CPU quota.");
  m.def("release_free_memory", &vicinal::release_free_memory, nb::call_guard<nb::gil_scoped_release>(),
        "Give free pages of the heap back to the system.");
}
