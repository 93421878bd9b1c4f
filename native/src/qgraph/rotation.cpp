// Draws the sign flips of a rotation and folds the transforms' scales into them.
#include "qgraph/rotation.hpp"

#include <bit>
#include <cmath>

namespace vicinal::qgraph {

Rotation::Rotation(std::size_t padded, std::uint64_t seed)
    : padded_(padded), power_(std::bit_floor(padded)), rounds_(power_ == padded ? kRoundsFull : kRoundsKac) {
  flips_.resize(rounds_ * padded_);
  std::uint64_t state = seed;
  const auto next = [&state] {  // splitmix64
    std::uint64_t z = state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  };
  const float whole = 1.0F / std::sqrt(static_cast<float>(power_));
  const float kac = power_ == padded_ ? 1.0F : std::sqrt(0.5F);
  std::uint64_t bits = 0;
  for (std::size_t round = 0; round < rounds_; ++round) {
    const std::size_t first = round % 2 == 0 ? 0 : padded_ - power_;
    for (std::size_t i = 0; i < padded_; ++i) {
      if (i % 64 == 0) bits = next();
      const bool transformed = i >= first && i < first + power_;
      const float scale = (transformed ? whole : 1.0F) * kac;
      flips_[round * padded_ + i] = (bits >> (i % 64) & 1) != 0 ? scale : -scale;
    }
  }
}

}  // namespace vicinal::qgraph
