// f16 (IEEE binary16) to float and back, round to nearest even, without machine support.
#pragma once

#include <bit>
#include <cstdint>

namespace vicinal::qgraph {

inline float half_to_float(std::uint16_t h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
  const std::uint32_t rest = h & 0x7FFFU;
  if (rest >= 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U | (rest & 0x3FFU) << 13);
  // Scaling by 2^112 moves the exponent's bias and gives subnormals their leading bit.
  const float magnitude = std::bit_cast<float>(rest << 13) * std::bit_cast<float>(0x77800000U);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
}

inline std::uint16_t float_to_half(float f) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t rest = bits & 0x7FFFFFFFU;
  if (rest > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (rest >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds past the largest
  if (rest < 0x38800000U) {                                                    // subnormal: let the adder round
    const float shifted = std::bit_cast<float>(rest) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  return static_cast<std::uint16_t>(sign | (rest - 0x38000000U + 0xFFFU + (rest >> 13 & 1U)) >> 13);
}

}  // namespace vicinal::qgraph
