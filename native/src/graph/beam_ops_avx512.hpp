// Building blocks of the beam search for AVX-512 (F, BW, VL, DQ, VNNI, VPOPCNTDQ).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "graph/view.hpp"

namespace vicinal::graph::avx512 {

struct Ops {
  template <CodeKind kind>
  static inline __m512i accumulate(__m512i sum, __m512i a, __m512i b) noexcept {
    if constexpr (kind == CodeKind::l2_f32) {
      const __m512 d = _mm512_sub_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
      return _mm512_castps_si512(_mm512_fmadd_ps(d, d, _mm512_castsi512_ps(sum)));
    } else if constexpr (kind == CodeKind::l1_f32) {
      const __m512 d = _mm512_sub_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
      return _mm512_castps_si512(_mm512_add_ps(_mm512_abs_ps(d), _mm512_castsi512_ps(sum)));
    } else if constexpr (kind == CodeKind::dot_u8) {
      return _mm512_dpbusd_epi32(sum, b, a);
    } else if constexpr (kind == CodeKind::hamming) {
      return _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(a, b)));
    } else if constexpr (kind == CodeKind::l1_u8) {
      return _mm512_add_epi64(sum, _mm512_sad_epu8(a, b));
    } else {
      const __m512i d = _mm512_sub_epi8(_mm512_max_epu8(a, b), _mm512_min_epu8(a, b));
      const __m512i zero = _mm512_setzero_si512();
      const __m512i low = _mm512_unpacklo_epi8(d, zero);
      const __m512i high = _mm512_unpackhi_epi8(d, zero);
      return _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum, low, low), high, high);
    }
  }

  template <CodeKind kind>
  static inline std::int32_t reduce(__m512i sum) noexcept {
    if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      const float total = _mm512_reduce_add_ps(_mm512_castsi512_ps(sum));
      std::int32_t bits = 0;
      __builtin_memcpy(&bits, &total, sizeof(bits));
      return bits;
    }
    if constexpr (kind == CodeKind::l2_u8) return _mm512_reduce_add_epi32(sum);
    if constexpr (kind == CodeKind::dot_u8) return kDotBase - _mm512_reduce_add_epi32(sum);
    return static_cast<std::int32_t>(_mm512_reduce_add_epi64(sum));
  }

  template <CodeKind kind>
  static inline void keys(const GraphView& g, const std::byte* query, const std::uint32_t* rows, std::size_t n,
                          std::int32_t* out) noexcept {
    const std::size_t whole = g.code_bytes & ~std::size_t{63};
    const auto tail = static_cast<__mmask64>((std::uint64_t{1} << (g.code_bytes & 63U)) - 1);
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const std::byte* p0 = g.code(rows[i]);
      const std::byte* p1 = g.code(rows[i + 1]);
      const std::byte* p2 = g.code(rows[i + 2]);
      const std::byte* p3 = g.code(rows[i + 3]);
      __m512i s0 = _mm512_setzero_si512();
      __m512i s1 = s0;
      __m512i s2 = s0;
      __m512i s3 = s0;
      for (std::size_t d = 0; d < whole; d += 64) {
        const __m512i q = _mm512_loadu_si512(query + d);
        s0 = accumulate<kind>(s0, q, _mm512_loadu_si512(p0 + d));
        s1 = accumulate<kind>(s1, q, _mm512_loadu_si512(p1 + d));
        s2 = accumulate<kind>(s2, q, _mm512_loadu_si512(p2 + d));
        s3 = accumulate<kind>(s3, q, _mm512_loadu_si512(p3 + d));
      }
      if (tail != 0) {
        const __m512i q = _mm512_maskz_loadu_epi8(tail, query + whole);
        s0 = accumulate<kind>(s0, q, _mm512_maskz_loadu_epi8(tail, p0 + whole));
        s1 = accumulate<kind>(s1, q, _mm512_maskz_loadu_epi8(tail, p1 + whole));
        s2 = accumulate<kind>(s2, q, _mm512_maskz_loadu_epi8(tail, p2 + whole));
        s3 = accumulate<kind>(s3, q, _mm512_maskz_loadu_epi8(tail, p3 + whole));
      }
      out[i] = reduce<kind>(s0);
      out[i + 1] = reduce<kind>(s1);
      out[i + 2] = reduce<kind>(s2);
      out[i + 3] = reduce<kind>(s3);
    }
    for (; i < n; ++i) {
      const std::byte* p = g.code(rows[i]);
      __m512i s = _mm512_setzero_si512();
      for (std::size_t d = 0; d < whole; d += 64) {
        s = accumulate<kind>(s, _mm512_loadu_si512(query + d), _mm512_loadu_si512(p + d));
      }
      if (tail != 0) {
        s = accumulate<kind>(s, _mm512_maskz_loadu_epi8(tail, query + whole), _mm512_maskz_loadu_epi8(tail, p + whole));
      }
      out[i] = reduce<kind>(s);
    }
  }

  static inline void dots(const std::byte* const* rows, std::size_t n, const std::int8_t* panel, std::size_t groups,
                          std::int32_t* out, std::size_t out_stride) noexcept {
    std::size_t r = 0;
    for (; r + 8 <= n; r += 8) dots_of<8>(rows + r, panel, groups, out + r * out_stride, out_stride);
    for (; r < n; ++r) dots_of<1>(rows + r, panel, groups, out + r * out_stride, out_stride);
  }

  static inline std::size_t argmin(std::int32_t* keys, std::size_t n) noexcept {
    const __m512i top = _mm512_set1_epi32(INT32_MAX);
    _mm512_storeu_si512(keys + n, top);  // the padding of every list
    __m512i best = top;
    for (std::size_t i = 0; i < n; i += 16) best = _mm512_min_epi32(best, _mm512_loadu_si512(keys + i));
    const __m512i least = _mm512_set1_epi32(_mm512_reduce_min_epi32(best));
    for (std::size_t i = 0;; i += 16) {
      const __mmask16 hit = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(keys + i), least);
      if (hit != 0) return i + static_cast<std::size_t>(__builtin_ctz(hit));
    }
  }

  static inline std::size_t count_below(const std::int32_t* keys, std::size_t n, std::int32_t bound) noexcept {
    const __m512i limit = _mm512_set1_epi32(bound);
    std::size_t count = 0;
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) {
      count +=
          static_cast<std::size_t>(__builtin_popcount(_mm512_cmplt_epi32_mask(_mm512_loadu_si512(keys + i), limit)));
    }
    if (i < n) {
      const auto rest = static_cast<__mmask16>((1U << (n - i)) - 1);
      count += static_cast<std::size_t>(
          __builtin_popcount(_mm512_mask_cmplt_epi32_mask(rest, _mm512_maskz_loadu_epi32(rest, keys + i), limit)));
    }
    return count;
  }

  static inline std::size_t append_below(std::int32_t* dst_keys, std::uint32_t* dst_rows, std::size_t at,
                                         const std::int32_t* keys, const std::uint32_t* rows, std::size_t n,
                                         std::int32_t bound) noexcept {
    const __m512i limit = _mm512_set1_epi32(bound);
    for (std::size_t i = 0; i < n; i += 16) {
      const std::size_t left = n - i;
      const auto valid = static_cast<__mmask16>(left >= 16 ? 0xFFFFU : (1U << left) - 1);
      const __m512i k = _mm512_maskz_loadu_epi32(valid, keys + i);
      const __m512i r = _mm512_maskz_loadu_epi32(valid, rows + i);
      const __mmask16 take = _mm512_mask_cmplt_epi32_mask(valid, k, limit);
      // Compress in registers and store whole: a compressing store is many times slower on some processors.
      _mm512_storeu_si512(dst_keys + at, _mm512_maskz_compress_epi32(take, k));
      _mm512_storeu_si512(dst_rows + at, _mm512_maskz_compress_epi32(take, r));
      at += static_cast<std::size_t>(__builtin_popcount(take));
    }
    return at;
  }

 private:
  template <std::size_t kRows>
  static inline void dots_of(const std::byte* const* rows, const std::int8_t* panel, std::size_t groups,
                             std::int32_t* out, std::size_t out_stride) noexcept {
    __m512i sums[kRows];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (std::size_t g = 0; g < groups; ++g, panel += 4 * kPanel) {
      const __m512i columns = _mm512_loadu_si512(panel);
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t four = 0;
        __builtin_memcpy(&four, rows[r] + 4 * g, 4);
        sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(four), columns);
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) _mm512_storeu_si512(out + r * out_stride, sums[r]);
  }
};

}  // namespace vicinal::graph::avx512
