// A random orthogonal map by sign flips and fast Hadamard transforms, O(P log P), for any P that is a multiple of 64.
//
// Where P is a power of two: three rounds of flips and a transform. Otherwise four rounds, each a transform of the
// leading or the trailing power of two in turn, followed by one Kac step that mixes the two halves of the vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "distance/prefetch.hpp"

namespace vicinal::qgraph {

inline constexpr std::size_t kRoundsFull = 3;
inline constexpr std::size_t kRoundsKac = 4;

// Plain data for the loops.
struct RotationView {
  const float* flips = nullptr;  // rounds x P of +1 or -1, scaled so that the whole map keeps lengths
  std::size_t padded = 0;
  std::size_t power = 0;  // the largest power of two <= padded
  std::size_t rounds = 0;
};

class Rotation {
 public:
  Rotation() = default;
  Rotation(std::size_t padded, std::uint64_t seed);
  [[nodiscard]] RotationView view() const noexcept { return {flips_.data(), padded_, power_, rounds_}; }

 private:
  std::vector<float> flips_;
  std::size_t padded_ = 0;
  std::size_t power_ = 0;
  std::size_t rounds_ = 0;
};

// Levels of a transform that one pass over the vector does: three keep eight vectors in registers, and two passes of
// two are better than one of three and one of one.
constexpr unsigned levels_a_pass(unsigned left) noexcept { return left == 4 ? 2 : left < 3 ? left : 3; }

// How often rotate() calls between().
template <class V>
constexpr std::size_t passes(const RotationView& r) noexcept {
  std::size_t n = r.power != r.padded ? 1 : 0;
  for (auto left = static_cast<unsigned>(__builtin_ctzll(r.power / V::kWidth)); left != 0;
       left -= levels_a_pass(left)) {
    ++n;
  }
  return 1 + r.rounds * n;
}

// So many levels of the Hadamard transform of `power` floats, from distance h on. Each vector is stored as
// last(offset, vector).
template <class V, unsigned kLevels, class Last>
VICINAL_INLINE void butterflies(float* part, std::size_t power, std::size_t h, const Last& last) noexcept {
  using F = typename V::F;
  constexpr unsigned n = 1U << kLevels;
  for (std::size_t i = 0; i < power; i += n * h) {
    for (std::size_t j = i; j < i + h; j += V::kWidth) {
      F v[n];
#pragma GCC unroll 8
      for (unsigned k = 0; k < n; ++k) v[k] = V::loadf(part + j + k * h);
#pragma GCC unroll 3
      for (unsigned step = 1; step < n; step *= 2) {
#pragma GCC unroll 8
        for (unsigned k = 0; k < n; ++k) {
          if ((k & step) != 0) continue;
          const F a = v[k], b = v[k + step];
          v[k] = V::add(a, b);
          v[k + step] = V::sub(a, b);
        }
      }
#pragma GCC unroll 8
      for (unsigned k = 0; k < n; ++k) V::storef(part + j + k * h, last(j + k * h, v[k]));
    }
  }
}

// In place. V is one of the vector types of simd_*.hpp. between() is called after each pass over the vector. What a
// round begins with, flips and the transform within vectors, is done while the round before stores its results.
template <class V, class Between>
VICINAL_INLINE void rotate(const RotationView& r, float* x, const Between& between) noexcept {
  using F = typename V::F;
  constexpr std::size_t W = V::kWidth;
  const std::size_t half = r.padded / 2;
  const auto first = [&r](std::size_t round) { return round % 2 == 0 ? 0 : r.padded - r.power; };
  const auto begun = [&](std::size_t round, std::size_t i, F v) __attribute__((always_inline)) {
    v = V::mul(v, V::loadf(r.flips + round * r.padded + i));
    return i - first(round) < r.power ? V::hadamard(v) : v;
  };
  for (std::size_t i = 0; i < r.padded; i += W) V::storef(x + i, begun(0, i, V::loadf(x + i)));
  between();
  for (std::size_t round = 0; round < r.rounds; ++round) {
    const std::size_t from = first(round), next = round + 1;
    float* part = x + from;
    auto left = static_cast<unsigned>(__builtin_ctzll(r.power / W));
    std::size_t h = W;
    const auto as_it_is = [](std::size_t, F v) __attribute__((always_inline)) { return v; };
    const auto begin_next = [&](std::size_t i, F v) __attribute__((always_inline)) { return begun(next, i, v); };
    while (left != 0) {
      const unsigned levels = levels_a_pass(left);
      left -= levels;
      const auto pass = [&](const auto& last) __attribute__((always_inline)) {
        if (levels == 3) {
          butterflies<V, 3>(part, r.power, h, last);
        } else if (levels == 2) {
          butterflies<V, 2>(part, r.power, h, last);
        } else {
          butterflies<V, 1>(part, r.power, h, last);
        }
      };
      if (left == 0 && r.power == r.padded && next < r.rounds) {
        pass(begin_next);
      } else {
        pass(as_it_is);
      }
      h <<= levels;
      between();
    }
    if (r.power != r.padded) {
      const auto mix = [&](const auto& last) __attribute__((always_inline)) {
        for (std::size_t j = 0; j < half; j += W) {
          const F a = V::loadf(x + j), b = V::loadf(x + j + half);
          V::storef(x + j, last(j, V::add(a, b)));
          V::storef(x + j + half, last(j + half, V::sub(a, b)));
        }
      };
      if (next < r.rounds) {
        mix(begin_next);
      } else {
        mix(as_it_is);
      }
      between();
    }
  }
}

}  // namespace vicinal::qgraph
