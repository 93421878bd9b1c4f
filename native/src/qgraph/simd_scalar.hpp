// Vector operations of the Q search loop in plain C++: eight lanes that the compiler may map to what it has.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "distance/prefetch.hpp"
#include "qgraph/half.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

struct Scalar {
  static constexpr std::size_t kWidth = 8;
  struct F {
    float x[kWidth];
  };
  struct U {
    std::uint32_t x[kWidth];
  };
  struct M {
    std::uint32_t bits;
  };

  template <class Fn>
  static VICINAL_INLINE F each(Fn fn) noexcept {
    F r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = fn(i);
    return r;
  }
  template <class Fn>
  static VICINAL_INLINE M test(Fn fn) noexcept {
    std::uint32_t m = 0;
    for (std::size_t i = 0; i < kWidth; ++i) m |= static_cast<std::uint32_t>(fn(i)) << i;
    return {m};
  }

  static VICINAL_INLINE F setf(float x) noexcept {
    return each([x](std::size_t) { return x; });
  }
  static VICINAL_INLINE U setu(std::uint32_t x) noexcept {
    U r;
    for (std::uint32_t& lane : r.x) lane = x;
    return r;
  }
  static VICINAL_INLINE F loadf(const float* p) noexcept {
    F r;
    std::memcpy(r.x, p, sizeof r.x);
    return r;
  }
  static VICINAL_INLINE U loadu(const std::uint32_t* p) noexcept {
    U r;
    std::memcpy(r.x, p, sizeof r.x);
    return r;
  }
  static VICINAL_INLINE void storef(float* p, const F& a) noexcept { std::memcpy(p, a.x, sizeof a.x); }
  static VICINAL_INLINE void storeu(std::uint32_t* p, const U& a) noexcept { std::memcpy(p, a.x, sizeof a.x); }
  static VICINAL_INLINE F load_f16(const std::uint16_t* p) noexcept {
    return each([p](std::size_t i) { return half_to_float(p[i]); });
  }
  static VICINAL_INLINE F load_u8(const std::uint8_t* p) noexcept {
    return each([p](std::size_t i) { return static_cast<float>(p[i]); });
  }
  static VICINAL_INLINE F load_i8(const std::int8_t* p) noexcept {
    return each([p](std::size_t i) { return static_cast<float>(p[i]); });
  }
  static VICINAL_INLINE F add(const F& a, const F& b) noexcept {
    return each([&](std::size_t i) { return a.x[i] + b.x[i]; });
  }
  static VICINAL_INLINE F sub(const F& a, const F& b) noexcept {
    return each([&](std::size_t i) { return a.x[i] - b.x[i]; });
  }
  static VICINAL_INLINE F mul(const F& a, const F& b) noexcept {
    return each([&](std::size_t i) { return a.x[i] * b.x[i]; });
  }
  static VICINAL_INLINE F fma(const F& a, const F& b, const F& c) noexcept {
    return each([&](std::size_t i) { return a.x[i] * b.x[i] + c.x[i]; });
  }
  static VICINAL_INLINE F abs(const F& a) noexcept {
    return each([&](std::size_t i) { return __builtin_fabsf(a.x[i]); });
  }
  static VICINAL_INLINE F min(const F& a, const F& b) noexcept {
    return each([&](std::size_t i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
  }
  static VICINAL_INLINE F max(const F& a, const F& b) noexcept {
    return each([&](std::size_t i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
  }
  static VICINAL_INLINE M lt(const F& a, const F& b) noexcept {
    return test([&](std::size_t i) { return a.x[i] < b.x[i]; });
  }
  static VICINAL_INLINE M eq(const U& a, const U& b) noexcept {
    return test([&](std::size_t i) { return a.x[i] == b.x[i]; });
  }
  static VICINAL_INLINE M both(M a, M b) noexcept { return {a.bits & b.bits}; }
  static VICINAL_INLINE M but_not(M a, M b) noexcept { return {a.bits & ~b.bits}; }
  static VICINAL_INLINE std::uint32_t bits(M m) noexcept { return m.bits; }
  static VICINAL_INLINE F pick(M m, const F& yes, const F& no) noexcept {
    return each([&](std::size_t i) { return (m.bits >> i & 1) != 0 ? yes.x[i] : no.x[i]; });
  }
  static VICINAL_INLINE U pick(M m, const U& yes, const U& no) noexcept {
    U r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = (m.bits >> i & 1) != 0 ? yes.x[i] : no.x[i];
    return r;
  }
  static VICINAL_INLINE U band(const U& a, const U& b) noexcept {
    U r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = a.x[i] & b.x[i];
    return r;
  }
  static VICINAL_INLINE U addu(const U& a, const U& b) noexcept {
    U r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = a.x[i] + b.x[i];
    return r;
  }
  static VICINAL_INLINE U word_of(const U& bit) noexcept {
    U r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = bit.x[i] / 32;
    return r;
  }
  // Whether bit (i mod 32) of each word is set.
  static VICINAL_INLINE M bit_set(const U& words, const U& bit) noexcept {
    return test([&](std::size_t i) { return (words.x[i] >> bit.x[i] % 32 & 1) != 0; });
  }
  static VICINAL_INLINE F pack(M m, const F& a, const F& fill) noexcept {
    F r = fill;
    std::size_t n = 0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      if ((m.bits >> i & 1) != 0) r.x[n++] = a.x[i];
    }
    return r;
  }
  static VICINAL_INLINE U pack(M m, const U& a) noexcept {
    U r = setu(0);
    std::size_t n = 0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      if ((m.bits >> i & 1) != 0) r.x[n++] = a.x[i];
    }
    return r;
  }
  static VICINAL_INLINE U gather(const std::uint32_t* table, const U& at) noexcept {
    U r;
    for (std::size_t i = 0; i < kWidth; ++i) r.x[i] = table[at.x[i]];
    return r;
  }
  static VICINAL_INLINE float min_of(const F& a) noexcept {
    float r = a.x[0];
    for (const float lane : a.x) r = lane < r ? lane : r;
    return r;
  }
  static VICINAL_INLINE float max_of(const F& a) noexcept {
    float r = a.x[0];
    for (const float lane : a.x) r = lane > r ? lane : r;
    return r;
  }
  static VICINAL_INLINE float sum_of(const F& a) noexcept {
    return ((a.x[0] + a.x[4]) + (a.x[2] + a.x[6])) + ((a.x[1] + a.x[5]) + (a.x[3] + a.x[7]));
  }
  static VICINAL_INLINE std::uint32_t id_at(const F& a, float value, const U& ids) noexcept {
    for (std::size_t i = 0; i < kWidth; ++i) {
      if (a.x[i] == value) return ids.x[i];
    }
    return ids.x[0];
  }

  static VICINAL_INLINE F hadamard(F a) noexcept {
    for (std::size_t h = 1; h < kWidth; h *= 2) {
      for (std::size_t i = 0; i < kWidth; i += 2 * h) {
        for (std::size_t j = i; j < i + h; ++j) {
          const float low = a.x[j], high = a.x[j + h];
          a.x[j] = low + high;
          a.x[j + h] = low - high;
        }
      }
    }
    return a;
  }
  static VICINAL_INLINE F sum2(const F& a) noexcept {
    return each([&](std::size_t i) { return a.x[i / 2 * 2] + a.x[i / 2 * 2 + 1]; });
  }
  static VICINAL_INLINE F sum4(const F& a) noexcept {
    return each([&](std::size_t i) {
      const float* g = a.x + i / 4 * 4;
      return (g[0] + g[1]) + (g[2] + g[3]);
    });
  }
  static VICINAL_INLINE F store_i8(std::int8_t* p, const F& a) noexcept {
    return each([&](std::size_t i) {
      const float rounded = __builtin_nearbyintf(a.x[i]);
      p[i] = static_cast<std::int8_t>(rounded);
      return rounded;
    });
  }

  static VICINAL_INLINE void prepare_own(std::int8_t*, std::size_t) noexcept {}
  static VICINAL_INLINE std::int32_t own_dot(const std::int8_t* own, const std::int8_t* q, std::size_t padded,
                                             std::int32_t) noexcept {
    std::int32_t dot = 0;
    for (std::size_t i = 0; i < padded; ++i) dot += std::int32_t{own[i]} * q[i];
    return dot;
  }

  static VICINAL_INLINE void build_tables(const std::int8_t* q, std::size_t padded, std::uint8_t* tables) noexcept {
    for (std::size_t i = 0; i < padded; i += 4) {
      for (unsigned j = 0; j < 16; ++j) {
        int entry = 0;
        for (unsigned e = 0; e < 4; ++e) {
          const bool set = (j >> e & 1) != 0;
          const std::int32_t value = q[i + e];  // NOLINT(bugprone-signed-char-misuse): a signed number, not a character
          entry += set == (value > 0) ? (value > 0 ? value : -value) : 0;
        }
        tables[4 * i + j] = static_cast<std::uint8_t>(entry);
      }
    }
  }

  static VICINAL_INLINE void scan(const std::uint8_t* codes, const std::uint8_t* tables, std::size_t n,
                                  const std::byte* fetch, std::size_t lines, F* out) noexcept {
    std::uint32_t sums[32] = {};  // [nibble][byte]
    for (std::size_t i = 0; i < 16 * n; i += 16) {
      if (i % 256 == 0) {
        for (std::size_t j = 0; j < lines; ++j, fetch += 64) prefetch_next(fetch);
      }
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned code = codes[i + j];
        sums[j] += tables[i + (code & 15)];
        sums[16 + j] += tables[i + (code >> 4)];
      }
    }
    for (std::size_t nb = 0; nb < 32; ++nb) {
      const std::size_t at = (nb / 16) * 16 + nb % 8 * 2 + nb / 8 % 2;
      out[nb / kWidth].x[nb % kWidth] = static_cast<float>(sums[at]);
    }
  }
};

}  // namespace vicinal::qgraph
