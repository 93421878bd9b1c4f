// From a kernel's quantity to a metric's distance, in one place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/distance.hpp"

namespace vicinal {

[[nodiscard]] inline Kernel kernel_of(Metric metric) noexcept {
  switch (metric) {
    case Metric::l2:
      return Kernel::l2;
    case Metric::ip:
    case Metric::cosine:
      return Kernel::dot;
    case Metric::hamming:
      return Kernel::hamming;
    case Metric::manhattan:
      return Kernel::l1;
  }
  return Kernel::l2;
}

// 1 - cos from a dot product and both inverse norms. Rounding can leave it a little below zero, which no distance is;
// NaN (an overflow) stays NaN.
[[nodiscard]] inline float cosine_distance(float dot, float row_inverse_norm, float query_inverse_norm) noexcept {
  const float d = 1.0F - dot * row_inverse_norm * query_inverse_norm;
  return d < 0 ? 0 : d;
}

// Turns n quantities into distances in place. Row i is rows[i], or first + i where rows is null; inverse_norms is
// indexed by row and read for cosine only.
inline void to_distances(Metric metric, float* values, std::size_t n, const std::uint32_t* rows, std::size_t first,
                         const float* inverse_norms, float query_inverse_norm) noexcept {
  if (metric == Metric::ip) {
    for (std::size_t i = 0; i < n; ++i) values[i] = -values[i];
  } else if (metric == Metric::cosine && rows == nullptr) {
    for (std::size_t i = 0; i < n; ++i) {
      values[i] = cosine_distance(values[i], inverse_norms[first + i], query_inverse_norm);
    }
  } else if (metric == Metric::cosine) {
    for (std::size_t i = 0; i < n; ++i) {
      values[i] = cosine_distance(values[i], inverse_norms[rows[i]], query_inverse_norm);
    }
  }
}

}  // namespace vicinal
