// The order in which the queries of a large batch are answered: those of one region follow one another, so that what
// the walk of one has read is still in the cache for the next. Answers do not depend on it.
#include <algorithm>
#include <numeric>

#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace vicinal::graph {

std::vector<std::uint32_t> GraphIndex::near_order(const float* queries, std::size_t n, std::size_t linked) const {
  std::vector<std::uint32_t> order;
  const std::size_t dim = config_.dim;
  if (n < kOrderedMin || linked < kRegions) return order;
  // Each region is what is nearest to one of some rows, by a part of the dimensions: a hint needs no more.
  const std::size_t part = std::min(dim, kRegionDims);
  std::vector<float> whole(dim);
  std::vector<float> centres(kRegions * part);
  for (std::size_t i = 0; i < kRegions; ++i) {
    read_row(i * linked / kRegions, whole.data());
    std::copy_n(whole.begin(), part, centres.begin() + static_cast<std::ptrdiff_t>(i * part));
  }
  const Distance l2 = distance(DType::f32, Kernel::l2, best_isa());
  const auto compare = [&](const float* to, std::size_t count, float* out) {
    l2.batch(to, reinterpret_cast<const std::byte*>(centres.data()), part * sizeof(float), nullptr, count, part, out);
  };
  // Regions are numbered along a path from each to the nearest one left.
  std::vector<std::size_t> place(kRegions, kRegions);
  std::vector<float> apart(kRegions);
  std::size_t at = 0;
  for (std::size_t next = 0; next < kRegions; ++next) {
    place[at] = next;
    compare(&centres[at * part], kRegions, apart.data());
    std::size_t nearest = kRegions;
    for (std::size_t i = 0; i < kRegions; ++i) {
      if (place[i] == kRegions && (nearest == kRegions || apart[i] < apart[nearest])) nearest = i;
    }
    at = nearest;
  }
  std::vector<std::uint16_t> region(n);
  std::vector<std::uint32_t> first(kRegions + 1, 0);
  for (std::size_t q = 0; q < n; ++q) {
    compare(queries + q * dim, kRegions, apart.data());
    const auto nearest = static_cast<std::size_t>(std::min_element(apart.begin(), apart.end()) - apart.begin());
    region[q] = static_cast<std::uint16_t>(place[nearest]);
    ++first[place[nearest] + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  order.resize(n);
  for (std::size_t q = 0; q < n; ++q) order[first[region[q]]++] = static_cast<std::uint32_t>(q);
  return order;
}

}  // namespace vicinal::graph
