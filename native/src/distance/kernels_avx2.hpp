// AVX2 kernels (with FMA and F16C). Only files named *_avx2.cpp, compiled with these flags, may include this header.
//
// Byte kernels widen to 16 bits before they multiply, since maddubs saturates; sums are modulo 2^32, exact for
// dim <= 65536 (see kernels_scalar.hpp). Tails: a row of at least one vector re-reads its last full vector with the
// elements already counted masked to zero; a shorter one is put together of smaller loads that overlap (a copy in
// memory would wait for its stores: 12 ns a row). Nothing past the row is read.
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "distance/kernel_loops.hpp"

namespace vicinal::avx2 {

// A vector loaded at kKeepLast + rem keeps the last rem bytes of 32 (at kKeepLast + 16 + rem: of 16).
alignas(64) inline constexpr std::uint8_t kKeepLast[64] = {
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

VICINAL_INLINE __m256i load256(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
VICINAL_INLINE __m128i load128(const void* p) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

template <class T>
VICINAL_INLINE std::uint64_t load_as(const std::uint8_t* p) noexcept {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The n bytes (1 to 8) at p, zeros behind them.
VICINAL_INLINE std::uint64_t short64(const std::uint8_t* p, std::size_t n) noexcept {
  if (n == 8) return load_as<std::uint64_t>(p);
  if (n >= 4) return load_as<std::uint32_t>(p) | load_as<std::uint32_t>(p + n - 4) << 8 * (n - 4);
  return std::uint64_t{p[0]} | std::uint64_t{p[n / 2]} << 8 * (n / 2) | std::uint64_t{p[n - 1]} << 8 * (n - 1);
}

// The n bytes (1 to 15) at p, zeros behind them.
VICINAL_INLINE __m128i short128(const std::uint8_t* p, std::size_t n) noexcept {
  if (n <= 8) return _mm_cvtsi64_si128(static_cast<long long>(short64(p, n)));
  const std::uint64_t high = load_as<std::uint64_t>(p + n - 8) >> 8 * (16 - n);
  return _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(load_as<std::uint64_t>(p)));
}

// The last n - i (1 to 15) bytes of p[0, n), zeros elsewhere.
VICINAL_INLINE __m128i tail128(const void* p, std::size_t i, std::size_t n) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(p);
  if (n >= 16) return _mm_and_si128(load128(bytes + n - 16), load128(kKeepLast + 16 + (n - i)));
  return short128(bytes + i, n - i);
}

// The last n - i (1 to 31) bytes of p[0, n), zeros elsewhere.
VICINAL_INLINE __m256i tail256(const void* p, std::size_t i, std::size_t n) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(p);
  if (n >= 32) return _mm256_and_si256(load256(bytes + n - 32), load256(kKeepLast + (n - i)));
  const std::size_t rest = n - i;
  if (rest < 16) return _mm256_zextsi128_si256(short128(bytes + i, rest));
  const __m128i low = load128(bytes + i);
  return rest == 16 ? _mm256_zextsi128_si256(low) : _mm256_set_m128i(short128(bytes + i + 16, rest - 16), low);
}

VICINAL_INLINE float sum_f32(__m256 v) noexcept {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
VICINAL_INLINE std::uint32_t sum_u32(__m256i v) noexcept {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1))));
}
VICINAL_INLINE std::uint64_t sum_u64(__m256i v) noexcept {
  const __m128i s = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_add_epi64(s, _mm_unpackhi_epi64(s, s))));
}

// Loads of the two float row types as eight floats.
struct F32 {
  using Row = float;
  static VICINAL_INLINE __m256 load(const float* p) noexcept { return _mm256_loadu_ps(p); }
  static VICINAL_INLINE __m256 tail(const float* p, std::size_t i, std::size_t n) noexcept {
    const __m256i keep = load256(kKeepLast + 4 * (n - i));
    if (n >= 8) return _mm256_and_ps(_mm256_loadu_ps(p + n - 8), _mm256_castsi256_ps(keep));
    return _mm256_castsi256_ps(tail256(p, 4 * i, 4 * n));
  }
};
struct F16 {
  using Row = std::uint16_t;
  static VICINAL_INLINE __m256 load(const Row* p) noexcept { return _mm256_cvtph_ps(load128(p)); }
  static VICINAL_INLINE __m256 tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    return _mm256_cvtph_ps(tail128(p, 2 * i, 2 * n));
  }
};

template <class Type, class QueryType = F32>
struct FloatOp {
  using Query = typename QueryType::Row;
  using Row = typename Type::Row;
  using Acc = __m256;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 8;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return _mm256_setzero_ps(); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE __m256 query(const Query* p) noexcept { return QueryType::load(p); }
  static VICINAL_INLINE __m256 query_tail(const Query* p, std::size_t i, std::size_t n) noexcept {
    return QueryType::tail(p, i, n);
  }
  static VICINAL_INLINE __m256 row(const Row* p) noexcept { return Type::load(p); }
  static VICINAL_INLINE __m256 row_tail(const Row* p, std::size_t i, std::size_t n) noexcept {
    return Type::tail(p, i, n);
  }
  static VICINAL_INLINE Shared note(Shared s, __m256 /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return _mm256_add_ps(a, b); }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return sum_f32(a); }
};

template <class Type, class QueryType = F32>
struct L2Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m256 step(__m256 a, __m256 q, __m256 r) noexcept {
    const __m256 d = _mm256_sub_ps(q, r);
    return _mm256_fmadd_ps(d, d, a);
  }
};
template <class Type, class QueryType = F32>
struct DotFloat : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m256 step(__m256 a, __m256 q, __m256 r) noexcept { return _mm256_fmadd_ps(q, r, a); }
};
template <class Type, class QueryType = F32>
struct L1Float : FloatOp<Type, QueryType> {
  static VICINAL_INLINE __m256 step(__m256 a, __m256 q, __m256 r) noexcept {
    const __m256 d = _mm256_sub_ps(q, r);
    return _mm256_add_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0F), d));
  }
};

template <class T>
struct ByteOp {
  using Query = T;
  using Row = T;
  using Acc = __m256i;
  using Shared = Nothing;
  static constexpr std::size_t kStep = 32;
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim; }
  static VICINAL_INLINE Acc zero() noexcept { return _mm256_setzero_si256(); }
  static VICINAL_INLINE Shared nothing() noexcept { return {}; }
  static VICINAL_INLINE __m256i query(const T* p) noexcept { return load256(p); }
  static VICINAL_INLINE __m256i query_tail(const T* p, std::size_t i, std::size_t n) noexcept {
    return tail256(p, i, n);
  }
  static VICINAL_INLINE __m256i row(const T* p) noexcept { return load256(p); }
  static VICINAL_INLINE __m256i row_tail(const T* p, std::size_t i, std::size_t n) noexcept { return tail256(p, i, n); }
  static VICINAL_INLINE Shared note(Shared s, __m256i /*q*/) noexcept { return s; }
  static VICINAL_INLINE Shared join(Shared a, Shared /*b*/) noexcept { return a; }
  static VICINAL_INLINE Acc join(Acc a, Acc b) noexcept { return _mm256_add_epi32(a, b); }
  static VICINAL_INLINE float total(Acc a, Shared /*s*/) noexcept { return static_cast<float>(sum_u32(a)); }
};

// |q - r| as unsigned bytes. Signed bytes shifted by 128 have the same differences.
template <class T>
VICINAL_INLINE __m256i absolute_difference(__m256i q, __m256i r) noexcept {
  if constexpr (T(-1) < T(0)) return _mm256_sub_epi8(_mm256_max_epi8(q, r), _mm256_min_epi8(q, r));
  return _mm256_sub_epi8(_mm256_max_epu8(q, r), _mm256_min_epu8(q, r));
}

template <class T>
struct L2Byte : ByteOp<T> {
  static VICINAL_INLINE __m256i step(__m256i a, __m256i q, __m256i r) noexcept {
    const __m256i d = absolute_difference<T>(q, r);
    const __m256i lo = _mm256_unpacklo_epi8(d, _mm256_setzero_si256());
    const __m256i hi = _mm256_unpackhi_epi8(d, _mm256_setzero_si256());
    return _mm256_add_epi32(a, _mm256_add_epi32(_mm256_madd_epi16(lo, lo), _mm256_madd_epi16(hi, hi)));
  }
};

struct DotU8 : ByteOp<std::uint8_t> {
  static VICINAL_INLINE __m256i step(__m256i a, __m256i q, __m256i r) noexcept {
    const __m256i none = _mm256_setzero_si256();
    const __m256i lo = _mm256_madd_epi16(_mm256_unpacklo_epi8(q, none), _mm256_unpacklo_epi8(r, none));
    const __m256i hi = _mm256_madd_epi16(_mm256_unpackhi_epi8(q, none), _mm256_unpackhi_epi8(r, none));
    return _mm256_add_epi32(a, _mm256_add_epi32(lo, hi));
  }
};

// Sixteen signed bytes at a time: the sign extension reads memory directly.
struct DotI8 : ByteOp<std::int8_t> {
  static constexpr std::size_t kStep = 16;
  static VICINAL_INLINE __m256i query(const std::int8_t* p) noexcept { return _mm256_cvtepi8_epi16(load128(p)); }
  static VICINAL_INLINE __m256i query_tail(const std::int8_t* p, std::size_t i, std::size_t n) noexcept {
    return _mm256_cvtepi8_epi16(tail128(p, i, n));
  }
  static VICINAL_INLINE __m256i row(const std::int8_t* p) noexcept { return query(p); }
  static VICINAL_INLINE __m256i row_tail(const std::int8_t* p, std::size_t i, std::size_t n) noexcept {
    return query_tail(p, i, n);
  }
  static VICINAL_INLINE __m256i step(__m256i a, __m256i q, __m256i r) noexcept {
    return _mm256_add_epi32(a, _mm256_madd_epi16(q, r));
  }
  static VICINAL_INLINE float total(__m256i a, Nothing /*s*/) noexcept {
    return static_cast<float>(static_cast<std::int32_t>(sum_u32(a)));
  }
};

// 64-bit lanes, as the sum of absolute differences leaves them.
template <class T>
struct WideOp : ByteOp<T> {
  static VICINAL_INLINE __m256i join(__m256i a, __m256i b) noexcept { return _mm256_add_epi64(a, b); }
  static VICINAL_INLINE Nothing join(Nothing a, Nothing /*b*/) noexcept { return a; }
  static VICINAL_INLINE float total(__m256i a, Nothing /*s*/) noexcept { return static_cast<float>(sum_u64(a)); }
};

template <class T>
struct L1Byte : WideOp<T> {
  static VICINAL_INLINE __m256i step(__m256i a, __m256i q, __m256i r) noexcept {
    const __m256i d = absolute_difference<T>(q, r);
    return _mm256_add_epi64(a, _mm256_sad_epu8(d, _mm256_setzero_si256()));
  }
};

struct HammingBit : WideOp<std::uint8_t> {
  static constexpr std::size_t extent(std::size_t dim) noexcept { return dim / 8; }
  static VICINAL_INLINE __m256i step(__m256i a, __m256i q, __m256i r) noexcept {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    const __m256i x = _mm256_xor_si256(q, r);
    const __m256i lo = _mm256_shuffle_epi8(counts, _mm256_and_si256(x, nibble));
    const __m256i hi = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    return _mm256_add_epi64(a, _mm256_sad_epu8(_mm256_add_epi8(lo, hi), _mm256_setzero_si256()));
  }
};

// Eight elements to bytes: round(clamp((x - lo) * scale, 0, 255)), halves to even.
template <class Type>
struct Quantise {
  using Row = typename Type::Row;
  static constexpr std::size_t kStep = 8;
  static VICINAL_INLINE void step(const Row* x, const float* lo, const float* scale, std::uint8_t* out) noexcept {
    __m256 v = _mm256_mul_ps(_mm256_sub_ps(Type::load(x), _mm256_loadu_ps(lo)), _mm256_loadu_ps(scale));
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), _mm256_set1_ps(255.0F));
    const __m256i w = _mm256_cvtps_epi32(v);
    const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(h, h));
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
  using DotI8 = avx2::DotI8;
  using L1I8 = L1Byte<std::int8_t>;
  using L2U8 = L2Byte<std::uint8_t>;
  using DotU8 = avx2::DotU8;
  using L1U8 = L1Byte<std::uint8_t>;
  using Hamming = HammingBit;
  using QuantiseF32 = Quantise<F32>;
  using QuantiseF16 = Quantise<F16>;
};

}  // namespace vicinal::avx2

#endif
