// How much address space a block that grows in place reserves.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "base/aligned_buffer.hpp"

namespace vicinal {

// Bytes of addresses that a growing block may reserve: twice the machine's memory, which it cannot outgrow, or an
// eighth of what a limit on the address space (ulimit -v) leaves to the process. VICINAL_RESERVE_MIB sets another size,
// for emulators and sandboxes in which addresses cost memory; a block cannot grow past it.
[[nodiscard]] inline std::size_t reservation_bytes() noexcept {
  static const std::size_t bytes = [] {
    if (const char* asked = std::getenv("VICINAL_RESERVE_MIB"); asked != nullptr) {
      if (const long mib = std::strtol(asked, nullptr, 10); mib > 0 && mib <= long{1} << 24) {
        return static_cast<std::size_t>(mib) << 20;
      }
    }
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
