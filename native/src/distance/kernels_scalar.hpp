// Portable kernels: the oracle of every other instruction set, and the fallback of processors without one.
//
// Integer kernels are exact for dim <= 65536: the largest sum, 65536 * 255 * 255, is below 2^32, so sums are kept
// modulo 2^32 and read as unsigned (dot products of signed bytes stay within +-2^30 and are read as signed).
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/kernel_loops.hpp"

namespace vicinal::scalar {

// The value of an IEEE half, subnormals and infinities included.
VICINAL_INLINE float half_to_float(std::uint16_t h) noexcept {
  const std::uint32_t sign = std::uint32_t{h & 0x8000U} << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1FU;
  const std::uint32_t mantissa = h & 0x3FFU;
  if (exponent == 0) {
    const float tiny = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -tiny : tiny;
  }
  const std::uint32_t biased = exponent == 31 ? 255 : exponent + 112;
  return __builtin_bit_cast(float, sign | (biased << 23) | (mantissa << 13));
}

struct F32 {
  using Row = float;
  static VICINAL_INLINE float f32(float v) noexcept { return v; }
};
struct F16 {
  using Row = std::uint16_t;
  static VICINAL_INLINE float f32(std::uint16_t v) noexcept { return half_to_float(v); }
};

// What all scalar operations share; Sum is the accumulator's type.
template <class QueryT, class RowT, class Sum>
struct Base {
  using Query = QueryT;
  using Row = RowT;
  using Acc = Sum;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 1;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return 0; }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  // Rows may be unaligned, so they are read by memcpy.
  static VICINAL_INLINE Query query(const Query* p) noexcept {
    Query v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static VICINAL_INLINE Row row(const Row* p) noexcept {
    Row v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static VICINAL_INLINE Shared note(Shared s, Query /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return a + b; }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return static_cast<float>(a); }
};

template <class Type, class QueryType = F32>
struct L2Float : Base<typename QueryType::Row, typename Type::Row, float> {
  static VICINAL_INLINE float step(float a, typename QueryType::Row q, typename Type::Row r) noexcept {
    const float d = QueryType::f32(q) - Type::f32(r);
    return a + d * d;
  }
};
template <class Type, class QueryType = F32>
struct DotFloat : Base<typename QueryType::Row, typename Type::Row, float> {
  static VICINAL_INLINE float step(float a, typename QueryType::Row q, typename Type::Row r) noexcept {
    return a + QueryType::f32(q) * Type::f32(r);
  }
};
template <class Type, class QueryType = F32>
struct L1Float : Base<typename QueryType::Row, typename Type::Row, float> {
  static VICINAL_INLINE float step(float a, typename QueryType::Row q, typename Type::Row r) noexcept {
    const float d = QueryType::f32(q) - Type::f32(r);
    return a + (d < 0 ? -d : d);
  }
};

template <class T>
struct L2Byte : Base<T, T, std::uint32_t> {
  static VICINAL_INLINE std::uint32_t step(std::uint32_t a, T q, T r) noexcept {
    const int d = int{q} - int{r};
    return a + static_cast<std::uint32_t>(d * d);
  }
};
template <class T, class Sum>
struct DotByte : Base<T, T, Sum> {
  static VICINAL_INLINE Sum step(Sum a, T q, T r) noexcept { return a + static_cast<Sum>(int{q} * int{r}); }
};
template <class T>
struct L1Byte : Base<T, T, std::uint32_t> {
  static VICINAL_INLINE std::uint32_t step(std::uint32_t a, T q, T r) noexcept {
    // Unsigned bytes with the same difference: GCC 12 for ARM reads the absolute difference of two signed bytes, which
    // goes up to 255, as a signed byte when it vectorises this loop.
    constexpr unsigned kShift = T(-1) < T(0) ? 0x80 : 0;
    const int d = static_cast<std::uint8_t>(static_cast<unsigned>(q) ^ kShift) -
                  static_cast<std::uint8_t>(static_cast<unsigned>(r) ^ kShift);
    return a + static_cast<std::uint32_t>(d < 0 ? -d : d);
  }
};

struct HammingBit : Base<std::uint8_t, std::uint8_t, std::uint32_t> {
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim / 8; }
  static VICINAL_INLINE std::uint32_t step(std::uint32_t a, std::uint8_t q, std::uint8_t r) noexcept {
    return a + static_cast<std::uint32_t>(__builtin_popcount(static_cast<unsigned>(q ^ r)));
  }
};

// One element to a byte: round(clamp((x - lo) * scale, 0, 255)), halves to even.
template <class Type>
struct Quantise {
  using Row = typename Type::Row;
  static constexpr std::size_t kStep = 1;
  static VICINAL_INLINE void step(const Row* x, const float* lo, const float* scale, std::uint8_t* out) noexcept {
    Row element;
    __builtin_memcpy(&element, x, sizeof element);
    float v = (Type::f32(element) - *lo) * *scale;
    v = v > 0 ? v : 0;
    *out = static_cast<std::uint8_t>(__builtin_lrintf(v < 255.0F ? v : 255.0F));
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
  using DotI8 = DotByte<std::int8_t, std::int32_t>;
  using L1I8 = L1Byte<std::int8_t>;
  using L2U8 = L2Byte<std::uint8_t>;
  using DotU8 = DotByte<std::uint8_t, std::uint32_t>;
  using L1U8 = L1Byte<std::uint8_t>;
  using Hamming = HammingBit;
  using QuantiseF32 = Quantise<F32>;
  using QuantiseF16 = Quantise<F16>;
};

}  // namespace vicinal::scalar
