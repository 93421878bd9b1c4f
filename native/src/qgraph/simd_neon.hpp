// Vector operations of the Q search loop on NEON: the look-ups and products by hand, the rest as the compiler maps it.
#pragma once

#if defined(__aarch64__)

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "qgraph/simd_scalar.hpp"

namespace vicinal::qgraph {

struct Neon : Scalar {
  static VICINAL_INLINE std::int32_t own_dot(const std::int8_t* own, const std::int8_t* q, std::size_t padded,
                                             std::int32_t) noexcept {
    int32x4_t sum = vdupq_n_s32(0);
    for (std::size_t i = 0; i < padded; i += 16) {
      const int8x16_t a = vld1q_s8(own + i), b = vld1q_s8(q + i);
      sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
      sum = vpadalq_s16(sum, vmull_high_s8(a, b));
    }
    return vaddvq_s32(sum);
  }

  static VICINAL_INLINE void scan(const std::uint8_t* codes, const std::uint8_t* tables, std::size_t n,
                                  const std::byte* fetch, std::size_t lines, F* out) noexcept {
    const uint8x16_t nibble = vdupq_n_u8(15);
    const uint16x8_t even = vdupq_n_u16(255);
    uint16x8_t low_even = vdupq_n_u16(0), low_odd = low_even, high_even = low_even, high_odd = low_even;
    for (std::size_t i = 0; i < 16 * n; i += 64) {
      if (i % 256 == 0) {
        for (std::size_t j = 0; j < lines; ++j, fetch += 64) prefetch_next(fetch);
      }
      uint8x16_t low = vdupq_n_u8(0), high = low;
      for (std::size_t j = 0; j < 4; ++j) {  // 4 entries of at most 63 fit a byte
        const uint8x16_t code = vld1q_u8(codes + i + 16 * j), table = vld1q_u8(tables + i + 16 * j);
        low = vaddq_u8(low, vqtbl1q_u8(table, vandq_u8(code, nibble)));
        high = vaddq_u8(high, vqtbl1q_u8(table, vshrq_n_u8(code, 4)));
      }
      const uint16x8_t low16 = vreinterpretq_u16_u8(low), high16 = vreinterpretq_u16_u8(high);
      low_even = vaddq_u16(low_even, vandq_u16(low16, even));
      low_odd = vaddq_u16(low_odd, vshrq_n_u16(low16, 8));
      high_even = vaddq_u16(high_even, vandq_u16(high16, even));
      high_odd = vaddq_u16(high_odd, vshrq_n_u16(high16, 8));
    }
    const uint16x8_t sums[4] = {low_even, low_odd, high_even, high_odd};
    for (std::size_t v = 0; v < 4; ++v) {
      vst1q_f32(out[v].x, vcvtq_f32_u32(vmovl_u16(vget_low_u16(sums[v]))));
      vst1q_f32(out[v].x + 4, vcvtq_f32_u32(vmovl_high_u16(sums[v])));
    }
  }
};

}  // namespace vicinal::qgraph

#endif
