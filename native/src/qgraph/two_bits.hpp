// Look-up tables of a query for codes of two bits a dimension, the same on every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "distance/prefetch.hpp"

namespace vicinal::qgraph {

// The share of one of two dimensions in a table's 16 entries, for every query value: |v| c / 3 rounded, where c is the
// dimension's two bits of the entry's number, counted from the other end where v is negative. A sum over dimensions is
// (<s, v> + sum|v|) / 2, s being -1, -1/3, 1/3 or 1 for 0 to 3.
struct TwoBitShares {
  static constexpr int kMost = 63;
  std::uint8_t first[2 * kMost + 1][16] = {};
  std::uint8_t second[2 * kMost + 1][16] = {};

  constexpr TwoBitShares() noexcept {
    for (int v = -kMost; v <= kMost; ++v) {
      for (int entry = 0; entry < 16; ++entry) {
        first[v + kMost][entry] = share(v, entry & 3);
        second[v + kMost][entry] = share(v, entry >> 2);
      }
    }
  }
  static constexpr std::uint8_t share(int v, int code) noexcept {
    return static_cast<std::uint8_t>(v < 0 ? (2 * -v * (3 - code) + 3) / 6 : (2 * v * code + 3) / 6);
  }
};
inline constexpr TwoBitShares kTwoBitShares;

// q: values whose pairs have magnitudes of at most 63 together; a table for each pair.
static VICINAL_INLINE void build_two_bit_tables(const std::int8_t* q, std::size_t n, std::uint8_t* tables) noexcept {
  for (std::size_t i = 0; i < n; i += 2, tables += 16) {
    std::uint64_t first[2];
    std::uint64_t second[2];
    std::memcpy(first, kTwoBitShares.first[q[i] + TwoBitShares::kMost], 16);
    std::memcpy(second, kTwoBitShares.second[q[i + 1] + TwoBitShares::kMost], 16);
    first[0] += second[0];  // no byte overflows into its neighbour
    first[1] += second[1];
    std::memcpy(tables, first, 16);
  }
}

}  // namespace vicinal::qgraph
