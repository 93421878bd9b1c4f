// Building blocks of the beam search for NEON (AArch64).
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "graph/view.hpp"

namespace vicinal::graph::neon {

struct Ops {
  static inline uint8x16_t load(const std::byte* p) noexcept {
    return vld1q_u8(reinterpret_cast<const std::uint8_t*>(p));
  }

  // The last bytes of a code, zeros behind them.
  static inline uint8x16_t load_tail(const std::byte* p, std::size_t bytes) noexcept {
    std::uint8_t whole[16] = {};
    __builtin_memcpy(whole, p, bytes);
    return vld1q_u8(whole);
  }

  template <CodeKind kind>
  static inline uint32x4_t accumulate(uint32x4_t sum, uint8x16_t a, uint8x16_t b) noexcept {
    if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      const float32x4_t x = vreinterpretq_f32_u8(a);
      const float32x4_t y = vreinterpretq_f32_u8(b);
      const float32x4_t s = vreinterpretq_f32_u32(sum);
      const float32x4_t d = vsubq_f32(x, y);
      if constexpr (kind == CodeKind::l2_f32) return vreinterpretq_u32_f32(vfmaq_f32(s, d, d));
      return vreinterpretq_u32_f32(vaddq_f32(s, vabsq_f32(d)));
    } else if constexpr (kind == CodeKind::hamming) {
      return vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(veorq_u8(a, b))));
    } else if constexpr (kind == CodeKind::l1_u8) {
      return vpadalq_u16(sum, vpaddlq_u8(vabdq_u8(a, b)));
    } else if constexpr (kind == CodeKind::dot_u8) {
      const int8x16_t q = vreinterpretq_s8_u8(a);
      int32x4_t s = vreinterpretq_s32_u32(sum);
      const int16x8_t q_low = vmovl_s8(vget_low_s8(q));
      const int16x8_t q_high = vmovl_s8(vget_high_s8(q));
      const int16x8_t c_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b)));
      const int16x8_t c_high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(b)));
      s = vmlal_s16(s, vget_low_s16(q_low), vget_low_s16(c_low));
      s = vmlal_s16(s, vget_high_s16(q_low), vget_high_s16(c_low));
      s = vmlal_s16(s, vget_low_s16(q_high), vget_low_s16(c_high));
      s = vmlal_s16(s, vget_high_s16(q_high), vget_high_s16(c_high));
      return vreinterpretq_u32_s32(s);
    } else {
      const uint8x16_t d = vabdq_u8(a, b);
      const uint16x8_t low = vmull_u8(vget_low_u8(d), vget_low_u8(d));
      const uint16x8_t high = vmull_u8(vget_high_u8(d), vget_high_u8(d));
      return vpadalq_u16(vpadalq_u16(sum, low), high);
    }
  }

  template <CodeKind kind>
  static inline std::int32_t reduce(uint32x4_t sum) noexcept {
    if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      const float total = vaddvq_f32(vreinterpretq_f32_u32(sum));
      std::int32_t bits = 0;
      __builtin_memcpy(&bits, &total, sizeof(bits));
      return bits;
    } else if constexpr (kind == CodeKind::dot_u8) {
      return kDotBase - vaddvq_s32(vreinterpretq_s32_u32(sum));
    } else {
      return static_cast<std::int32_t>(vaddvq_u32(sum));
    }
  }

  template <CodeKind kind>
  static inline void keys(const GraphView& g, const std::byte* query, const std::uint32_t* rows, std::size_t n,
                          std::int32_t* out) noexcept {
    const std::size_t whole = g.code_bytes & ~std::size_t{15};
    const std::size_t tail = g.code_bytes & 15U;
    const uint32x4_t zero = vdupq_n_u32(0);
    std::size_t i = 0;
    for (; i + 2 <= n; i += 2) {
      const std::byte* p0 = g.code(rows[i]);
      const std::byte* p1 = g.code(rows[i + 1]);
      uint32x4_t s0 = zero;
      uint32x4_t s1 = zero;
      for (std::size_t d = 0; d < whole; d += 16) {
        const uint8x16_t q = load(query + d);
        s0 = accumulate<kind>(s0, q, load(p0 + d));
        s1 = accumulate<kind>(s1, q, load(p1 + d));
      }
      if (tail != 0) {
        const uint8x16_t q = load_tail(query + whole, tail);
        s0 = accumulate<kind>(s0, q, load_tail(p0 + whole, tail));
        s1 = accumulate<kind>(s1, q, load_tail(p1 + whole, tail));
      }
      out[i] = reduce<kind>(s0);
      out[i + 1] = reduce<kind>(s1);
    }
    if (i < n) {
      const std::byte* p = g.code(rows[i]);
      uint32x4_t s = zero;
      for (std::size_t d = 0; d < whole; d += 16) s = accumulate<kind>(s, load(query + d), load(p + d));
      if (tail != 0) s = accumulate<kind>(s, load_tail(query + whole, tail), load_tail(p + whole, tail));
      out[i] = reduce<kind>(s);
    }
  }

  static inline void dots(const std::byte* const* rows, std::size_t n, const std::int8_t* panels, std::size_t n_panels,
                          std::size_t groups, std::int32_t* out, std::size_t out_stride) noexcept {
    for (std::size_t p = 0; p < n_panels; ++p, panels += 4 * kPanel * groups, out += kPanel) {
      dots_of(rows, n, panels, groups, out, out_stride);
    }
  }

  // Writes kPanel keys, as BeamFns::near has them; returns a bit for each that is below one of its bounds.
  static inline unsigned below(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots,
                               const std::int32_t* bounds, std::int32_t bound, std::int32_t* keys) noexcept {
    const int32x4_t limit = vdupq_n_s32(bound);
    uint32x4_t any = vdupq_n_u32(0);
    for (std::size_t i = 0; i < kPanel; i += 4) {
      const uint32x4_t twice = vshlq_n_u32(vreinterpretq_u32_s32(vld1q_s32(dots + i)), 1);
      const uint32x4_t sum = vaddq_u32(vdupq_n_u32(base), vld1q_u32(norms + i));
      const int32x4_t key = vreinterpretq_s32_u32(vsubq_u32(sum, twice));
      vst1q_s32(keys + i, key);
      any = vorrq_u32(any, vcltq_s32(key, vmaxq_s32(limit, vld1q_s32(bounds + i))));
    }
    if (vmaxvq_u32(any) == 0) return 0;
    unsigned hits = 0;
    for (std::size_t i = 0; i < kPanel; ++i) hits |= (keys[i] < bound || keys[i] < bounds[i] ? 1U : 0U) << i;
    return hits;
  }

  static inline std::size_t argmin(std::int32_t* keys, std::size_t n) noexcept {
    const int32x4_t top = vdupq_n_s32(INT32_MAX);
    vst1q_s32(keys + n, top);  // the padding of every list
    vst1q_s32(keys + n + 4, top);
    int32x4_t even = top;
    int32x4_t odd = top;
    for (std::size_t i = 0; i < n; i += 8) {
      even = vminq_s32(even, vld1q_s32(keys + i));
      odd = vminq_s32(odd, vld1q_s32(keys + i + 4));
    }
    const std::int32_t least = vminvq_s32(vminq_s32(even, odd));
    std::size_t at = 0;
    while (keys[at] != least) ++at;
    return at;
  }

  static inline std::size_t count_below(const std::int32_t* keys, std::size_t n, std::int32_t bound) noexcept {
    const int32x4_t limit = vdupq_n_s32(bound);
    uint32x4_t count = vdupq_n_u32(0);
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) count = vsubq_u32(count, vcltq_s32(vld1q_s32(keys + i), limit));
    std::size_t total = vaddvq_u32(count);
    for (; i < n; ++i) total += keys[i] < bound ? 1U : 0U;
    return total;
  }

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

 private:
  static inline void dots_of(const std::byte* const* rows, std::size_t n, const std::int8_t* panel, std::size_t groups,
                             std::int32_t* out, std::size_t out_stride) noexcept {
    for (std::size_t r = 0; r < n; ++r, out += out_stride) {
      int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
      const std::int8_t* columns = panel;
      for (std::size_t g = 0; g < groups; ++g) {
        std::uint32_t four = 0;
        __builtin_memcpy(&four, rows[r] + 4 * g, 4);
        // 255 * 128 fits 16 bits.
        const int16x8_t row = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
        for (std::size_t c = 0; c < 4; ++c, columns += 16) {
          const int8x16_t four_columns = vld1q_s8(columns);
          const int16x8_t low = vmulq_s16(row, vmovl_s8(vget_low_s8(four_columns)));
          const int16x8_t high = vmulq_s16(row, vmovl_high_s8(four_columns));
          sums[c] = vaddq_s32(sums[c], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
        }
      }
      for (std::size_t c = 0; c < 4; ++c) vst1q_s32(out + 4 * c, sums[c]);
    }
  }
};

}  // namespace vicinal::graph::neon
