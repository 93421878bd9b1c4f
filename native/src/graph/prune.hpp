// Choosing a row's neighbours: near ones that no chosen neighbour already leads to.
//
// Subramanya et al., DiskANN (NeurIPS 2019), Algorithm 2, over integer keys of codes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph/constants.hpp"
#include "graph/panels.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

struct Candidate {
  std::int32_t key;  // to the row whose neighbours are chosen
  std::uint32_t row;
};

class Pruner {
 public:
  // With `keys`, which must be of the same graph, distances are taken from them.
  Pruner(const BeamFns& fns, CodeKind kind, RowKeys* keys = nullptr) noexcept
      : fns_(fns),
        keys_(keys),
        squared_(kind == CodeKind::l2_u8 || kind == CodeKind::l2_f32),
        floats_(kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32),
        alpha_(slack(kAlpha)) {}

  // `candidates` of `row`, sorted by key, free of duplicates and of the row itself. Writes at most `limit` of them:
  // those that the strictest rule leaves, then, while there is room, those that looser ones leave. Returns how many.
  std::size_t choose(const GraphView& g, std::uint32_t row, const Candidate* candidates, std::size_t n,
                     std::size_t limit, Candidate* out);

  // A candidate equal to a chosen neighbour adds nothing to it.
  [[nodiscard]] bool occludes(std::int32_t key_between, std::int32_t key_to_row) const noexcept {
    return alpha_ * value(key_between) < value(key_to_row) || (key_between == 0 && key_to_row != 0);
  }
  // What an edge of a full row costs: its squared length times how many edges lead where it does. Long ones to rows
  // that many others lead to are given up first; by length alone, rows far from all others would lose every edge to
  // them but the last few, and queries out there would not find them.
  [[nodiscard]] float burden(std::int32_t key, std::uint16_t in_degree) const noexcept {
    const float length = value(key);
    return (squared_ ? length : length * length) * static_cast<float>(in_degree);
  }
  // Of rows equal to it (key 0) a row keeps only a few: more would leave no room for the way out.
  [[nodiscard]] static std::size_t twins_max(std::size_t degree) noexcept { return degree / 4; }

 private:
  // alpha multiplies real distances; keys of squared distances take its square.
  [[nodiscard]] float slack(float alpha) const noexcept { return squared_ ? alpha * alpha : alpha; }
  [[nodiscard]] float value(std::int32_t key) const noexcept {
    return floats_ ? std::bit_cast<float>(key) : static_cast<float>(key);
  }

  const BeamFns& fns_;
  RowKeys* keys_;
  bool squared_;
  bool floats_;
  float alpha_;
  std::vector<std::uint32_t> left_rows_;
  std::vector<std::int32_t> left_keys_;
  std::vector<std::int32_t> between_;
  std::vector<float> detours_;  // of a candidate: its key over its key to the best chosen row on the way
};

}  // namespace vicinal::graph
