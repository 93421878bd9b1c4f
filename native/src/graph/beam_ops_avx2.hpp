// Building blocks of the beam search for AVX2.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "graph/view.hpp"

namespace vicinal::graph::avx2 {

// pack_order[mask] lists the set bits of mask, so that a permutation by it moves the taken lanes to the front.
struct PackOrder {
  std::uint64_t of[256];
};
inline constexpr PackOrder kPackOrder = [] {
  PackOrder table{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    unsigned at = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      if ((mask >> lane) & 1U) table.of[mask] |= static_cast<std::uint64_t>(lane) << (8 * at++);
    }
  }
  return table;
}();

struct Ops {
  static inline __m256i load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

  // The last bytes of a code, zeros behind them.
  static inline __m256i load_tail(const std::byte* p, std::size_t bytes) noexcept {
    alignas(32) std::byte whole[32] = {};
    __builtin_memcpy(whole, p, bytes);
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(whole));
  }

  static inline __m256i popcount_bytes(__m256i x) noexcept {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    return _mm256_add_epi8(low, high);
  }

  template <CodeKind kind>
  static inline __m256i accumulate(__m256i sum, __m256i a, __m256i b) noexcept {
    const __m256i zero = _mm256_setzero_si256();
    if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      const __m256 d = _mm256_sub_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
      const __m256 s = _mm256_castsi256_ps(sum);
      if constexpr (kind == CodeKind::l2_f32) return _mm256_castps_si256(_mm256_fmadd_ps(d, d, s));
      return _mm256_castps_si256(_mm256_add_ps(s, _mm256_andnot_ps(_mm256_set1_ps(-0.0F), d)));
    } else if constexpr (kind == CodeKind::hamming) {
      return _mm256_add_epi64(sum, _mm256_sad_epu8(popcount_bytes(_mm256_xor_si256(a, b)), zero));
    } else if constexpr (kind == CodeKind::l1_u8) {
      return _mm256_add_epi64(sum, _mm256_sad_epu8(a, b));
    } else if constexpr (kind == CodeKind::dot_u8) {
      const __m256i sign = _mm256_cmpgt_epi8(zero, a);
      const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi8(a, sign), _mm256_unpacklo_epi8(b, zero));
      const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi8(a, sign), _mm256_unpackhi_epi8(b, zero));
      return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
    } else {
      const __m256i d = _mm256_sub_epi8(_mm256_max_epu8(a, b), _mm256_min_epu8(a, b));
      const __m256i low = _mm256_unpacklo_epi8(d, zero);
      const __m256i high = _mm256_unpackhi_epi8(d, zero);
      return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(low, low), _mm256_madd_epi16(high, high)));
    }
  }

  static inline std::int32_t sum_lanes(__m256i x) noexcept {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return _mm_cvtsi128_si32(s);
  }

  template <CodeKind kind>
  static inline std::int32_t reduce(__m256i sum) noexcept {
    if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
      const __m256 x = _mm256_castsi256_ps(sum);
      __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
      s = _mm_add_ps(s, _mm_movehl_ps(s, s));
      s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
      return _mm_cvtsi128_si32(_mm_castps_si128(s));
    } else if constexpr (kind == CodeKind::dot_u8) {
      return kDotBase - sum_lanes(sum);
    } else {
      return sum_lanes(sum);  // the 64-bit sums of hamming and l1 are below 2^31: their upper halves add zeros
    }
  }

  template <CodeKind kind>
  static inline void keys(const GraphView& g, const std::byte* query, const std::uint32_t* rows, std::size_t n,
                          std::int32_t* out) noexcept {
    const std::size_t whole = g.code_bytes & ~std::size_t{31};
    const std::size_t tail = g.code_bytes & 31U;
    std::size_t i = 0;
    for (; i + 2 <= n; i += 2) {
      const std::byte* p0 = g.code(rows[i]);
      const std::byte* p1 = g.code(rows[i + 1]);
      __m256i s0 = _mm256_setzero_si256();
      __m256i s1 = s0;
      for (std::size_t d = 0; d < whole; d += 32) {
        const __m256i q = load(query + d);
        s0 = accumulate<kind>(s0, q, load(p0 + d));
        s1 = accumulate<kind>(s1, q, load(p1 + d));
      }
      if (tail != 0) {
        const __m256i q = load_tail(query + whole, tail);
        s0 = accumulate<kind>(s0, q, load_tail(p0 + whole, tail));
        s1 = accumulate<kind>(s1, q, load_tail(p1 + whole, tail));
      }
      out[i] = reduce<kind>(s0);
      out[i + 1] = reduce<kind>(s1);
    }
    if (i < n) {
      const std::byte* p = g.code(rows[i]);
      __m256i s = _mm256_setzero_si256();
      for (std::size_t d = 0; d < whole; d += 32) s = accumulate<kind>(s, load(query + d), load(p + d));
      if (tail != 0) s = accumulate<kind>(s, load_tail(query + whole, tail), load_tail(p + whole, tail));
      out[i] = reduce<kind>(s);
    }
  }

  static inline void dots(const std::byte* const* rows, std::size_t n, const std::int8_t* panels, std::size_t n_panels,
                          std::size_t groups, std::int32_t* out, std::size_t out_stride) noexcept {
    for (std::size_t p = 0; p < n_panels; ++p, panels += 4 * kPanel * groups, out += kPanel) {
      std::size_t r = 0;
      for (; r + 4 <= n; r += 4) dots_of<4>(rows + r, panels, groups, out + r * out_stride, out_stride);
      for (; r < n; ++r) dots_of<1>(rows + r, panels, groups, out + r * out_stride, out_stride);
    }
  }

  // Writes kPanel keys, as BeamFns::near has them; returns a bit for each that is below one of its bounds.
  static inline unsigned below(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots,
                               const std::int32_t* bounds, std::int32_t bound, std::int32_t* keys) noexcept {
    const __m256i limit = _mm256_set1_epi32(bound);
    const __m256i bases = _mm256_set1_epi32(static_cast<std::int32_t>(base));
    unsigned hits = 0;
    for (std::size_t i = 0; i < kPanel; i += 8) {
      const __m256i key =
          _mm256_sub_epi32(_mm256_add_epi32(bases, load(norms + i)), _mm256_slli_epi32(load(dots + i), 1));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + i), key);
      const __m256i hit = _mm256_cmpgt_epi32(_mm256_max_epi32(limit, load(bounds + i)), key);
      hits |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hit))) << i;
    }
    return hits;
  }

  static inline std::size_t argmin(std::int32_t* keys, std::size_t n) noexcept {
    const __m256i top = _mm256_set1_epi32(INT32_MAX);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + n), top);  // the padding of every list
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + n + 8), top);
    __m256i even = top;
    __m256i odd = top;
    for (std::size_t i = 0; i < n; i += 16) {
      even = _mm256_min_epi32(even, load(keys + i));
      odd = _mm256_min_epi32(odd, load(keys + i + 8));
    }
    __m256i least = _mm256_min_epi32(even, odd);
    least = _mm256_min_epi32(least, _mm256_permute2x128_si256(least, least, 1));
    least = _mm256_min_epi32(least, _mm256_shuffle_epi32(least, 0x4E));
    least = _mm256_min_epi32(least, _mm256_shuffle_epi32(least, 0xB1));
    for (std::size_t i = 0;; i += 8) {
      const int hit = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(load(keys + i), least)));
      if (hit != 0) return i + static_cast<std::size_t>(__builtin_ctz(static_cast<unsigned>(hit)));
    }
  }

  static inline std::size_t count_below(const std::int32_t* keys, std::size_t n, std::int32_t bound) noexcept {
    const __m256i limit = _mm256_set1_epi32(bound);
    __m256i count = _mm256_setzero_si256();
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) count = _mm256_sub_epi32(count, _mm256_cmpgt_epi32(limit, load(keys + i)));
    auto total = static_cast<std::size_t>(sum_lanes(count));
    for (; i < n; ++i) total += keys[i] < bound ? 1U : 0U;
    return total;
  }

  static inline std::size_t append_below(std::int32_t* dst_keys, std::uint32_t* dst_rows, std::size_t at,
                                         const std::int32_t* keys, const std::uint32_t* rows, std::size_t n,
                                         std::int32_t bound) noexcept {
    const __m256i limit = _mm256_set1_epi32(bound);
    for (std::size_t i = 0; i < n; i += 8) {
      const std::size_t left = n - i;
      const unsigned valid = left >= 8 ? 0xFFU : (1U << left) - 1;
      const __m256i k = load(keys + i);
      const __m256i r = load(rows + i);
      const auto below =
          static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, k)))) & valid;
      const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kPackOrder.of[below])));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst_keys + at), _mm256_permutevar8x32_epi32(k, order));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst_rows + at), _mm256_permutevar8x32_epi32(r, order));
      at += static_cast<std::size_t>(__builtin_popcount(below));
    }
    return at;
  }

 private:
  // Bytes multiplied as 16 bits, the even ones of each column's four and then the odd ones: sums of two products of
  // bytes would saturate.
  template <std::size_t kRows>
  static inline void dots_of(const std::byte* const* rows, const std::int8_t* panel, std::size_t groups,
                             std::int32_t* out, std::size_t out_stride) noexcept {
    const __m256i low = _mm256_set1_epi16(255);
    __m256i sums[kRows][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm256_setzero_si256();
    for (std::size_t g = 0; g < groups; ++g, panel += 4 * kPanel) {
      __m256i even[2];
      __m256i odd[2];
      for (std::size_t half = 0; half < 2; ++half) {
        const __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 32 * half));
        even[half] = _mm256_srai_epi16(_mm256_slli_epi16(columns, 8), 8);
        odd[half] = _mm256_srai_epi16(columns, 8);
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t four = 0;
        __builtin_memcpy(&four, rows[r] + 4 * g, 4);
        const __m256i row = _mm256_set1_epi32(four);
        const __m256i row_even = _mm256_and_si256(row, low);
        const __m256i row_odd = _mm256_srli_epi16(row, 8);
        for (std::size_t half = 0; half < 2; ++half) {
          const __m256i products =
              _mm256_add_epi32(_mm256_madd_epi16(even[half], row_even), _mm256_madd_epi16(odd[half], row_odd));
          sums[r][half] = _mm256_add_epi32(sums[r][half], products);
        }
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t half = 0; half < 2; ++half) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * out_stride + 8 * half), sums[r][half]);
      }
    }
  }
};

}  // namespace vicinal::graph::avx2
