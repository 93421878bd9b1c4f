// NEON kernels of the base AArch64 architecture (no dot product or half arithmetic extension is needed).
//
// Byte products are widened to 16 bits and added in pairs to 32; sums are modulo 2^32, exact for dim <= 65536.
// Tails are handled as in kernels_avx2.hpp.
#pragma once

#if defined(__aarch64__)

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "distance/kernel_loops.hpp"

namespace vicinal::neon {

// A vector loaded at kKeepLast + rem keeps the last rem bytes of 16.
alignas(32) inline constexpr std::uint8_t kKeepLast[32] = {
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

// The last n - i (< 16) bytes of p[0, n), zeros elsewhere.
VICINAL_INLINE uint8x16_t tail16(const void* p, std::size_t i, std::size_t n) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(p);
  if (n >= 16) return vandq_u8(vld1q_u8(bytes + n - 16), vld1q_u8(kKeepLast + (n - i)));
  std::uint8_t copy[16] = {};
  std::memcpy(copy, bytes + i, n - i);
  return vld1q_u8(copy);
}

// Loads of the two float row types as four floats.
struct F32 {
  using Row = float;
  static VICINAL_INLINE float32x4_t load(const float* p) noexcept { return vld1q_f32(p); }
  static VICINAL_INLINE float32x4_t tail(const float* p, std::size_t i, std::size_t n) noexcept {
    return vreinterpretq_f32_u8(tail16(p, 4 * i, 4 * n));
  }
};
struct F16 {
  using Row = std::uint16_t;
  static VICINAL_INLINE float32x4_t load(const Row* p) noexcept {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static VICINAL_INLINE float32x4_t tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    // At most three elements, always at the vector's end, where F32::tail puts the query's (n >= 4) or at its start.
    std::uint16_t copy[4] = {};
    std::memcpy(copy + (n >= 4 ? 4 - (n - i) : 0), p + i, (n - i) * sizeof(Row));
    return load(copy);
  }
};

template <class Type, class QueryType = F32>
struct FloatOp {
  using Query = typename QueryType::Row;
  using Row = typename Type::Row;
  using Acc = float32x4_t;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 4;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return vdupq_n_f32(0); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE float32x4_t query(const Query* p) noexcept { return QueryType::load(p); }
  static VICINAL_INLINE float32x4_t query_tail(const Query* p, std::size_t i, std::size_t n) noexcept {
    return QueryType::tail(p, i, n);
  }
  static VICINAL_INLINE float32x4_t row(const Row* p) noexcept { return Type::load(p); }
  static VICINAL_INLINE float32x4_t row_tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    return Type::tail(p, i, n);
  }
  static VICINAL_INLINE Shared note(Shared s, float32x4_t /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return vaddq_f32(a, b); }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return vaddvq_f32(a); }
};

template <class Type, class QueryType = F32>
struct L2Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE float32x4_t step(float32x4_t a, float32x4_t q, float32x4_t r) noexcept {
    const float32x4_t d = vsubq_f32(q, r);
    return vfmaq_f32(a, d, d);
  }
};
template <class Type, class QueryType = F32>
struct DotFloat : FloatOp<Type, QueryType> {
  static VICINAL_INLINE float32x4_t step(float32x4_t a, float32x4_t q, float32x4_t r) noexcept {
    return vfmaq_f32(a, q, r);
  }
};
template <class Type, class QueryType = F32>
struct L1Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE float32x4_t step(float32x4_t a, float32x4_t q, float32x4_t r) noexcept {
    return vaddq_f32(a, vabdq_f32(q, r));
  }
};

template <class T>
struct ByteOp {
  using Query = T;
  using Row = T;
  using Acc = uint32x4_t;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 16;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return vdupq_n_u32(0); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE uint8x16_t query(const T* p) noexcept {
    return vld1q_u8(reinterpret_cast<const std::uint8_t*>(p));
  }
  static VICINAL_INLINE uint8x16_t query_tail(const T* p, std::size_t i, std::size_t n) noexcept {
    return tail16(p, i, n);
  }
  static VICINAL_INLINE uint8x16_t row(const T* p) noexcept { return query(p); }
  static VICINAL_INLINE uint8x16_t row_tail(const T* p, std::size_t i, std::size_t n) noexcept {
    return tail16(p, i, n);
  }
  static VICINAL_INLINE Shared note(Shared s, uint8x16_t /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return vaddq_u32(a, b); }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return static_cast<float>(vaddvq_u32(a)); }
};

// |q - r| as unsigned bytes.
template <class T>
VICINAL_INLINE uint8x16_t absolute_difference(uint8x16_t q, uint8x16_t r) noexcept {
  if constexpr (T(-1) < T(0)) {
    return vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)));
  }
  return vabdq_u8(q, r);
}

template <class T>
struct L2Byte : ByteOp<T> {
  static VICINAL_INLINE uint32x4_t step(uint32x4_t a, uint8x16_t q, uint8x16_t r) noexcept {
    const uint8x16_t d = absolute_difference<T>(q, r);
    a = vpadalq_u16(a, vmull_u8(vget_low_u8(d), vget_low_u8(d)));
    return vpadalq_u16(a, vmull_high_u8(d, d));
  }
};

struct DotU8 : ByteOp<std::uint8_t> {
  static VICINAL_INLINE uint32x4_t step(uint32x4_t a, uint8x16_t q, uint8x16_t r) noexcept {
    a = vpadalq_u16(a, vmull_u8(vget_low_u8(q), vget_low_u8(r)));
    return vpadalq_u16(a, vmull_high_u8(q, r));
  }
};

struct DotI8 : ByteOp<std::int8_t> {
  static VICINAL_INLINE uint32x4_t step(uint32x4_t a, uint8x16_t q, uint8x16_t r) noexcept {
    const int8x16_t x = vreinterpretq_s8_u8(q);
    const int8x16_t y = vreinterpretq_s8_u8(r);
    int32x4_t sum = vpadalq_s16(vreinterpretq_s32_u32(a), vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    sum = vpadalq_s16(sum, vmull_high_s8(x, y));
    return vreinterpretq_u32_s32(sum);
  }
  static VICINAL_INLINE float total(uint32x4_t a, Nothing /*s*/) noexcept {
    return static_cast<float>(static_cast<std::int32_t>(vaddvq_u32(a)));
  }
};

template <class T>
struct L1Byte : ByteOp<T> {
  static VICINAL_INLINE uint32x4_t step(uint32x4_t a, uint8x16_t q, uint8x16_t r) noexcept {
    return vpadalq_u16(a, vpaddlq_u8(absolute_difference<T>(q, r)));
  }
};

struct HammingBit : ByteOp<std::uint8_t> {
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim / 8; }
  static VICINAL_INLINE uint32x4_t step(uint32x4_t a, uint8x16_t q, uint8x16_t r) noexcept {
    return vpadalq_u16(a, vpaddlq_u8(vcntq_u8(veorq_u8(q, r))));
  }
};

// Four elements to bytes: round(clamp((x - lo) * scale, 0, 255)), halves to even.
template <class Type>
struct Quantise {
  using Row = typename Type::Row;
  static constexpr std::size_t kStep = 4;
  static VICINAL_INLINE void step(const Row* x, const float* lo, const float* scale, std::uint8_t* out) noexcept {
    float32x4_t v = vmulq_f32(vsubq_f32(Type::load(x), vld1q_f32(lo)), vld1q_f32(scale));
    v = vminq_f32(vmaxq_f32(v, vdupq_n_f32(0)), vdupq_n_f32(255.0F));
    const uint16x4_t h = vmovn_u32(vcvtnq_u32_f32(v));
    const std::uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(h, h))), 0);
    std::memcpy(out, &four, sizeof four);
  }
};

struct Ops {
  using L2F32 = L2Float<F32>;
  using DotF32 = DotFloat<F32>;
  using L1F32 = L1Float<F32>;
  using L2F16 = L2Float<F16>;
  using DotF16 = DotFloat<F16>;
  using L1F16 = L1Float<F16>;
  using DotF16F16 = DotFloat<F16, F16>;
  using L2I8 = L2Byte<std::int8_t>;
  using DotI8 = neon::DotI8;
  using L1I8 = L1Byte<std::int8_t>;
  using L2U8 = L2Byte<std::uint8_t>;
  using DotU8 = neon::DotU8;
  using L1U8 = L1Byte<std::uint8_t>;
  using Hamming = HammingBit;
  using QuantiseF32 = Quantise<F32>;
  using QuantiseF16 = Quantise<F16>;
};

}  // namespace vicinal::neon

#endif
