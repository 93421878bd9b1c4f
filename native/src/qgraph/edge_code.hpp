// The code of one edge: what a node keeps of a neighbour, one or two bits a dimension and a few sums.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

// The four values of two bits, evenly spaced, lie best for normally distributed coordinates when the outer ones are
// this many standard deviations from 0.
inline constexpr float kOuter = 1.494F;

// Bit i of the result's place 2 i is bit i of x.
static VICINAL_INLINE std::uint64_t spread(std::uint32_t x) noexcept {
  std::uint64_t s = x;
  s = (s | s << 16) & 0x0000FFFF0000FFFFU;
  s = (s | s << 8) & 0x00FF00FF00FF00FFU;
  s = (s | s << 4) & 0x0F0F0F0F0F0F0F0FU;
  s = (s | s << 2) & 0x3333333333333333U;
  return (s | s << 1) & 0x5555555555555555U;
}

template <class V>
inline EdgeSums code_edge(const std::int8_t* own, float own_grain, const std::int8_t* other, float other_grain,
                          std::size_t padded, std::uint32_t bits, std::uint64_t* code) noexcept {
  using F = typename V::F;
  constexpr std::size_t kStep = 64;  // dimensions, a multiple of which `padded` is
  const F zero = V::setf(0.0F);
  const F p_grain = V::setf(own_grain);
  const F minus = V::setf(-own_grain);
  const F o_grain = V::setf(other_grain);
  const auto difference = [&](std::size_t i) __attribute__((always_inline)) {
    return V::fma(V::load_i8(own + i), minus, V::mul(V::load_i8(other + i), o_grain));
  };
  F square = zero;
  F dot = zero;
  F along = zero;
  F across = zero;
  for (std::size_t i = 0; i < padded; i += kStep) {
    std::uint64_t positive = 0;
    for (std::size_t j = 0; j < kStep; j += V::kWidth) {
      const F p = V::mul(V::load_i8(own + i + j), p_grain);
      const F r = difference(i + j);
      square = V::fma(r, r, square);
      dot = V::fma(p, r, dot);
      if (bits == 1) {
        const auto above = V::lt(zero, r);
        along = V::add(along, V::abs(r));
        across = V::add(across, V::pick(above, p, V::sub(zero, p)));
        positive |= static_cast<std::uint64_t>(V::bits(above)) << j;
      }
    }
    if (bits == 1) code[i / kStep] = positive;
  }
  const float length2 = V::sum_of(square);
  if (bits == 2) {
    const float inverse = length2 > 0.0F ? 1.5F / (kOuter * std::sqrt(length2 / static_cast<float>(padded))) : 0.0F;
    const F scale = V::setf(inverse);
    const F one = V::setf(1.0F);
    const F third = V::setf(1.0F / 3.0F);
    for (std::size_t i = 0; i < padded; i += kStep) {
      std::uint64_t negatives = 0;
      std::uint64_t inners = 0;
      for (std::size_t j = 0; j < kStep; j += V::kWidth) {
        const F p = V::mul(V::load_i8(own + i + j), p_grain);
        const F r = difference(i + j);
        const auto negative = V::lt(r, zero);
        const auto inner = V::lt(V::abs(V::mul(r, scale)), one);
        const F s = V::pick(inner, third, one);
        along = V::fma(s, V::abs(r), along);
        across = V::fma(s, V::pick(negative, V::sub(zero, p), p), across);
        negatives |= static_cast<std::uint64_t>(V::bits(negative)) << j;
        inners |= static_cast<std::uint64_t>(V::bits(inner)) << j;
      }
      // 0, 1, 2, 3 for -1, -1/3, 1/3, 1.
      const std::uint64_t low = ~(inners ^ negatives);
      const std::uint64_t high = ~negatives;
      const auto half = [](std::uint64_t x, unsigned shift) { return static_cast<std::uint32_t>(x >> shift); };
      code[i / 32] = spread(half(low, 0)) | spread(half(high, 0)) << 1;
      code[i / 32 + 1] = spread(half(low, 32)) | spread(half(high, 32)) << 1;
    }
  }
  return {length2, V::sum_of(along), V::sum_of(across), V::sum_of(dot)};
}

}  // namespace vicinal::qgraph
