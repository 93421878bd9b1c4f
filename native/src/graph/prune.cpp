#include "graph/prune.hpp"

#include <algorithm>
#include <limits>

#include "graph/constants.hpp"

namespace vicinal::graph {

std::size_t Pruner::choose(const GraphView& g, std::uint32_t row, const Candidate* candidates, std::size_t n,
                           std::size_t limit, Candidate* out) {
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
  detours_.assign(n, 0.0F);
  for (std::size_t i = 0; i < n; ++i) {
    left_rows_[i] = candidates[i].row;
    left_keys_[i] = candidates[i].key;
  }
  const float last = slack(kAlphaMax);
  for (float allowed = alpha_;; allowed = std::min(allowed * kAlphaStep, last)) {
    for (std::size_t at = 0; at < n && chosen < limit;) {
      if (detours_[at] > allowed) {
        ++at;
        continue;
      }
      const std::uint32_t next = left_rows_[at];
      out[chosen++] = {left_keys_[at], next};
      // What the new neighbour leads to by far is left out at once, so that fewer are compared with the next one.
      if (keys_ != nullptr) {
        keys_->set(next);
        keys_->to(left_rows_.data() + at + 1, n - at - 1, between_.data());
      } else {
        fns_.keys(g, g.code(next), left_rows_.data() + at + 1, n - at - 1, between_.data());
      }
      std::size_t kept = at;
      for (std::size_t i = at + 1; i < n; ++i) {
        const float between = value(between_[i - at - 1]);
        const float detour = between > 0.0F ? value(left_keys_[i]) / between : std::numeric_limits<float>::infinity();
        left_rows_[kept] = left_rows_[i];
        left_keys_[kept] = left_keys_[i];
        detours_[kept] = std::max(detours_[i], detour);
        kept += detours_[kept] <= last ? 1U : 0U;
      }
      n = kept;
    }
    if (chosen >= limit || n == 0 || allowed >= last) return chosen;
  }
}

}  // namespace vicinal::graph
