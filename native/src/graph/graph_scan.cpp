// Scanning matches: exactly, or by their codes and then exactly, and the exact distances of what walks propose.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "graph/constants.hpp"
#include "graph/isa.hpp"
#include "graph/keys.hpp"
#include "graph/search_call.hpp"

namespace vicinal::graph {

void GraphIndex::Search::scan(const ExactQuery& q, std::size_t first, std::size_t last, TopK& top) const {
  constexpr std::size_t block = 256;
  float distances[block];
  std::uint32_t rows[block] = {};
  if (pass == nullptr) {
    for (std::size_t at = first; at < last; at += block) {
      const std::size_t n = std::min(block, last - at);
      index.rows_.distances(q, nullptr, at, n, distances);
      top.offer(distances, nullptr, static_cast<std::uint32_t>(at), n);
    }
    return;
  }
  std::size_t n = 0;
  const auto flush = [&] {
    index.rows_.distances(q, rows, 0, n, distances);
    top.offer(distances, rows, 0, n);
    n = 0;
  };
  for_each_bit(pass, first, last, [&](std::uint32_t row) {
    rows[n++] = row;
    if (n == block) flush();
  });
  flush();
}

// Offers the exact distances of candidates; whether one is among the k nearest so far.
bool GraphIndex::Search::rerank(const ExactQuery& q, const Candidate* best, std::size_t n, TopK& top) const {
  constexpr std::size_t block = 256;
  std::uint32_t rows[block] = {};
  float distances[block];
  top.settle();
  const float kth = top.threshold();
  bool nearer = false;
  for (std::size_t at = 0; at < n; at += block) {
    const std::size_t m = std::min(block, n - at);
    for (std::size_t i = 0; i < m; ++i) {
      rows[i] = best[at + i].row;
      index.rows_.prefetch(rows[i]);
    }
    index.rows_.distances(q, rows, 0, m, distances);
    for (std::size_t i = 0; i < m; ++i) nearer |= distances[i] < kth;
    top.offer(distances, rows, 0, m);
  }
  return nearer;
}

// Offers the linked matches that are nearest; see scan_round_for().
void GraphIndex::Search::scan_near(const GraphView& g, const ExactQuery& q, const std::byte* code,
                                   std::vector<Candidate>& best, TopK& top) const {
  const std::size_t round = scan_round_for(p.k);
  CodeScan all;
  scan_codes(g, code, 2 * round, best, all);
  top.clear();
  if (best.size() <= round) {
    rerank(q, best.data(), best.size(), top);
    return;
  }
  std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(round) - 1, best.end(), nearer);
  rerank(q, best.data(), round, top);
  const bool settled = !rerank(q, best.data() + round, best.size() - round, top);
  if (settled || best.size() == all.n) return;
  top.settle();
  const std::int32_t farthest =
      std::max(farthest_key(g, q, all, top.threshold()), std::max_element(best.begin(), best.end(), nearer)->key);
  top.clear();
  constexpr std::size_t block = 256;
  std::uint32_t rows[block];
  float distances[block];
  std::size_t n = 0;
  std::size_t at = 0;
  const auto flush = [&] {
    index.rows_.distances(q, rows, 0, n, distances);
    top.offer(distances, rows, 0, n);
    n = 0;
  };
  for_each_bit(pass, 0, linked, [&](std::uint32_t row) {
    rows[n] = row;
    n += all.keys[at++] <= farthest ? 1U : 0U;
    if (n == block) flush();
  });
  flush();
}

// The largest key that a row may have whose exact distance is kth. Keys are taken to be in a straight line with
// distances but for their rounding, which some of the matches tell.
std::int32_t GraphIndex::Search::farthest_key(const GraphView& g, const ExactQuery& q, const CodeScan& all,
                                              float kth) const {
  const std::size_t n = std::min(all.some.size(), kScanSample);
  std::uint32_t rows[kScanSample];
  float distances[kScanSample];
  double keys[kScanSample];
  double mean_key = 0.0;
  double mean = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const Candidate& c = all.some[i * all.some.size() / n];
    rows[i] = c.row;
    keys[i] = key_value(g.kind, c.key);
  }
  index.rows_.distances(q, rows, 0, n, distances);
  for (std::size_t i = 0; i < n; ++i) {
    mean_key += keys[i] / static_cast<double>(n);
    mean += static_cast<double>(distances[i]) / static_cast<double>(n);
  }
  double squares = 0.0;
  double products = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    squares += (distances[i] - mean) * (distances[i] - mean);
    products += (distances[i] - mean) * (keys[i] - mean_key);
  }
  if (n < 8 || !(products > 0.0)) return INT32_MAX;
  const double slope = products / squares;  // keys for a distance
  double rest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double off = keys[i] - mean_key - slope * (distances[i] - mean);
    rest += off * off;
  }
  const double away = kth - mean;
  const double deviation =
      std::sqrt(rest / static_cast<double>(n - 2) * (1.0 + 1.0 / static_cast<double>(n) + away * away / squares));
  return key_up_to(g.kind, mean_key + slope * away + kScanMargin * deviation);
}

// The linked matches nearest by their codes, in no order, and the keys of all.
void GraphIndex::Search::scan_codes(const GraphView& g, const std::byte* code, std::size_t wanted,
                                    std::vector<Candidate>& best, CodeScan& all) const {
  constexpr std::size_t block = 256;
  constexpr std::size_t apart = 64;  // of the matches in CodeScan::some
  const BeamFns& fns = beam_fns(best_isa());
  std::uint32_t rows[block];
  std::size_t n = 0;
  std::int32_t bound = INT32_MAX;
  best.clear();
  best.reserve(2 * wanted + block);
  all.keys = std::make_unique_for_overwrite<std::int32_t[]>(matches + block + kSlotPad);
  const auto flush = [&] {
    std::int32_t* keys = all.keys.get() + all.n;
    fns.keys(g, code, rows, n, keys);
    for (std::size_t i = 0; i < n; ++i) {
      if (keys[i] < bound) best.push_back({keys[i], rows[i]});
    }
    for (std::size_t i = 0; i < n; i += apart) all.some.push_back({keys[i], rows[i]});
    all.n += n;
    n = 0;
    if (best.size() >= 2 * wanted) {
      std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(wanted), best.end(), nearer);
      best.resize(wanted);
      bound = std::max_element(best.begin(), best.end(), nearer)->key;
    }
  };
  for_each_bit(pass, 0, linked, [&](std::uint32_t row) {
    const auto* line = reinterpret_cast<const char*>(g.code(row));
    for (const char* last = line + g.code_bytes; line < last; line += kCacheLine) {
      __builtin_prefetch(line, 0, 2);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC 12 would keep only the first
    }
    rows[n++] = row;
    if (n == block) flush();
  });
  flush();
  if (best.size() > wanted) {
    std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(wanted), best.end(), nearer);
    best.resize(wanted);
  }
}

}  // namespace vicinal::graph
