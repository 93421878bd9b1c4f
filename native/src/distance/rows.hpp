// Work on stored rows other than distances: validity, norms, quantisation to bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/distance.hpp"

namespace vicinal {

// out[i] = sum of squares of row i (base + i * stride); overflows to infinity like any float sum.
using SquaredNormsFn = void (*)(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim,
                                float* out) noexcept;

// out[j] = round(clamp((row[j] - lo[j]) * scale[j], 0, 255)), halves to even; the same bytes on every instruction set.
using QuantiseFn = void (*)(const void* row, std::size_t dim, const float* lo, const float* scale,
                            std::uint8_t* out) noexcept;

// f32, f16 and i8. Error{invalid_argument} for other types.
[[nodiscard]] SquaredNormsFn squared_norms(DType dtype, Isa isa);

// f32 and f16. Error{invalid_argument} for other types.
[[nodiscard]] QuantiseFn quantise_u8(DType dtype, Isa isa);

// out[i] = 1 / |row i| for f32, f16 and i8 rows, right also where the sum of squares leaves the range of float;
// 0 for a zero row, whose cosine distance to everything is thus 1.
void inverse_norms(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim, DType dtype, Isa isa,
                   float* out);

// A vector whose sum of squares lies outside loses its direction to float32 rounding.
inline constexpr double kNormSquaredMin = 1e-30;
inline constexpr double kNormSquaredMax = 1e36;

// Whether that of each of n float rows, one after the other, lies inside: then no element is NaN or infinite either.
[[nodiscard]] bool usual_squares(const std::byte* rows, std::size_t n, std::size_t dim) noexcept;

struct RowCheck {
  std::int64_t first_non_finite = -1;  // the first row with a NaN or an infinity, or -1
  std::int64_t first_zero = -1;        // the first row whose elements are all zero, or -1
};

// f32, f16 and i8 rows; bits are always valid, and a row of zero bits is no zero vector, so both are -1.
[[nodiscard]] RowCheck check_rows(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim,
                                  DType dtype) noexcept;

}  // namespace vicinal
