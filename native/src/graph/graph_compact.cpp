// A copy of the index that holds only some of its rows: what gives the memory of updates back.
//
// Nothing is linked anew. Rows move together in their old order and edges are renumbered; a row that loses neighbours
// chooses new ones behind them, as repair() does, but in the copy: the original, which may lie in a file, is only read.
#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph {
namespace {

constexpr std::uint32_t kGone = UINT32_MAX;

// The new place of each of n rows, kGone for those that are left out.
std::vector<std::uint32_t> places_of(const std::vector<std::int64_t>& keep, std::size_t n) {
  std::vector<std::uint32_t> places(n, kGone);
  std::int64_t before = -1;
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (keep[i] <= before || keep[i] >= static_cast<std::int64_t>(n)) {
      throw Error(ErrorCode::invalid_argument, "row " + std::to_string(keep[i]) + " at place " + std::to_string(i) +
                                                   " of keep; pass ascending rows, each once, 0 to " +
                                                   std::to_string(static_cast<std::int64_t>(n) - 1));
    }
    before = keep[i];
    places[static_cast<std::size_t>(keep[i])] = static_cast<std::uint32_t>(i);
  }
  return places;
}

}  // namespace

std::vector<std::int64_t> GraphIndex::live_rows() const {
  std::vector<std::int64_t> rows;
  const std::size_t n = size();
  for (std::uint32_t row = 0; row < n; ++row) {
    if (is_live(row)) rows.push_back(row);
  }
  return rows;
}

std::unique_ptr<GraphIndex> GraphIndex::compact(const std::vector<std::int64_t>& keep, const std::byte* rows,
                                                std::size_t n_rows, unsigned threads) const {
  auto made = std::make_unique<GraphIndex>(config_);
  GraphIndex& to = *made;
  const std::lock_guard lock(link_mutex_);
  const std::vector<std::uint32_t> places = places_of(keep, size());
  if (rows != nullptr) {
    if (n_rows < keep.size()) {
      throw Error(ErrorCode::invalid_argument, "vectors has " + std::to_string(n_rows) + " rows, " +
                                                   std::to_string(keep.size()) +
                                                   " are kept; pass those in their order, and any new ones behind");
    }
    to.attach_rows(rows, n_rows);
  } else {
    for (std::size_t at = 0; at < keep.size();) {
      std::size_t end = at + 1;  // of a run of rows that lie together
      while (end < keep.size() && keep[end] == keep[end - 1] + 1 &&
             static_cast<std::size_t>(keep[end]) != rows_.n_external()) {
        ++end;
      }
      to.append(rows_.row(static_cast<std::size_t>(keep[at])), end - at);
      at = end;
    }
  }
  const auto linked_end = std::lower_bound(keep.begin(), keep.end(), static_cast<std::int64_t>(linked()));
  const auto n_linked = static_cast<std::size_t>(linked_end - keep.begin());
  if (n_linked > 0) {
    copy_graph(to, keep, places, n_linked, threads);
    to.choose_entries(n_linked);
    to.attach_unreachable(n_linked, threads);
    to.attach_unfound(row_range(0, n_linked), n_linked, threads);
    to.pack(n_linked, threads);
    if (to.format() == format()) {  // as good a graph as before: what was measured holds, in the same units of ef
      to.packed_scale_.store(packed_scale_.load());
      to.set_calibration(calibration());
    }
    to.linked_.store(n_linked, std::memory_order_release);
  }
  // Removed rows that are kept, or were removed while this ran, are removed from the copy, too.
  std::vector<std::int64_t> removed;
  for (std::size_t row = 0; row < keep.size(); ++row) {
    if (!is_live(static_cast<std::uint32_t>(keep[row]))) removed.push_back(static_cast<std::int64_t>(row));
  }
  to.remove(removed.data(), removed.size());
  return made;
}

// Codes and edges of the first n_linked rows that are kept.
void GraphIndex::copy_graph(GraphIndex& to, const std::vector<std::int64_t>& keep,
                            const std::vector<std::uint32_t>& places, std::size_t n_linked, unsigned threads) const {
  to.codec_.set_parameters(to.rows_, codec_.parameters());
  to.grow_graph(n_linked);
  const std::size_t words = (linked() + 63) / 64;
  std::vector<std::uint64_t> stays(words, 0);
  for (std::size_t i = 0; i < n_linked; ++i) {
    const auto row = static_cast<std::uint64_t>(keep[i]);
    stays[row / 64] |= std::uint64_t{1} << (row % 64);
  }
  const BeamFns& fns = beam_fns(best_isa());
  const GraphView g = view(static_cast<std::uint32_t>(linked()));
  auto* in_degrees = to.in_degrees_.as<std::uint16_t>();
  ThreadPool::instance().parallel_for(n_linked, threads, 256, [&](std::size_t begin, std::size_t end, unsigned) {
    Pruner pruner(fns, g.kind);
    std::vector<std::uint32_t> near;
    std::vector<Candidate> candidates;
    Candidate chosen[kDegreeMax];
    std::uint32_t next[kDegreeMax];
    for (std::size_t row = begin; row < end; ++row) {
      const auto from = static_cast<std::uint32_t>(keep[row]);
      std::copy_n(codes_.data() + from * codec_.stride(), codec_.stride(), to.codes_.data() + row * codec_.stride());
      std::size_t count = 0;
      if (gather_around(from, stays, near)) {
        count = choose_among(g, pruner, from, near, candidates, chosen);
        for (std::size_t i = 0; i < count; ++i) next[i] = chosen[i].row;
      } else {
        count = neighbours(from, next);
      }
      std::uint32_t* edges = to.edges_.row(static_cast<std::uint32_t>(row));
      std::fill_n(edges, edges_.stride, static_cast<std::uint32_t>(row));
      for (std::size_t i = 0; i < count; ++i) {
        edges[i] = places[next[i]];
        __atomic_fetch_add(&in_degrees[edges[i]], std::uint16_t{1}, __ATOMIC_RELAXED);
      }
    }
  });
}

}  // namespace vicinal::graph
