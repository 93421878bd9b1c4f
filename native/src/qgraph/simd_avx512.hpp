// Vector operations of the Q search loop on AVX-512 (F, BW, VL, DQ, VNNI). Only *_avx512.cpp may include this file.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

struct Avx512 {
  using F = __m512;
  using U = __m512i;
  using M = __mmask16;
  static constexpr std::size_t kWidth = 16;

  static VICINAL_INLINE F setf(float x) noexcept { return _mm512_set1_ps(x); }
  static VICINAL_INLINE U setu(std::uint32_t x) noexcept { return _mm512_set1_epi32(static_cast<int>(x)); }
  static VICINAL_INLINE F loadf(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static VICINAL_INLINE U loadu(const std::uint32_t* p) noexcept { return _mm512_loadu_si512(p); }
  static VICINAL_INLINE void storef(float* p, F x) noexcept { _mm512_storeu_ps(p, x); }
  static VICINAL_INLINE void storeu(std::uint32_t* p, U x) noexcept { _mm512_storeu_si512(p, x); }
  static VICINAL_INLINE F load_f16(const std::uint16_t* p) noexcept {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static VICINAL_INLINE F load_u8(const std::uint8_t* p) noexcept {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static VICINAL_INLINE F load_i8(const std::int8_t* p) noexcept {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static VICINAL_INLINE F add(F a, F b) noexcept { return _mm512_add_ps(a, b); }
  static VICINAL_INLINE F sub(F a, F b) noexcept { return _mm512_sub_ps(a, b); }
  static VICINAL_INLINE F mul(F a, F b) noexcept { return _mm512_mul_ps(a, b); }
  static VICINAL_INLINE F fma(F a, F b, F c) noexcept { return _mm512_fmadd_ps(a, b, c); }
  static VICINAL_INLINE F abs(F a) noexcept { return _mm512_abs_ps(a); }
  static VICINAL_INLINE F min(F a, F b) noexcept { return _mm512_min_ps(a, b); }
  static VICINAL_INLINE F max(F a, F b) noexcept { return _mm512_max_ps(a, b); }
  static VICINAL_INLINE M lt(F a, F b) noexcept { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static VICINAL_INLINE M eq(U a, U b) noexcept { return _mm512_cmpeq_epi32_mask(a, b); }
  static VICINAL_INLINE M both(M a, M b) noexcept { return static_cast<M>(a & b); }
  static VICINAL_INLINE M but_not(M a, M b) noexcept { return static_cast<M>(a & ~b); }
  static VICINAL_INLINE std::uint32_t bits(M m) noexcept { return m; }
  static VICINAL_INLINE F pick(M m, F yes, F no) noexcept { return _mm512_mask_mov_ps(no, m, yes); }
  static VICINAL_INLINE U pick(M m, U yes, U no) noexcept { return _mm512_mask_mov_epi32(no, m, yes); }
  static VICINAL_INLINE U band(U a, U b) noexcept { return _mm512_and_si512(a, b); }
  static VICINAL_INLINE U addu(U a, U b) noexcept { return _mm512_add_epi32(a, b); }
  static VICINAL_INLINE U word_of(U bit) noexcept { return _mm512_srli_epi32(bit, 5); }
  // Whether bit (i mod 32) of each word is set.
  static VICINAL_INLINE M bit_set(U words, U i) noexcept {
    return _mm512_test_epi32_mask(words, _mm512_rolv_epi32(_mm512_set1_epi32(1), i));
  }
  // Lanes of m packed to the front; the rest is `fill`.
  static VICINAL_INLINE F pack(M m, F x, F fill) noexcept {
    const F packed = _mm512_maskz_compress_ps(m, x);
    return _mm512_mask_mov_ps(fill, first(static_cast<unsigned>(__builtin_popcount(m))), packed);
  }
  static VICINAL_INLINE U pack(M m, U x) noexcept { return _mm512_maskz_compress_epi32(m, x); }
  // The first n lanes of a, then b from its first lane on.
  static VICINAL_INLINE F concat(F a, unsigned n, F b) noexcept {
    return _mm512_mask_expand_ps(a, static_cast<M>(~first(n)), b);
  }
  static VICINAL_INLINE U concat(U a, unsigned n, U b) noexcept {
    return _mm512_mask_expand_epi32(a, static_cast<M>(~first(n)), b);
  }
  static VICINAL_INLINE M first(unsigned n) noexcept { return static_cast<M>((std::uint32_t{1} << n) - 1); }
  static VICINAL_INLINE U gather(const std::uint32_t* table, U at) noexcept {
    return _mm512_i32gather_epi32(at, table, 4);
  }
  static VICINAL_INLINE float min_of(F x) noexcept { return _mm512_reduce_min_ps(x); }
  static VICINAL_INLINE float max_of(F x) noexcept { return _mm512_reduce_max_ps(x); }
  static VICINAL_INLINE float sum_of(F x) noexcept { return _mm512_reduce_add_ps(x); }
  // The id in the first lane of x equal to `value`.
  static VICINAL_INLINE std::uint32_t id_at(F x, float value, U ids) noexcept {
    const M m = _mm512_cmp_ps_mask(x, _mm512_set1_ps(value), _CMP_EQ_OQ);
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(m, ids))));
  }

  // The Hadamard transform of the sixteen lanes.
  static VICINAL_INLINE F hadamard(F x) noexcept {
    const F one = _mm512_set1_ps(1.0F), minus = _mm512_set1_ps(-1.0F);
    x = _mm512_fmadd_ps(x, _mm512_mask_mov_ps(one, 0xAAAA, minus), _mm512_permute_ps(x, 0xB1));
    x = _mm512_fmadd_ps(x, _mm512_mask_mov_ps(one, 0xCCCC, minus), _mm512_permute_ps(x, 0x4E));
    x = _mm512_fmadd_ps(x, _mm512_mask_mov_ps(one, 0xF0F0, minus), _mm512_shuffle_f32x4(x, x, 0xB1));
    return _mm512_fmadd_ps(x, _mm512_mask_mov_ps(one, 0xFF00, minus), _mm512_shuffle_f32x4(x, x, 0x4E));
  }
  // Every lane gets the sum of its pair, of its group of four.
  static VICINAL_INLINE F sum2(F x) noexcept { return _mm512_add_ps(x, _mm512_permute_ps(x, 0xB1)); }
  static VICINAL_INLINE F sum4(F x) noexcept {
    x = sum2(x);
    return _mm512_add_ps(x, _mm512_permute_ps(x, 0x4E));
  }
  // Rounds to the nearest integers, stores them as bytes and returns them as floats.
  static VICINAL_INLINE F store_i8(std::int8_t* p, F x) noexcept {
    const __m512i rounded = _mm512_cvtps_epi32(x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(rounded));
    return _mm512_cvtepi32_ps(rounded);
  }

  // Query bytes as own_dot wants them: offset by 128 for the unsigned operand of vpdpbusd.
  static VICINAL_INLINE void prepare_own(std::int8_t* q, std::size_t padded) noexcept {
    for (std::size_t i = 0; i < padded; i += 64) {
      _mm512_storeu_si512(q + i, _mm512_xor_si512(_mm512_loadu_si512(q + i), _mm512_set1_epi8(-128)));
    }
  }
  static VICINAL_INLINE std::int32_t own_dot(const std::int8_t* own, const std::int8_t* q, std::size_t padded,
                                             std::int32_t sum) noexcept {
    __m512i a = _mm512_setzero_si512(), b = _mm512_setzero_si512();
    std::size_t i = 0;
    for (; i + 128 <= padded; i += 128) {
      a = _mm512_dpbusd_epi32(a, _mm512_load_si512(q + i), _mm512_load_si512(own + i));
      b = _mm512_dpbusd_epi32(b, _mm512_load_si512(q + i + 64), _mm512_load_si512(own + i + 64));
    }
    if (i < padded) a = _mm512_dpbusd_epi32(a, _mm512_load_si512(q + i), _mm512_load_si512(own + i));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)) - 128 * sum;
  }

  // Tables of 16 entries for each four dimensions: entry j = sum of |q_i| over the dimensions whose sign agrees with
  // bit i of j.
  static VICINAL_INLINE void build_tables(const std::int8_t* q, std::size_t padded, std::uint8_t* tables) noexcept {
    const __m512i lane =
        _mm512_set_epi32(0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x08080808, 0x08080808, 0x08080808, 0x08080808,
                         0x04040404, 0x04040404, 0x04040404, 0x04040404, 0, 0, 0, 0);
    const __m512i one = _mm512_set1_epi8(1);
    for (std::size_t i = 0; i < padded; i += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
      const __m512i four = _mm512_broadcast_i32x4(bytes);
      const __m512i negative =
          _mm512_broadcast_i32x4(_mm_max_epi8(_mm_sub_epi8(_mm_setzero_si128(), bytes), _mm_setzero_si128()));
      __m512i entry = _mm512_dpbusd_epi32(_mm512_setzero_si512(), negative, one);
      entry = _mm512_shuffle_epi8(entry, lane);
      entry = _mm512_mask_add_epi8(entry, 0xAAAAAAAAAAAAAAAAULL, entry, _mm512_shuffle_epi8(four, lane));
      const __m512i lane1 = _mm512_add_epi8(lane, one);
      entry = _mm512_mask_add_epi8(entry, 0xCCCCCCCCCCCCCCCCULL, entry, _mm512_shuffle_epi8(four, lane1));
      const __m512i lane2 = _mm512_add_epi8(lane1, one);
      entry = _mm512_mask_add_epi8(entry, 0xF0F0F0F0F0F0F0F0ULL, entry, _mm512_shuffle_epi8(four, lane2));
      const __m512i lane3 = _mm512_add_epi8(lane2, one);
      entry = _mm512_mask_add_epi8(entry, 0xFF00FF00FF00FF00ULL, entry, _mm512_shuffle_epi8(four, lane3));
      _mm512_storeu_si512(tables + 4 * i, entry);
    }
  }

  // out[0..1] = the sums of n look-ups of the 32 neighbours of one block. For each 16 of them so many lines are
  // fetched.
  static VICINAL_INLINE void scan(const std::uint8_t* codes, const std::uint8_t* tables, std::size_t n,
                                  const std::byte* fetch, std::size_t lines, F* out) noexcept {
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i even = _mm512_set1_epi16(255);
    __m512i low_even = _mm512_setzero_si512(), low_odd = low_even, high_even = low_even, high_odd = low_even;
    for (std::size_t i = 0; i < 16 * n; i += 256) {
      for (std::size_t j = 0; j < lines; ++j, fetch += 64) prefetch_next(fetch);
      __m512i low = _mm512_setzero_si512(), high = low;
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j) {  // 4 entries of at most 63 fit a byte
        const __m512i code = _mm512_load_si512(codes + i + 64 * j);
        const __m512i table = _mm512_load_si512(tables + i + 64 * j);
        low = _mm512_add_epi8(low, _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble)));
        high = _mm512_add_epi8(high, _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble)));
      }
      low_even = _mm512_add_epi16(low_even, _mm512_and_si512(low, even));
      low_odd = _mm512_add_epi16(low_odd, _mm512_srli_epi16(low, 8));
      high_even = _mm512_add_epi16(high_even, _mm512_and_si512(high, even));
      high_odd = _mm512_add_epi16(high_odd, _mm512_srli_epi16(high, 8));
    }
    const __m512i low =
        _mm512_add_epi16(_mm512_shuffle_i64x2(low_even, low_odd, 0x44), _mm512_shuffle_i64x2(low_even, low_odd, 0xEE));
    const __m512i high = _mm512_add_epi16(_mm512_shuffle_i64x2(high_even, high_odd, 0x44),
                                          _mm512_shuffle_i64x2(high_even, high_odd, 0xEE));
    const __m512i sums = _mm512_add_epi16(_mm512_shuffle_i64x2(low, high, 0x88), _mm512_shuffle_i64x2(low, high, 0xDD));
    out[0] = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums)));
    out[1] = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sums, 1)));
  }
};

}  // namespace vicinal::qgraph

#endif
