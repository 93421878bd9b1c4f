#include "graph/prune.hpp"

#include <algorithm>

namespace vicinal::graph {

std::size_t Pruner::choose(const GraphView& g, std::uint32_t row, const Candidate* candidates, std::size_t n,
                           std::size_t limit, std::size_t fill, Candidate* out) {
  std::size_t chosen = 0;
  std::size_t twins = 0;
  while (twins < n && candidates[twins].key == 0) ++twins;
  // Twins are taken from all over their list, a different place for each row, so that they form one random graph.
  const std::size_t taken = std::min(twins, twins_max(limit));
  for (std::size_t i = 0; i < taken; ++i) out[chosen++] = candidates[(row * 2654435761U + i * twins / taken) % twins];
  candidates += twins;
  n -= twins;
  left_rows_.resize(n);
  left_keys_.resize(n);
  between_.resize(n);
  occluded_.clear();
  for (std::size_t i = 0; i < n; ++i) {
    left_rows_[i] = candidates[i].row;
    left_keys_[i] = candidates[i].key;
  }
  while (n > 0 && chosen < limit) {
    const std::uint32_t next = left_rows_[0];
    out[chosen++] = {left_keys_[0], next};
    // What the new neighbour leads to is left out at once, so that only survivors are compared with the next one.
    fns_.keys(g, g.code(next), left_rows_.data() + 1, n - 1, between_.data());
    std::size_t kept = 0;
    for (std::size_t i = 1; i < n; ++i) {
      const bool out_of_it = occludes(between_[i - 1], left_keys_[i]);
      if (out_of_it && occluded_.size() < fill) occluded_.push_back({left_keys_[i], left_rows_[i]});
      left_rows_[kept] = left_rows_[i];
      left_keys_[kept] = left_keys_[i];
      kept += out_of_it ? 0U : 1U;
    }
    n = kept;
  }
  for (std::size_t i = 0; i < occluded_.size() && chosen < fill; ++i) out[chosen++] = occluded_[i];
  return chosen;
}

}  // namespace vicinal::graph
