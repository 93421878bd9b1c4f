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

  // Two panels at a time: what is loaded of eight rows is used twice, and products are what is waited for.
  static inline void dots(const std::byte* const* rows, std::size_t n, const std::int8_t* panels, std::size_t n_panels,
                          std::size_t groups, std::int32_t* out, std::size_t out_stride) noexcept {
    for (std::size_t r = 0; r < n;) {
      const std::size_t count = n - r >= 8 ? 8 : 1;
      std::int32_t* to = out + r * out_stride;
      std::size_t p = 0;
      for (; p + 2 <= n_panels; p += 2, to += 2 * kPanel) {
        const std::int8_t* two = panels + p * 4 * kPanel * groups;
        if (count == 8) {
          dots_of<8, 2>(rows + r, two, groups, to, out_stride);
        } else {
          dots_of<1, 2>(rows + r, two, groups, to, out_stride);
        }
      }
      if (p < n_panels) {
        const std::int8_t* one = panels + p * 4 * kPanel * groups;
        if (count == 8) {
          dots_of<8, 1>(rows + r, one, groups, to, out_stride);
        } else {
          dots_of<1, 1>(rows + r, one, groups, to, out_stride);
        }
      }
      r += count;
    }
  }

  // Writes kPanel keys, as BeamFns::near has them; returns a bit for each that is below one of its bounds.
  static inline unsigned below(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots,
                               const std::int32_t* bounds, std::int32_t bound, std::int32_t* keys) noexcept {
    const __m512i sum = _mm512_add_epi32(_mm512_set1_epi32(static_cast<std::int32_t>(base)), _mm512_loadu_si512(norms));
    const __m512i key = _mm512_sub_epi32(sum, _mm512_slli_epi32(_mm512_loadu_si512(dots), 1));
    _mm512_storeu_si512(keys, key);
    const __m512i limit = _mm512_max_epi32(_mm512_set1_epi32(bound), _mm512_loadu_si512(bounds));
    return _mm512_cmplt_epi32_mask(key, limit);
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
  template <std::size_t kRows, std::size_t kPanels>
  static inline void dots_of(const std::byte* const* rows, const std::int8_t* panels, std::size_t groups,
                             std::int32_t* out, std::size_t out_stride) noexcept {
    __m512i sums[kRows][kPanels];
    for (auto& row : sums) {
      for (__m512i& sum : row) sum = _mm512_setzero_si512();
    }
    for (std::size_t g = 0; g < groups; ++g) {
      __m512i columns[kPanels];
      for (std::size_t p = 0; p < kPanels; ++p) {
        columns[p] = _mm512_loadu_si512(panels + (p * groups + g) * 4 * kPanel);
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t four = 0;
        __builtin_memcpy(&four, rows[r] + 4 * g, 4);
        const __m512i row = _mm512_set1_epi32(four);
        for (std::size_t p = 0; p < kPanels; ++p) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], row, columns[p]);
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t p = 0; p < kPanels; ++p) {
        _mm512_storeu_si512(out + r * out_stride + p * kPanel, sums[r][p]);
      }
    }
  }
};

}  // namespace vicinal::graph::avx512
