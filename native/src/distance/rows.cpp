// Checks and norms of stored rows. Integer loops here are written for the compiler to vectorise.
#include "distance/rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.hpp"
#include "distance/kernels_scalar.hpp"

namespace vicinal {
namespace {

// The largest magnitude of a row as bits: 0 for a zero row, from kExponent on where one element is not finite.
template <class Signed, Signed kMagnitude>
Signed largest(const std::byte* row, std::size_t dim) noexcept {
  Signed most = 0;
  for (std::size_t j = 0; j < dim; ++j) {
    Signed bits = 0;
    std::memcpy(&bits, row + j * sizeof bits, sizeof bits);
    most = std::max(most, static_cast<Signed>(bits & kMagnitude));
  }
  return most;
}

template <class Signed, Signed kMagnitude, Signed kExponent>
RowCheck check_float(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim) noexcept {
  RowCheck found;
  for (std::size_t i = 0; i < n; ++i) {
    const Signed most = largest<Signed, kMagnitude>(base + i * stride, dim);
    if (most >= kExponent && found.first_non_finite < 0) found.first_non_finite = static_cast<std::int64_t>(i);
    if (most == 0 && found.first_zero < 0) found.first_zero = static_cast<std::int64_t>(i);
  }
  return found;
}

RowCheck check_i8(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim) noexcept {
  RowCheck found;
  for (std::size_t i = 0; i < n && found.first_zero < 0; ++i) {
    std::uint8_t any = 0;
    const auto* row = reinterpret_cast<const std::uint8_t*>(base + i * stride);
    for (std::size_t j = 0; j < dim; ++j) any |= row[j];
    if (any == 0) found.first_zero = static_cast<std::int64_t>(i);
  }
  return found;
}

// Sums in double: no square of a float leaves its range.
double exact_square(const std::byte* row, std::size_t dim, DType dtype) noexcept {
  double sum = 0;
  for (std::size_t j = 0; j < dim; ++j) {
    double v = 0;
    if (dtype == DType::f32) {
      float f = 0;
      std::memcpy(&f, row + j * sizeof f, sizeof f);
      v = f;
    } else {
      std::uint16_t h = 0;
      std::memcpy(&h, row + j * sizeof h, sizeof h);
      v = scalar::half_to_float(h);
    }
    sum += v * v;
  }
  return sum;
}

}  // namespace

void inverse_norms(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim, DType dtype, Isa isa,
                   float* out) {
  // Below this a sum of squares has lost digits to subnormals.
  constexpr float kSmall = 1e-30F;
  squared_norms(dtype, isa)(base, stride, n, dim, out);
  for (std::size_t i = 0; i < n; ++i) {
    const float square = out[i];
    if (square > kSmall && square <= std::numeric_limits<float>::max()) {
      out[i] = 1.0F / std::sqrt(square);
    } else if (dtype == DType::i8) {
      out[i] = 0;  // integer squares are exact: this row is zero
    } else {
      const double exact = exact_square(base + i * stride, dim, dtype);
      const double inverse = exact > 0 ? 1.0 / std::sqrt(exact) : 0.0;
      out[i] = static_cast<float>(std::min(inverse, double{std::numeric_limits<float>::max()}));
    }
  }
}

bool usual_squares(const std::byte* rows, std::size_t n, std::size_t dim) noexcept {
  constexpr std::size_t kBlock = 64;
  const SquaredNormsFn squared = squared_norms(DType::f32, best_isa());
  const std::size_t stride = dim * sizeof(float);
  float squares[kBlock];
  for (std::size_t at = 0; at < n; at += kBlock) {
    const std::size_t m = std::min(kBlock, n - at);
    squared(rows + at * stride, stride, m, dim, squares);
    for (std::size_t i = 0; i < m; ++i) {
      if (!(squares[i] > static_cast<float>(kNormSquaredMin) && squares[i] < static_cast<float>(kNormSquaredMax))) {
        return false;
      }
    }
  }
  return true;
}

RowCheck check_rows(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim, DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return check_float<std::int32_t, 0x7FFFFFFF, 0x7F800000>(base, stride, n, dim);
    case DType::f16:
      return check_float<std::int16_t, 0x7FFF, 0x7C00>(base, stride, n, dim);
    case DType::i8:
      return check_i8(base, stride, n, dim);
    case DType::bit:
    case DType::u8:
      return {};
  }
  return {};
}

}  // namespace vicinal
