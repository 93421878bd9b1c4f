// Portable building blocks of the beam search; the other instruction sets replace what they do better.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "graph/view.hpp"

namespace vicinal::graph::scalar {

struct Ops {
  template <CodeKind kind>
  static inline std::int32_t key(const std::uint8_t* a, const std::uint8_t* b, std::size_t bytes) noexcept {
    if constexpr (kind == CodeKind::hamming) {
      std::int32_t sum = 0;
      std::size_t i = 0;
      for (; i + 8 <= bytes; i += 8) {
        std::uint64_t x = 0;
        std::uint64_t y = 0;
        std::memcpy(&x, a + i, 8);
        std::memcpy(&y, b + i, 8);
        sum += std::popcount(x ^ y);
      }
      for (; i < bytes; ++i) sum += std::popcount(static_cast<std::uint8_t>(a[i] ^ b[i]));
      return sum;
    } else if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      float lanes[16] = {};
      for (std::size_t i = 0; i < bytes; i += 64) {  // codes are whole lines
        for (std::size_t j = 0; j < 16; ++j) {
          float x = 0;
          float y = 0;
          std::memcpy(&x, a + i + 4 * j, 4);
          std::memcpy(&y, b + i + 4 * j, 4);
          const float d = x - y;
          lanes[j] += kind == CodeKind::l2_f32 ? d * d : (d < 0 ? -d : d);
        }
      }
      float sum = 0;
      for (const float lane : lanes) sum += lane;
      std::int32_t bits = 0;
      std::memcpy(&bits, &sum, 4);
      return bits;
    } else if constexpr (kind == CodeKind::dot_u8) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < bytes; ++i) {
        sum += static_cast<std::int32_t>(static_cast<std::int8_t>(a[i])) * static_cast<std::int32_t>(b[i]);
      }
      return kDotBase - sum;
    } else {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < bytes; ++i) {
        const std::int32_t d = static_cast<std::int32_t>(a[i]) - static_cast<std::int32_t>(b[i]);
        sum += kind == CodeKind::l2_u8 ? d * d : (d < 0 ? -d : d);
      }
      return sum;
    }
  }

  template <CodeKind kind>
  static inline void keys(const GraphView& g, const std::byte* query, const std::uint32_t* rows, std::size_t n,
                          std::int32_t* out) noexcept {
    const auto* q = reinterpret_cast<const std::uint8_t*>(query);
    for (std::size_t i = 0; i < n; ++i) {
      out[i] = key<kind>(q, reinterpret_cast<const std::uint8_t*>(g.code(rows[i])), g.code_bytes);
    }
  }

  static inline void dots(const std::byte* const* rows, std::size_t n, const std::int8_t* panels, std::size_t n_panels,
                          std::size_t groups, std::int32_t* out, std::size_t out_stride) noexcept {
    for (std::size_t p = 0; p < n_panels; ++p, panels += 4 * kPanel * groups) {
      for (std::size_t r = 0; r < n; ++r) {
        const auto* row = reinterpret_cast<const std::uint8_t*>(rows[r]);
        std::int32_t sums[kPanel] = {};
        for (std::size_t g = 0; g < groups; ++g) {
          const std::int8_t* columns = panels + 4 * kPanel * g;
          for (std::size_t c = 0; c < kPanel; ++c) {
            for (std::size_t b = 0; b < 4; ++b) {
              sums[c] += static_cast<std::int32_t>(row[4 * g + b]) * static_cast<std::int32_t>(columns[4 * c + b]);
            }
          }
        }
        std::memcpy(out + r * out_stride + p * kPanel, sums, sizeof sums);
      }
    }
  }

  // Writes kPanel keys, as BeamFns::near has them; returns a bit for each that is below one of its bounds.
  static inline unsigned below(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots,
                               const std::int32_t* bounds, std::int32_t bound, std::int32_t* keys) noexcept {
    unsigned hits = 0;
    for (std::size_t i = 0; i < kPanel; ++i) {
      keys[i] = static_cast<std::int32_t>(base + norms[i] - 2 * static_cast<std::uint32_t>(dots[i]));
      hits |= (keys[i] < (bounds[i] > bound ? bounds[i] : bound) ? 1U : 0U) << i;
    }
    return hits;
  }

  // Position of a smallest key, n >= 1. May write into the padding past n.
  static inline std::size_t argmin(std::int32_t* keys, std::size_t n) noexcept {
    std::size_t best = 0;
    for (std::size_t i = 1; i < n; ++i) best = keys[i] < keys[best] ? i : best;
    return best;
  }

  static inline std::size_t count_below(const std::int32_t* keys, std::size_t n, std::int32_t bound) noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += keys[i] < bound ? 1U : 0U;
    return count;
  }

  // Appends the pairs whose key is below the bound to (dst_keys, dst_rows) at position `at`; returns the new end.
  // Source and destination may be the same arrays when at <= the first source position.
  static inline std::size_t append_below(std::int32_t* dst_keys, std::uint32_t* dst_rows, std::size_t at,
                                         const std::int32_t* keys, const std::uint32_t* rows, std::size_t n,
                                         std::int32_t bound) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      const std::int32_t key = keys[i];
      const std::uint32_t row = rows[i];
      dst_keys[at] = key;
      dst_rows[at] = row;
      at += key < bound ? 1U : 0U;
    }
    return at;
  }
};

}  // namespace vicinal::graph::scalar
