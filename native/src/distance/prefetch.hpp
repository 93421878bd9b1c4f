// Software prefetch that survives GCC 12.
//
// GCC 12 merges the prefetches of a loop over cache lines into one; the compiler fence after each keeps them apart
// and emits no instruction. All functions have internal linkage or are forced inline, so that files compiled for
// another instruction set never share them.
#pragma once

#include <atomic>
#include <cstddef>

#define VICINAL_INLINE inline __attribute__((always_inline))

namespace vicinal {

static VICINAL_INLINE void prefetch_line(const void* p) noexcept {
  __builtin_prefetch(p, 0, 3);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// Prefetches every cache line of [p, p + bytes).
static VICINAL_INLINE void prefetch_bytes(const void* p, std::size_t bytes) noexcept {
  const auto* line = static_cast<const char*>(p);
  for (const char* end = line + bytes; line < end; line += 64) prefetch_line(line);
}

}  // namespace vicinal
