// Rows of a set as places to start from.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vicinal::graph {

// Up to n rows of the set below `limit`, spread over it; they start a search where the graph's entry points fail.
inline void sample_matches(const std::uint64_t* pass, std::size_t limit, std::size_t n,
                           std::vector<std::uint32_t>& out) {
  const std::size_t words = (limit + 63) / 64;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t begin = i * words / n;
    const std::size_t end = std::min(words, begin + std::max<std::size_t>(words / n, 1));
    for (std::size_t w = begin; w < end; ++w) {
      const std::uint64_t bits = __atomic_load_n(&pass[w], __ATOMIC_RELAXED);
      if (bits == 0) continue;
      const std::size_t row = w * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      if (row < limit) out.push_back(static_cast<std::uint32_t>(row));
      break;
    }
  }
}

}  // namespace vicinal::graph
