// AVX-512 kernels (F, BW, VL, DQ, VNNI, VPOPCNTDQ, BITALG). Only files named *_avx512.cpp may include this header.
//
// vpdpbusd multiplies unsigned by signed bytes and sums four products without saturation. Two operands of the same
// signedness are brought to that form by flipping the top bit of one of them, which adds or takes 128; what this
// changes in the sum is a multiple of a sum that is kept beside it. Sums are modulo 2^32, exact for dim <= 65536.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && \
    defined(__AVX512VPOPCNTDQ__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "distance/kernel_loops.hpp"

namespace vicinal::avx512 {

VICINAL_INLINE __mmask64 first_bytes(std::size_t count) noexcept { return ~__mmask64{0} >> (64 - count); }

// Not _mm512_reduce_add_epi32: GCC writes its last addition in int, which may overflow; these lanes wrap.
VICINAL_INLINE std::uint32_t sum_u32(__m512i v) noexcept {
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1))));
}

// Loads of the two float row types as sixteen floats.
struct F32 {
  using Row = float;
  static VICINAL_INLINE __m512 load(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static VICINAL_INLINE __m512 tail(const float* p, std::size_t i, std::size_t n) noexcept {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << (n - i)) - 1), p + i);
  }
};
struct F16 {
  using Row = std::uint16_t;
  static VICINAL_INLINE __m512 load(const Row* p) noexcept {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static VICINAL_INLINE __m512 tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << (n - i)) - 1), p + i));
  }
};

template <class Type, class QueryType = F32>
struct FloatOp {
  using Query = typename QueryType::Row;
  using Row = typename Type::Row;
  using Acc = __m512;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 16;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return _mm512_setzero_ps(); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE __m512 query(const Query* p) noexcept { return QueryType::load(p); }
  static VICINAL_INLINE __m512 query_tail(const Query* p, std::size_t i, std::size_t n) noexcept {
    return QueryType::tail(p, i, n);
  }
  static VICINAL_INLINE __m512 row(const Row* p) noexcept { return Type::load(p); }
  static VICINAL_INLINE __m512 row_tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    return Type::tail(p, i, n);
  }
  static VICINAL_INLINE Shared note(Shared s, __m512 /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return _mm512_add_ps(a, b); }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return _mm512_reduce_add_ps(a); }
};

template <class Type, class QueryType = F32>
struct L2Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m512 step(__m512 a, __m512 q, __m512 r) noexcept {
    const __m512 d = _mm512_sub_ps(q, r);
    return _mm512_fmadd_ps(d, d, a);
  }
};
template <class Type, class QueryType = F32>
struct DotFloat : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m512 step(__m512 a, __m512 q, __m512 r) noexcept { return _mm512_fmadd_ps(q, r, a); }
};
template <class Type, class QueryType = F32>
struct L1Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m512 step(__m512 a, __m512 q, __m512 r) noexcept {
    return _mm512_add_ps(a, _mm512_abs_ps(_mm512_sub_ps(q, r)));
  }
};

template <class T>
struct ByteOp {
  using Query = T;
  using Row = T;
  using Acc = __m512i;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 64;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return _mm512_setzero_si512(); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE __m512i query(const T* p) noexcept { return _mm512_loadu_si512(p); }
  static VICINAL_INLINE __m512i query_tail(const T* p, std::size_t i, std::size_t n) noexcept {
    return _mm512_maskz_loadu_epi8(first_bytes(n - i), p + i);
  }
  static VICINAL_INLINE __m512i row(const T* p) noexcept { return query(p); }
  static VICINAL_INLINE __m512i row_tail(const T* p, std::size_t i, std::size_t n) noexcept {
    return query_tail(p, i, n);
  }
  static VICINAL_INLINE Shared note(Shared s, __m512i /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
};

VICINAL_INLINE __m512i flip_top(__m512i v) noexcept { return _mm512_xor_si512(v, _mm512_set1_epi8(-128)); }

// |q - r| as unsigned bytes.
template <class T>
VICINAL_INLINE __m512i absolute_difference(__m512i q, __m512i r) noexcept {
  if constexpr (T(-1) < T(0)) return _mm512_sub_epi8(_mm512_max_epi8(q, r), _mm512_min_epi8(q, r));
  return _mm512_sub_epi8(_mm512_max_epu8(q, r), _mm512_min_epu8(q, r));
}

// sum d^2 = sum d (d - 128) + 128 sum d, with d - 128 as a signed byte.
template <class T>
struct L2Byte : ByteOp<T> {
  struct Acc {
    __m512i products;
    __m512i sum;
  };
  static VICINAL_INLINE Acc zero() noexcept { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  static VICINAL_INLINE Acc step(Acc a, __m512i q, __m512i r) noexcept {
    const __m512i d = absolute_difference<T>(q, r);
    return {_mm512_dpbusd_epi32(a.products, d, flip_top(d)), _mm512_dpbusd_epi32(a.sum, d, _mm512_set1_epi8(1))};
  }
  static VICINAL_INLINE Nothing join(Nothing a, Nothing /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept {
    return {_mm512_add_epi32(a.products, b.products), _mm512_add_epi32(a.sum, b.sum)};
  }
  static VICINAL_INLINE float total(Acc a, Nothing /*s*/) noexcept {
    return static_cast<float>(sum_u32(_mm512_add_epi32(a.products, _mm512_slli_epi32(a.sum, 7))));
  }
};

// sum q r = sum (r + 128) q - 128 sum q; the last sum belongs to the query alone.
struct DotI8 : ByteOp<std::int8_t> {
  using Shared = __m512i;
  static VICINAL_INLINE Shared nothing() noexcept { return _mm512_setzero_si512(); }
  static VICINAL_INLINE __m512i note(__m512i s, __m512i q) noexcept {
    return _mm512_dpbusd_epi32(s, _mm512_set1_epi8(1), q);
  }
  static VICINAL_INLINE __m512i step(__m512i a, __m512i q, __m512i r) noexcept {
    return _mm512_dpbusd_epi32(a, flip_top(r), q);
  }
  static VICINAL_INLINE __m512i join(__m512i a, __m512i b) noexcept { return _mm512_add_epi32(a, b); }
  static VICINAL_INLINE float total(__m512i a, __m512i s) noexcept {
    return static_cast<float>(static_cast<std::int32_t>(sum_u32(_mm512_sub_epi32(a, _mm512_slli_epi32(s, 7)))));
  }
};

// sum q r = sum q (r - 128) + 128 sum q.
struct DotU8 : ByteOp<std::uint8_t> {
  using Shared = __m512i;
  static VICINAL_INLINE Shared nothing() noexcept { return _mm512_setzero_si512(); }
  static VICINAL_INLINE __m512i note(__m512i s, __m512i q) noexcept {
    return _mm512_dpbusd_epi32(s, q, _mm512_set1_epi8(1));
  }
  static VICINAL_INLINE __m512i step(__m512i a, __m512i q, __m512i r) noexcept {
    return _mm512_dpbusd_epi32(a, q, flip_top(r));
  }
  static VICINAL_INLINE __m512i join(__m512i a, __m512i b) noexcept { return _mm512_add_epi32(a, b); }
  static VICINAL_INLINE float total(__m512i a, __m512i s) noexcept {
    return static_cast<float>(sum_u32(_mm512_add_epi32(a, _mm512_slli_epi32(s, 7))));
  }
};

// 64-bit lanes, as sums of absolute differences and population counts leave them.
template <class T>
struct WideOp : ByteOp<T> {
  static VICINAL_INLINE __m512i join(__m512i a, __m512i b) noexcept { return _mm512_add_epi64(a, b); }
  static VICINAL_INLINE Nothing join(Nothing a, Nothing /*b*/) noexcept { return a; }
  static VICINAL_INLINE float total(__m512i a, Nothing /*s*/) noexcept {
    return static_cast<float>(_mm512_reduce_add_epi64(a));
  }
};

template <class T>
struct L1Byte : WideOp<T> {
  static VICINAL_INLINE __m512i step(__m512i a, __m512i q, __m512i r) noexcept {
    const __m512i d = absolute_difference<T>(q, r);
    return _mm512_add_epi64(a, _mm512_sad_epu8(d, _mm512_setzero_si512()));
  }
};

struct HammingBit : WideOp<std::uint8_t> {
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim / 8; }
  static VICINAL_INLINE __m512i step(__m512i a, __m512i q, __m512i r) noexcept {
    return _mm512_add_epi64(a, _mm512_popcnt_epi64(_mm512_xor_si512(q, r)));
  }
};

// Sixteen elements to bytes: round(clamp((x - lo) * scale, 0, 255)), halves to even.
template <class Type>
struct Quantise {
  using Row = typename Type::Row;
  static constexpr std::size_t kStep = 16;
  static VICINAL_INLINE void step(const Row* x, const float* lo, const float* scale, std::uint8_t* out) noexcept {
    __m512 v = _mm512_mul_ps(_mm512_sub_ps(Type::load(x), _mm512_loadu_ps(lo)), _mm512_loadu_ps(scale));
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(255.0F));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
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
  using DotI8 = avx512::DotI8;
  using L1I8 = L1Byte<std::int8_t>;
  using L2U8 = L2Byte<std::uint8_t>;
  using DotU8 = avx512::DotU8;
  using L1U8 = L1Byte<std::uint8_t>;
  using Hamming = HammingBit;
  using QuantiseF32 = Quantise<F32>;
  using QuantiseF16 = Quantise<F16>;
};

}  // namespace vicinal::avx512

#endif
