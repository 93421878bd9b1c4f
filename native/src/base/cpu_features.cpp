// Detection of instruction sets and of usable processors.
#include "base/cpu_features.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace vicinal {
namespace {

CpuFeatures detect() noexcept {
  CpuFeatures f;
#if defined(__x86_64__)
  __builtin_cpu_init();
  f.sse42 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  f.avx2 = f.sse42 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("lzcnt");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
             __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vpopcntdq") &&
             __builtin_cpu_supports("avx512bitalg");
#elif defined(__aarch64__)
  f.neon = true;  // part of the base architecture
#if defined(__linux__)
  f.arm_crc = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#endif
#endif
  return f;
}

// Processors that this process may run on. (hardware_concurrency() counts all that are there, whatever the affinity.)
unsigned allowed_threads() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
#endif
  return std::max(1U, std::thread::hardware_concurrency());
}

// The cgroup v2 quota in processors, or 0 where there is none.
unsigned quota_threads() noexcept {
  try {
    std::ifstream file("/sys/fs/cgroup/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
    return static_cast<unsigned>(std::max(1.0, std::ceil(std::stod(quota) / period)));
  } catch (...) {
    return 0;  // an unreadable quota is no quota
  }
}

}  // namespace

const CpuFeatures& cpu_features() noexcept {
  static const CpuFeatures features = detect();
  return features;
}

unsigned hardware_threads() noexcept {
  static const unsigned count = [] {
    const unsigned cores = allowed_threads();
    const unsigned quota = quota_threads();
    return quota == 0 ? cores : std::min(cores, quota);
  }();
  return count;
}

}  // namespace vicinal
