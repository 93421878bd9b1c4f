// One search call of a graph index: what its queries share, and how matches are scanned. Only graph_query.cpp, which
// plans and walks, and graph_scan.cpp include this.
#pragma once

#include <bit>
#include <memory>
#include <vector>

#include "base/topk.hpp"
#include "graph/graph_index.hpp"
#include "graph/prune.hpp"

namespace vicinal::graph {

// scan: exact distances of all matches; codes: their codes, then exact distances of the best; two_hop and gate: walks.
enum class Plan : std::uint8_t { scan, codes, two_hop, gate };

// The codes of all matches, compared with one query.
struct CodeScan {
  std::unique_ptr<std::int32_t[]> keys;  // of each match, in the order of their rows
  std::size_t n = 0;
  std::vector<Candidate> some;  // matches chosen by nothing but their place
};

// One search call: what all its queries share.
struct GraphIndex::Search {
  const GraphIndex& index;
  const SearchParameters& p;
  std::size_t linked;
  std::size_t size;
  std::size_t matches;        // live rows that pass the filter, exactly
  const std::uint64_t* pass;  // those rows; null: all
  Plan plan;
  std::vector<std::uint64_t> owned;  // behind pass when there is a filter
  std::vector<std::uint32_t> entries;
  const qgraph::QGraph* packed;  // the form to search; null: codes
  float scale;                   // of its beam
  bool alone = false;            // the call has one query
  bool watched = false;          // a filtered walk that may turn out to be the wrong plan

  void scan(const ExactQuery& q, std::size_t first, std::size_t last, TopK& top) const;
  // order: the n queries to answer, by their numbers, see near_order(); null: 0, 1, ...
  void run(const std::byte* queries, std::size_t n, const std::uint32_t* order, std::int64_t* out_rows,
           float* out_distances) const;
  void run_codes(Plan how, const std::byte* queries, std::size_t n, std::int64_t* out_rows, float* out_distances) const;
  void scan_near(const GraphView& g, const ExactQuery& q, const std::byte* code, std::vector<Candidate>& best,
                 TopK& top) const;
  std::int32_t farthest_key(const GraphView& g, const ExactQuery& q, const CodeScan& all, float kth) const;
  void scan_codes(const GraphView& g, const std::byte* code, std::size_t wanted, std::vector<Candidate>& best,
                  CodeScan& all) const;
  bool rerank(const ExactQuery& q, const Candidate* best, std::size_t n, TopK& top) const;
  void look_around(const GraphView& g, Scratch& s, std::size_t n, std::vector<std::uint8_t>& lost) const;
  void run_packed(const std::byte* queries, std::size_t n, const std::uint32_t* order, std::int64_t* out_rows,
                  float* out_distances) const;
};

inline bool nearer(const Candidate& a, const Candidate& b) noexcept {
  return a.key < b.key || (a.key == b.key && a.row < b.row);
}

// Calls take(row) for each set bit [first, last), ascending.
template <class Take>
void for_each_bit(const std::uint64_t* words, std::size_t first, std::size_t last, const Take& take) {
  for (std::size_t word = first / 64; word * 64 < last; ++word) {
    std::uint64_t bits = __atomic_load_n(&words[word], __ATOMIC_RELAXED);
    if (word == first / 64) bits &= ~std::uint64_t{0} << (first % 64);
    if (last - word * 64 < 64) bits &= (std::uint64_t{1} << (last - word * 64)) - 1;
    for (; bits != 0; bits &= bits - 1) {
      take(static_cast<std::uint32_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(bits))));
    }
  }
}

}  // namespace vicinal::graph
