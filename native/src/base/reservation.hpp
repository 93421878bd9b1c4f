// How much address space a block that grows in place reserves.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

#include "base/aligned_buffer.hpp"

namespace vicinal {

// Bytes of addresses that a growing block may reserve: twice the machine's memory, which it cannot outgrow, or a
// eighth of what a limit on the address space (ulimit -v) leaves to the process.
[[nodiscard]] inline std::size_t reservation_bytes() noexcept {
  static const std::size_t bytes = [] {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page = ::sysconf(_SC_PAGESIZE);
    std::size_t most = std::size_t{128} << 30;
    if (pages > 0 && page > 0) most = 2 * static_cast<std::size_t>(pages) * static_cast<std::size_t>(page);
    struct rlimit limit{};
    if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
      most = std::min<std::size_t>(most, limit.rlim_cur / 8);
    }
    return std::max(most, kHugePage);
  }();
  return bytes;
}

}  // namespace vicinal
