// What the processor and the container allow, asked once at run time.
#pragma once

namespace vicinal {

struct CpuFeatures {
  bool sse42 = false;   // with POPCNT; hardware CRC32C
  bool avx2 = false;    // every flag that *_avx2.cpp files are compiled with
  bool avx512 = false;  // every flag that *_avx512.cpp files are compiled with
  bool neon = false;
  bool arm_crc = false;
};

[[nodiscard]] const CpuFeatures& cpu_features() noexcept;

// Threads worth running: the affinity mask, lowered by a container's CPU quota; at least 1.
[[nodiscard]] unsigned hardware_threads() noexcept;

}  // namespace vicinal
