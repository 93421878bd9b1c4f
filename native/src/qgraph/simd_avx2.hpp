// Vector operations of the Q search loop on AVX2, FMA and F16C. Only *_avx2.cpp may include this file.
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

struct Avx2 {
  using F = __m256;
  using U = __m256i;
  using M = __m256;  // all bits of a lane, or none
  static constexpr std::size_t kWidth = 8;

  static VICINAL_INLINE F setf(float x) noexcept { return _mm256_set1_ps(x); }
  static VICINAL_INLINE U setu(std::uint32_t x) noexcept { return _mm256_set1_epi32(static_cast<int>(x)); }
  static VICINAL_INLINE F loadf(const float* p) noexcept { return _mm256_loadu_ps(p); }
  static VICINAL_INLINE U loadu(const std::uint32_t* p) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static VICINAL_INLINE void storef(float* p, F x) noexcept { _mm256_storeu_ps(p, x); }
  static VICINAL_INLINE void storeu(std::uint32_t* p, U x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static VICINAL_INLINE F load_f16(const std::uint16_t* p) noexcept {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static VICINAL_INLINE F load_u8(const std::uint8_t* p) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static VICINAL_INLINE F load_i8(const std::int8_t* p) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static VICINAL_INLINE F add(F a, F b) noexcept { return _mm256_add_ps(a, b); }
  static VICINAL_INLINE F sub(F a, F b) noexcept { return _mm256_sub_ps(a, b); }
  static VICINAL_INLINE F mul(F a, F b) noexcept { return _mm256_mul_ps(a, b); }
  static VICINAL_INLINE F fma(F a, F b, F c) noexcept { return _mm256_fmadd_ps(a, b, c); }
  static VICINAL_INLINE F abs(F a) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  static VICINAL_INLINE F min(F a, F b) noexcept { return _mm256_min_ps(a, b); }
  static VICINAL_INLINE F max(F a, F b) noexcept { return _mm256_max_ps(a, b); }
  static VICINAL_INLINE M lt(F a, F b) noexcept { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static VICINAL_INLINE M eq(U a, U b) noexcept { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
  static VICINAL_INLINE M both(M a, M b) noexcept { return _mm256_and_ps(a, b); }
  static VICINAL_INLINE M but_not(M a, M b) noexcept { return _mm256_andnot_ps(b, a); }
  static VICINAL_INLINE std::uint32_t bits(M m) noexcept { return static_cast<std::uint32_t>(_mm256_movemask_ps(m)); }
  static VICINAL_INLINE F pick(M m, F yes, F no) noexcept { return _mm256_blendv_ps(no, yes, m); }
  static VICINAL_INLINE U pick(M m, U yes, U no) noexcept {
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no), _mm256_castsi256_ps(yes), m));
  }
  static VICINAL_INLINE U band(U a, U b) noexcept { return _mm256_and_si256(a, b); }
  static VICINAL_INLINE U addu(U a, U b) noexcept { return _mm256_add_epi32(a, b); }
  static VICINAL_INLINE U word_of(U bit) noexcept { return _mm256_srli_epi32(bit, 5); }
  // Whether bit (i mod 32) of each word is set.
  static VICINAL_INLINE M bit_set(U words, U i) noexcept {
    const U place = _mm256_andnot_si256(i, _mm256_set1_epi32(31));  // the bit comes to be the sign
    return _mm256_castsi256_ps(_mm256_srai_epi32(_mm256_sllv_epi32(words, place), 31));
  }
  static VICINAL_INLINE __m256i order(std::uint32_t mask) noexcept {
    const std::uint64_t lanes = _pext_u64(0x0706050403020100ULL, _pdep_u64(mask, 0x0101010101010101ULL) * 0xFF);
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(lanes)));
  }
  static VICINAL_INLINE F pack(M m, F x, F fill) noexcept {
    const std::uint32_t mask = bits(m);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(__builtin_popcount(mask)), lane);
    return _mm256_blendv_ps(fill, _mm256_permutevar8x32_ps(x, order(mask)), _mm256_castsi256_ps(kept));
  }
  static VICINAL_INLINE U pack(M m, U x) noexcept { return _mm256_permutevar8x32_epi32(x, order(bits(m))); }
  static VICINAL_INLINE U gather(const std::uint32_t* table, U at) noexcept {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), at, 4);
  }
  static VICINAL_INLINE float min_of(F x) noexcept {
    __m128 r = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_min_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_min_ss(r, _mm_movehdup_ps(r)));
  }
  static VICINAL_INLINE float max_of(F x) noexcept {
    __m128 r = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_max_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
  }
  static VICINAL_INLINE float sum_of(F x) noexcept {
    __m128 r = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
  }
  static VICINAL_INLINE std::uint32_t id_at(F x, float value, U ids) noexcept {
    const std::uint32_t mask = bits(_mm256_cmp_ps(x, _mm256_set1_ps(value), _CMP_EQ_OQ));
    const __m256i at = _mm256_castsi128_si256(_mm_cvtsi32_si128(__builtin_ctz(mask)));
    return static_cast<std::uint32_t>(_mm256_cvtsi256_si32(_mm256_permutevar8x32_epi32(ids, at)));
  }

  static VICINAL_INLINE F hadamard(F x) noexcept {
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(x, 0xB1));
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(x, 0x4E));
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), _mm256_permute2f128_ps(x, x, 1));
  }
  static VICINAL_INLINE F sum2(F x) noexcept { return _mm256_add_ps(x, _mm256_permute_ps(x, 0xB1)); }
  static VICINAL_INLINE F sum4(F x) noexcept {
    x = sum2(x);
    return _mm256_add_ps(x, _mm256_permute_ps(x, 0x4E));
  }
  static VICINAL_INLINE F store_i8(std::int8_t* p, F x) noexcept {
    const __m256i rounded = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    return _mm256_cvtepi32_ps(rounded);
  }

  static VICINAL_INLINE void prepare_own(std::int8_t*, std::size_t) noexcept {}
  // Codes are within +-127, so a pair of products stays inside 16 bits.
  static VICINAL_INLINE std::int32_t own_dot(const std::int8_t* own, const std::int8_t* q, std::size_t padded,
                                             std::int32_t) noexcept {
    const __m256i one = _mm256_set1_epi16(1);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (std::size_t i = 0; i < padded; i += 64) {
      const __m256i q0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(q + i));
      const __m256i q1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(q + i + 32));
      const __m256i p0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(own + i));
      const __m256i p1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(own + i + 32));
      const __m256i m0 = _mm256_maddubs_epi16(_mm256_abs_epi8(q0), _mm256_sign_epi8(p0, q0));
      const __m256i m1 = _mm256_maddubs_epi16(_mm256_abs_epi8(q1), _mm256_sign_epi8(p1, q1));
      a = _mm256_add_epi32(a, _mm256_madd_epi16(m0, one));
      b = _mm256_add_epi32(b, _mm256_madd_epi16(m1, one));
    }
    a = _mm256_add_epi32(a, b);
    __m128i r = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    r = _mm_add_epi32(r, _mm_shuffle_epi32(r, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(r, _mm_shuffle_epi32(r, 0xB1)));
  }

  static VICINAL_INLINE void build_tables(const std::int8_t* q, std::size_t padded, std::uint8_t* tables) noexcept {
    const __m256i lane = _mm256_setr_epi32(0, 0, 0, 0, 0x04040404, 0x04040404, 0x04040404, 0x04040404);
    const __m256i one = _mm256_set1_epi8(1);
    const __m256i bit0 = _mm256_set1_epi16(static_cast<short>(0xFF00));
    const __m256i bit1 = _mm256_set1_epi32(static_cast<int>(0xFFFF0000));
    const __m256i bit2 = _mm256_set1_epi64x(static_cast<long long>(0xFFFFFFFF00000000));
    const __m256i bit3 = _mm256_setr_epi64x(0, -1, 0, -1);
    for (std::size_t i = 0; i < padded; i += 8) {
      const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i)));
      const __m256i negative = _mm256_max_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), bytes), _mm256_setzero_si256());
      const __m256i two = _mm256_maddubs_epi16(negative, one);
      // Sums of four fit a byte; the pairs' sums stand in even bytes.
      __m256i entry = _mm256_add_epi8(_mm256_shuffle_epi8(two, lane),
                                      _mm256_shuffle_epi8(two, _mm256_add_epi8(lane, _mm256_set1_epi8(2))));
      const __m256i lane1 = _mm256_add_epi8(lane, one), lane2 = _mm256_add_epi8(lane1, one);
      const __m256i lane3 = _mm256_add_epi8(lane2, one);
      entry = _mm256_add_epi8(entry, _mm256_and_si256(_mm256_shuffle_epi8(bytes, lane), bit0));
      entry = _mm256_add_epi8(entry, _mm256_and_si256(_mm256_shuffle_epi8(bytes, lane1), bit1));
      entry = _mm256_add_epi8(entry, _mm256_and_si256(_mm256_shuffle_epi8(bytes, lane2), bit2));
      entry = _mm256_add_epi8(entry, _mm256_and_si256(_mm256_shuffle_epi8(bytes, lane3), bit3));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(tables + 4 * i), entry);
    }
  }

  static VICINAL_INLINE void scan(const std::uint8_t* codes, const std::uint8_t* tables, std::size_t n,
                                  const std::byte* fetch, std::size_t lines, F* out) noexcept {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i even = _mm256_set1_epi16(255);
    __m256i low_even = _mm256_setzero_si256(), low_odd = low_even, high_even = low_even, high_odd = low_even;
    for (std::size_t i = 0; i < 16 * n; i += 128) {
      if (i % 256 == 0) {
        for (std::size_t j = 0; j < lines; ++j, fetch += 64) prefetch_next(fetch);
      }
      __m256i low = _mm256_setzero_si256(), high = low;
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j) {  // 4 entries of at most 63 fit a byte
        const __m256i code = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + i + 32 * j));
        const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(tables + i + 32 * j));
        low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
        high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble)));
      }
      low_even = _mm256_add_epi16(low_even, _mm256_and_si256(low, even));
      low_odd = _mm256_add_epi16(low_odd, _mm256_srli_epi16(low, 8));
      high_even = _mm256_add_epi16(high_even, _mm256_and_si256(high, even));
      high_odd = _mm256_add_epi16(high_odd, _mm256_srli_epi16(high, 8));
    }
    const auto fold = [](__m256i x) {
      const __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
      return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sum));
    };
    out[0] = fold(low_even);
    out[1] = fold(low_odd);
    out[2] = fold(high_even);
    out[3] = fold(high_odd);
  }
};

}  // namespace vicinal::qgraph

#endif
