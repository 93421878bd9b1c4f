// Rows near each of many rows, without a graph: all rows are divided among overlapping leaves, and the members of a
// leaf are compared with one another, sixteen at a time, which costs a fraction of finding them one by one.
//
// Rubel et al. (PiPNN, arXiv:2602.21247) build whole graphs so. Here it gives rows the candidates among which they
// choose their neighbours: the nearest of all rows, and the nearest of a sample, which are farther off and become the
// long edges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "graph/linker.hpp"
#include "graph/panels.hpp"
#include "graph/prune.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

// About the `near` nearest of a leaf become candidates, and the `keep` nearest of those are kept. Few of each leaf, and
// so some from all sides, make a better graph than as many of the nearest.
struct LeafQuota {
  std::size_t near;
  std::size_t keep;
};

// For n rows, as much work as a beam of `ef` is worth.
struct LeafPlan {
  LeafPlan(std::size_t ef, std::size_t n) noexcept;
  std::size_t members_max;  // of a leaf
  LeafQuota all;
  LeafQuota sample;
};

class Leaves {
 public:
  // Told the share of the work that is done.
  using Tick = std::function<void(double)>;

  Leaves(const GraphView& g, const BeamFns& fns, const CodeSums& sums, std::size_t ef, RowLocks& locks,
         unsigned threads);

  // Finds candidates of rows[first..] among `rows`, whose order is random.
  void find(const std::vector<std::uint32_t>& rows, std::size_t first, std::mt19937_64& random, const Tick& tick);

  // Those of `row`, which is rows[first + i]: sorted by key, each once.
  void candidates(std::size_t i, std::uint32_t row, std::vector<Candidate>& out) const;

  // Places in the list of rows, near ones one after another: what is done in this order finds codes in the cache.
  [[nodiscard]] const std::vector<std::uint32_t>& order() const noexcept { return order_; }

  // The leaves that each row was in, at most.
  [[nodiscard]] std::size_t overlap() const noexcept { return overlap_; }

  // Gives back the memory of all candidates.
  void clear() noexcept;

 private:
  struct Group {
    std::vector<std::uint32_t> members;  // places in the list of rows, ascending
    std::size_t overlap;                 // leaders that a member goes to
  };
  // How many candidates a row has, and what further ones must be below.
  struct Found {
    std::uint32_t all = 0;
    std::uint32_t sample = 0;
    std::int32_t all_bound = INT32_MAX;
    std::int32_t sample_bound = INT32_MAX;
  };
  class Comparison;
  [[nodiscard]] std::size_t leaders_for(std::size_t overlap, std::size_t n) const noexcept;
  [[nodiscard]] std::size_t overlap_for(const std::vector<std::uint32_t>& rows) const;
  [[nodiscard]] std::vector<std::uint32_t> nearest_rows(const std::vector<std::uint32_t>& rows,
                                                        const std::uint32_t* asked, std::size_t n,
                                                        std::size_t near) const;
  void divide(const std::vector<std::uint32_t>& rows, const Group& group, std::mt19937_64& random,
              std::vector<Group>& parts);

  GraphView g_;
  const BeamFns& fns_;
  const CodeSums& sums_;
  std::size_t ef_;
  LeafPlan plan_;
  RowLocks& locks_;
  unsigned threads_;
  std::size_t overlap_ = 0;
  AlignedBuffer<std::uint64_t> candidates_;  // of each row plan_.all.keep, then plan_.sample.keep of the sample
  std::vector<Found> found_;
  std::vector<std::uint32_t> order_;
};

}  // namespace vicinal::graph
