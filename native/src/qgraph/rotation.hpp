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

// In place. V is one of the vector types of simd_*.hpp. between() is called after each pass over the vector, three to
// some six times a round.
template <class V, class Between>
VICINAL_INLINE void rotate(const RotationView& r, float* x, const Between& between) noexcept {
  using F = typename V::F;
  constexpr std::size_t W = V::kWidth;
  const std::size_t half = r.padded / 2;
  for (std::size_t round = 0; round < r.rounds; ++round) {
    const float* flips = r.flips + round * r.padded;
    for (std::size_t i = 0; i < r.padded; i += W) V::storef(x + i, V::mul(V::loadf(x + i), V::loadf(flips + i)));
    between();
    float* part = round % 2 == 0 ? x : x + (r.padded - r.power);
    for (std::size_t i = 0; i < r.power; i += W) V::storef(part + i, V::hadamard(V::loadf(part + i)));
    between();
    std::size_t h = W;
    for (; h * 4 <= r.power; h *= 4) {  // two levels a pass
      for (std::size_t i = 0; i < r.power; i += 4 * h) {
        for (std::size_t j = i; j < i + h; j += W) {
          const F a = V::loadf(part + j), b = V::loadf(part + j + h);
          const F c = V::loadf(part + j + 2 * h), d = V::loadf(part + j + 3 * h);
          const F ab = V::add(a, b), ba = V::sub(a, b), cd = V::add(c, d), dc = V::sub(c, d);
          V::storef(part + j, V::add(ab, cd));
          V::storef(part + j + h, V::add(ba, dc));
          V::storef(part + j + 2 * h, V::sub(ab, cd));
          V::storef(part + j + 3 * h, V::sub(ba, dc));
        }
      }
      between();
    }
    if (h < r.power) {
      for (std::size_t j = 0; j < h; j += W) {
        const F a = V::loadf(part + j), b = V::loadf(part + j + h);
        V::storef(part + j, V::add(a, b));
        V::storef(part + j + h, V::sub(a, b));
      }
    }
    if (r.power != r.padded) {
      for (std::size_t j = 0; j < half; j += W) {
        const F a = V::loadf(x + j), b = V::loadf(x + j + half);
        V::storef(x + j, V::add(a, b));
        V::storef(x + j + half, V::sub(a, b));
      }
      between();
    }
  }
}

}  // namespace vicinal::qgraph
