// Choosing a row's neighbours: near ones that no chosen neighbour already leads to.
//
// Subramanya et al., DiskANN (NeurIPS 2019), Algorithm 2, over integer keys of codes.
#pragma once

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
      : fns_(fns), alpha_(kind == CodeKind::l2_u8 ? alpha * alpha : alpha) {}

  // `candidates` sorted by key and free of duplicates and of the row itself. Writes at most `limit` of them, nearest
  // first; where the rule leaves fewer, others fill up to `fill`. Returns how many.
  std::size_t choose(const GraphView& g, const Candidate* candidates, std::size_t n, std::size_t limit,
                     std::size_t fill, Candidate* out);

  [[nodiscard]] float alpha() const noexcept { return alpha_; }
  [[nodiscard]] bool occludes(std::int32_t key_between, std::int32_t key_to_row) const noexcept {
    return alpha_ * static_cast<float>(key_between) < static_cast<float>(key_to_row);
  }

 private:
  const BeamFns& fns_;
  float alpha_;
  std::vector<std::uint32_t> left_rows_;
  std::vector<std::int32_t> left_keys_;
  std::vector<std::int32_t> between_;
  std::vector<Candidate> occluded_;
};

}  // namespace vicinal::graph
