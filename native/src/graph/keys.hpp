// What the keys of codes say as numbers. Integer keys are numbers already; those of float codes are a float's bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "graph/view.hpp"

namespace vicinal::graph {

[[nodiscard]] inline bool float_keys(CodeKind kind) noexcept {
  return kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32;
}

[[nodiscard]] inline float key_value(CodeKind kind, std::int32_t key) noexcept {
  if (!float_keys(kind)) return static_cast<float>(key);
  float value = 0.0F;
  std::memcpy(&value, &key, sizeof(value));
  return value;
}

// The largest key whose value is not above this one; 0 where the value is below all keys.
[[nodiscard]] inline std::int32_t key_up_to(CodeKind kind, double value) noexcept {
  if (!(value > 0.0)) return 0;
  if (!float_keys(kind)) return value < 2147483647.0 ? static_cast<std::int32_t>(value) : INT32_MAX;
  const auto nearest = static_cast<float>(value);
  std::int32_t key = 0;
  std::memcpy(&key, &nearest, sizeof(key));
  return key;
}

}  // namespace vicinal::graph
