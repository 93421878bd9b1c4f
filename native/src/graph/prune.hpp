// Choosing a row's neighbours: near ones that no chosen neighbour already leads to.
//
// Subramanya et al., DiskANN (NeurIPS 2019), Algorithm 2, over integer keys of codes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph/view.hpp"

namespace vicinal::graph {

struct Candidate {
  std::int32_t key;  // to the row whose neighbours are chosen
  std::uint32_t row;
};

class Pruner {
 public:
  // alpha multiplies real distances; keys of squared distances take its square.
  Pruner(const BeamFns& fns, CodeKind kind, float alpha) noexcept
      : fns_(fns),
        alpha_(kind == CodeKind::l2_u8 || kind == CodeKind::l2_f32 ? alpha * alpha : alpha),
        floats_(kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {}

  // `candidates` of `row`, sorted by key, free of duplicates and of the row itself. Writes at most `limit` of them;
  // where the rule leaves fewer, others fill up to `fill`. Returns how many.
  std::size_t choose(const GraphView& g, std::uint32_t row, const Candidate* candidates, std::size_t n,
                     std::size_t limit, std::size_t fill, Candidate* out);

  [[nodiscard]] float alpha() const noexcept { return alpha_; }
  // A candidate equal to a chosen neighbour adds nothing to it.
  [[nodiscard]] bool occludes(std::int32_t key_between, std::int32_t key_to_row) const noexcept {
    return alpha_ * value(key_between) < value(key_to_row) || (key_between == 0 && key_to_row != 0);
  }
  // Of rows equal to it (key 0) a row keeps only a few: more would leave no room for the way out.
  [[nodiscard]] static std::size_t twins_max(std::size_t degree) noexcept { return degree / 4; }

 private:
  [[nodiscard]] float value(std::int32_t key) const noexcept {
    return floats_ ? std::bit_cast<float>(key) : static_cast<float>(key);
  }

  const BeamFns& fns_;
  float alpha_;
  bool floats_;
  std::vector<std::uint32_t> left_rows_;
  std::vector<std::int32_t> left_keys_;
  std::vector<std::int32_t> between_;
  std::vector<Candidate> occluded_;
};

}  // namespace vicinal::graph
