// Tests of the sealed graph: rotation, f16, search on every instruction set against exact answers, filters, files.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "distance/rows.hpp"
#include "qgraph/half.hpp"
#include "qgraph/qgraph.hpp"
#include "qgraph_set.hpp"

using namespace vicinal;
using namespace vicinal::qgraph;
using namespace vicinal::qgraph::test;
using vicinal::test::fewer;
using vicinal::test::throws;

namespace {

void rotation_keeps_lengths_and_angles() {
  for (const std::size_t padded : {64, 128, 192, 320, 384, 960, 1024, 1536}) {
    const Rotation rotation(padded, 5);
    for (const Isa isa : isas()) {
      std::vector<float> a = vectors(1, padded, 1), b = vectors(1, padded, 2);
      const float before = exact(a.data(), b.data(), padded, Metric::l2);
      loops_for(isa).rotate(rotation.view(), a.data());
      loops_for(isa).rotate(rotation.view(), b.data());
      const float after = exact(a.data(), b.data(), padded, Metric::l2);
      CHECK(std::fabs(after - before) < 1e-4F * before, padded, isa_name(isa), before, after);
    }
  }
}

void halves_survive_the_way_there_and_back() {
  for (std::uint32_t h = 0; h < 0x10000; ++h) {
    const float f = half_to_float(static_cast<std::uint16_t>(h));
    if (std::isnan(f)) continue;
    CHECK(float_to_half(f) == h, h, f);
  }
  CHECK(float_to_half(65519.9F) == 0x7BFF, "rounds down to the largest");
  CHECK(float_to_half(65520.0F) == 0x7C00, "rounds to infinity");
  CHECK(float_to_half(1.0F + 1.0F / 2048) == 0x3C00, "ties go to even");
}

void edges_have_one_code_on_every_instruction_set() {
  std::mt19937 random(11);
  for (const std::size_t padded : {64, 128, 192, 960}) {
    std::vector<std::int8_t> own(padded), other(padded);
    for (std::size_t i = 0; i < padded; ++i) {
      own[i] = static_cast<std::int8_t>(random() % 255);
      other[i] = static_cast<std::int8_t>(random() % 255);
    }
    for (const std::uint32_t bits : {1U, 2U}) {
      const std::size_t words = padded * bits / 64;
      double square = 0, along = 0;
      std::vector<double> r(padded);
      for (std::size_t i = 0; i < padded; ++i) {
        r[i] = 0.02 * other[i] - 0.03 * own[i];
        square += r[i] * r[i];
      }
      for (const Isa isa : isas()) {
        std::vector<std::uint64_t> code(words);
        const EdgeSums sums = loops_for(isa).edge(own.data(), 0.03F, other.data(), 0.02F, padded, bits, code.data());
        CHECK(std::fabs(sums.square - square) < 1e-4 * square, isa_name(isa), padded, bits, sums.square, square);
        along = 0;
        for (std::size_t i = 0; i < padded; ++i) {
          const auto value = static_cast<int>(code[i * bits / 64] >> (i * bits % 64) & ((1U << bits) - 1));
          const double s = bits == 1 ? 2.0 * value - 1.0 : (2.0 * value - 3.0) / 3.0;
          CHECK(r[i] == 0 || (s > 0) == (r[i] > 0), isa_name(isa), padded, bits, i, value, r[i]);
          along += s * r[i];
        }
        CHECK(std::fabs(sums.along - along) < 1e-3 * square, isa_name(isa), padded, bits, sums.along, along);
      }
    }
  }
}

void search_finds_the_nearest_on_every_instruction_set() {
  for (const Metric metric : {Metric::l2, Metric::cosine, Metric::ip}) {
    for (const std::size_t dim : {1, 3, 64, 100, 128, 200, 384, 960}) {
      if (metric != Metric::l2 && dim == 1) continue;  // one dimension has two directions: nothing but ties
      const Set set(fewer(dim > 300 ? 500 : 1000), dim, metric);
      const std::unique_ptr<QGraph> graph = set.pack();
      for (const Isa isa : isas()) {
        const Loops loops = loops_for(isa);
        SearchOptions options;
        options.ef = 150;
        options.loops = &loops;
        const Answer batch = ask(graph, set, options);
        check_answer(set, batch, options.k);
        const double r = recall(set, batch, options.k);
        CHECK(r >= kRecallFloor, isa_name(isa), static_cast<int>(metric), dim, r);
        for (const std::size_t interleave : {1, 2, 3, 5, 8}) {
          options.interleave = interleave;
          const Answer other = ask(graph, set, options);
          CHECK(other.rows == batch.rows, isa_name(isa), dim, interleave);
          CHECK(other.distances == batch.distances, isa_name(isa), dim, interleave);
        }
        // A query alone chooses nodes a turn late, and so goes another way.
        options.alone = true;
        const Answer alone = ask(graph, set, options);
        check_answer(set, alone, options.k);
        const double one = recall(set, alone, options.k);
        CHECK(one >= kRecallFloor, isa_name(isa), static_cast<int>(metric), dim, one);
      }
    }
  }
}

// What was expanded for each query, in order.
struct Visits {
  struct Node {
    std::uint32_t row;
    float estimate;
    float own;
  };
  std::vector<std::vector<Node>> of;

  static Visits record(const QGraph& graph, const Set& set, SearchOptions options) {
    Visits visits;
    visits.of.resize(set.nq());
    const std::uint32_t entry = 0;
    options.entries = &entry;
    options.n_entries = 1;
    if (options.limit == 0) options.limit = static_cast<std::uint32_t>(set.n);
    Reranker reranker;
    reranker.context = &visits;
    reranker.rerank = [](const void*, std::size_t, const std::uint32_t*, std::size_t) noexcept {};
    reranker.visited = [](const void* context, std::size_t query, const std::uint32_t* rows, const float* estimates,
                          const float* own, std::size_t n) noexcept {
      auto& to = const_cast<Visits*>(static_cast<const Visits*>(context))->of[query];
      for (std::size_t i = 0; i < n; ++i) to.push_back({rows[i], estimates[i], own[i]});
    };
    graph.search(set.queries.data(), set.nq(), options, reranker);
    return visits;
  }
};

// A search that may end early walks as one that may not, up to the first node that is far enough away.
void an_early_end_comes_where_the_next_node_is_far_away_on_every_instruction_set() {
  constexpr float part = 0.9F;
  for (const Metric metric : {Metric::l2, Metric::cosine, Metric::ip}) {
    const Set set(fewer(1000), 64, metric);
    const std::unique_ptr<QGraph> graph = set.pack();
    std::vector<std::uint64_t> pass(set.n / 64 + 1, 0xF0F0F0F0F0F0F0F0U);
    for (const bool filtered : {false, true}) {
      for (const Isa isa : isas()) {
        const Loops loops = loops_for(isa);
        SearchOptions options;
        options.ef = 150;
        options.k = 5;
        options.loops = &loops;
        options.pass = filtered ? pass.data() : nullptr;
        const Visits whole = Visits::record(*graph, set, options);
        options.near_part = part;
        const Visits early = Visits::record(*graph, set, options);
        std::size_t ended = 0;
        for (std::size_t q = 0; q < set.nq(); ++q) {
          const auto& all = whole.of[q];
          std::size_t end = options.k;
          for (; end < all.size(); ++end) {
            const float next = all[end].estimate > 0 ? part * all[end].estimate : all[end].estimate;
            const auto near = static_cast<std::size_t>(
                std::count_if(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(end), [&](const auto& node) {
                  return node.own < next && (!filtered || (pass[node.row / 64] >> (node.row % 64) & 1) != 0);
                }));
            if (near >= options.k) break;
          }
          // A distance within a rounding of the limit may fall on either side.
          const std::size_t got = early.of[q].size();
          CHECK(got + 1 >= end && got <= end + 1, isa_name(isa), static_cast<int>(metric), filtered, q, got, end);
          for (std::size_t i = 0; i < std::min(got, all.size()); ++i) {
            CHECK(early.of[q][i].row == all[i].row, isa_name(isa), q, i);
          }
          ended += got < all.size() ? 1U : 0U;
        }
        CHECK(ended * 2 > set.nq(), isa_name(isa), static_cast<int>(metric), filtered, ended);
      }
    }
  }
}

void a_filtered_walk_is_one_without_a_filter_until_matches_are_too_few_on_every_instruction_set() {
  const Set set(fewer(1200), 64, Metric::l2);
  const std::unique_ptr<QGraph> graph = set.pack();
  const std::vector<std::uint64_t> all(set.n / 64 + 1, ~std::uint64_t{0});
  std::vector<std::uint64_t> half(set.n / 64 + 1), eighth(set.n / 64 + 1);
  std::mt19937_64 random(7);
  for (std::size_t word = 0; word < half.size(); ++word) {
    half[word] = random();
    eighth[word] = half[word] & random() & random();
  }
  const std::vector<std::uint64_t> few(set.n / 64 + 1, 1U);
  for (const Isa isa : isas()) {
    const Loops loops = loops_for(isa);
    SearchOptions options;
    options.ef = 80;
    options.k = 5;
    options.loops = &loops;
    const Visits plain = Visits::record(*graph, set, options);
    const auto expanded = [&](const std::vector<std::uint64_t>& pass, std::size_t enough, float rows_per_match) {
      options.pass = pass.data();
      options.enough = enough;
      options.nodes_max = 400;
      options.rows_per_match = rows_per_match;
      return Visits::record(*graph, set, options);
    };
    const auto kept = [](const auto& nodes, const std::vector<std::uint64_t>& pass) {
      return static_cast<std::size_t>(std::count_if(nodes.begin(), nodes.end(), [&](const auto& node) {
        return (pass[node.row / 64] >> (node.row % 64) & 1) != 0;
      }));
    };
    const Visits with_all = expanded(all, 20, 1.0F), with_half = expanded(half, 20, 2.0F);
    const Visits with_eighth = expanded(eighth, 20, 8.0F);
    std::size_t nodes = 0, nodes_of_half = 0, eighths = 0;
    for (std::size_t q = 0; q < set.nq(); ++q) {
      CHECK(with_all.of[q].size() == plain.of[q].size(), isa_name(isa), q);
      // Walks among so few rows run out of candidates, with a filter no sooner than without.
      CHECK(kept(with_half.of[q], half) >= std::min<std::size_t>(20, kept(plain.of[q], half)), isa_name(isa), q);
      CHECK(with_eighth.of[q].size() > plain.of[q].size(), isa_name(isa), q);
      nodes += plain.of[q].size();
      nodes_of_half += with_half.of[q].size();
      eighths += kept(with_eighth.of[q], eighth);
    }
    CHECK(eighths >= 19 * set.nq(), isa_name(isa), eighths);
    CHECK(nodes_of_half < nodes * 11 / 10, isa_name(isa), nodes_of_half, nodes);
    CHECK(expanded(eighth, 80, 8.0F).of[0].size() <= 400, isa_name(isa));

    options.pass = half.data();
    options.enough = 20;
    options.rows_per_match = 2.0F;
    options.look = 32;
    options.share_min = 0.1F;
    CHECK(recall(set, ask(graph, set, options), options.k, &half) >= kRecallFloor, isa_name(isa));
    options.pass = few.data();  // one row in 64
    for (const auto& walk : Visits::record(*graph, set, options).of) CHECK(walk.size() == 32, walk.size());
    for (const bool alone : {false, true}) {
      options.alone = alone;
      for (const std::int64_t row : ask(graph, set, options).rows) CHECK(row == -1, isa_name(isa), row);
    }
  }
}

// Long lists lie in blocks, and nodes are told expanded by bits or, in larger graphs, by a table: each of it on the
// way.
void every_hop_goes_to_the_nearest_candidate_on_every_instruction_set() {
  constexpr std::uint32_t many = 1U << 30;  // so many rows have no bits
  for (const Metric metric : {Metric::l2, Metric::ip}) {
    const Set set(fewer(1200), 64, metric);
    const std::unique_ptr<QGraph> graph = set.pack();
    const auto leads = [&](std::uint32_t from, std::uint32_t to) {
      const std::uint32_t* ids = &set.ids[from * kDegree];
      return std::find(ids, ids + set.counts[from], to) != ids + set.counts[from];
    };
    for (const Isa isa : isas()) {
      const Loops loops = loops_for(isa);
      SearchOptions options;
      options.loops = &loops;
      for (const std::size_t ef : {40, 200, 500, 1500}) {
        options.ef = ef;
        options.limit = 0;
        options.interleave = 0;
        const Visits walks = Visits::record(*graph, set, options);
        for (std::size_t q = 0; q < set.nq(); ++q) {
          const auto& nodes = walks.of[q];
          std::vector<bool> seen(set.n, false);
          for (const auto& node : nodes) {
            CHECK(!seen[node.row], isa_name(isa), ef, q, node.row);
            seen[node.row] = true;
          }
          if (q % 8 != 0) continue;
          for (std::size_t j = 1; j < nodes.size(); ++j) {
            std::size_t i = j;  // it has been a candidate since the last node before it that leads to it
            while (i-- > 0 && !leads(nodes[i].row, nodes[j].row)) {
              CHECK(nodes[i].estimate <= nodes[j].estimate, isa_name(isa), ef, q, i, j);
            }
            CHECK(i < nodes.size(), "no edge leads there", isa_name(isa), ef, q, j);
          }
        }
        for (const std::uint32_t limit : {static_cast<std::uint32_t>(set.n), many}) {
          for (const std::size_t interleave : {1, 4}) {
            options.limit = limit;
            options.interleave = interleave;
            const Visits others = Visits::record(*graph, set, options);
            for (std::size_t q = 0; q < set.nq(); ++q) {
              const auto same = [](const auto& a, const auto& b) { return a.row == b.row && a.estimate == b.estimate; };
              CHECK(std::equal(others.of[q].begin(), others.of[q].end(), walks.of[q].begin(), walks.of[q].end(), same),
                    isa_name(isa), ef, q, limit, interleave);
            }
          }
        }
      }
    }
  }
}

void estimates_order_neighbours_well_enough_to_walk_greedily() {
  // With few expansions recall depends on the estimates themselves: garbage codes would find almost nothing.
  const Set set(fewer(2000), 128, Metric::l2);
  const std::unique_ptr<QGraph> graph = set.pack();
  SearchOptions options;
  options.ef = 30;
  const double r = recall(set, ask(graph, set, options), options.k);
  CHECK(r >= 0.8, r);
}

void two_bits_find_more_in_as_many_nodes_on_every_instruction_set() {
  const Set set(fewer(2000), 128, Metric::l2, 100);
  const std::unique_ptr<QGraph> one = set.pack(kDegree, 1);
  const std::unique_ptr<QGraph> two = set.pack(kDegree, 2);
  CHECK(one->stride() < two->stride(), one->stride(), two->stride());
  for (const Isa isa : isas()) {
    const Loops loops = loops_for(isa);
    SearchOptions options;
    options.ef = 16;
    options.loops = &loops;
    const double by_one = recall(set, ask(one, set, options), options.k);
    const double by_two = recall(set, ask(two, set, options), options.k);
    CHECK(by_two > by_one, isa_name(isa), by_one, by_two);
  }
}

// Fewer exact distances than the limit are taken where own distances lie further apart than their rounding.
void rows_that_cannot_be_among_the_nearest_are_not_compared() {
  const Set set(fewer(2000), 256, Metric::l2, 100);
  const std::unique_ptr<QGraph> graph = set.pack();
  SearchOptions options;
  options.ef = 100;
  const std::uint32_t entry = 0;
  options.entries = &entry;
  options.n_entries = 1;
  options.limit = static_cast<std::uint32_t>(set.n);
  std::size_t compared = 0;
  Reranker reranker;
  reranker.context = &compared;
  reranker.rerank = [](const void* context, std::size_t, const std::uint32_t*, std::size_t n) noexcept {
    CHECK(n >= 10 && n <= rerank_for(10) + 2, n);
    *const_cast<std::size_t*>(static_cast<const std::size_t*>(context)) += n;
  };
  graph->search(set.queries.data(), set.nq(), options, reranker);
  CHECK(compared < set.nq() * (rerank_for(10) - 1), compared);
}

void only_rows_that_pass_are_proposed() {
  const Set set(fewer(1500), 64, Metric::l2);
  const std::unique_ptr<QGraph> graph = set.pack();
  std::vector<std::uint64_t> pass((set.n + 63) / 64);
  std::mt19937_64 random(9);
  for (std::uint64_t& word : pass) word = random();
  SearchOptions options;
  options.ef = 400;
  options.pass = pass.data();
  const Answer a = ask(graph, set, options);
  check_answer(set, a, options.k);
  for (const std::int64_t row : a.rows) {
    CHECK(row < 0 || (pass[static_cast<std::size_t>(row) / 64] >> (row % 64) & 1) != 0, row);
  }
  CHECK(recall(set, a, options.k, &pass) >= kRecallFloor, "filtered");
  const std::vector<std::uint64_t> none(pass.size(), 0);
  options.pass = none.data();
  for (const std::int64_t row : ask(graph, set, options).rows) CHECK(row == -1, row);
}

void rows_linked_later_are_found_and_changed_edges_are_followed() {
  Set set(fewer(1600), 48, Metric::l2);
  const std::size_t old = set.n * 5 / 8;
  // The first rows alone, then the rest row by row as an index appends them, then every edge anew.
  QGraph graph(set.dim, set.metric, kDegree, 1);
  graph.train(old, [&](std::size_t row, float* out) { set.read(row, out); });
  std::vector<float> values(set.dim);
  AlignedBuffer<float> work(graph.padded());
  for (std::uint32_t row = 0; row < set.n; ++row) {
    graph.grow(row + 1);
    graph.place(row, row);
    set.read(row, values.data());
    graph.encode_own(row, values.data(), work.data());
    graph.encode_edges(row, nullptr, 0, true);
  }
  std::mt19937 random(4);
  std::uint32_t wrong[kDegree];
  for (std::uint32_t row = 0; row < set.n; ++row) {
    for (std::uint32_t& to : wrong) to = (row + 1 + random() % static_cast<std::uint32_t>(set.n - 1)) % set.n;
    graph.encode_edges(row, wrong, kDegree, false);
  }
  for (std::uint32_t row = 0; row < set.n; ++row) graph.encode_edges(row, &set.ids[row * kDegree], kDegree, false);
  SearchOptions options;
  options.ef = 150;
  const Answer a = ask(graph, set, options);
  check_answer(set, a, options.k);
  CHECK(recall(set, a, options.k) >= kRecallFloor, recall(set, a, options.k));
}

void small_and_degenerate_sets_are_answered() {
  for (const std::size_t n : {1, 2, 5, 31, 33, 70}) {
    const Set set(n, 20, Metric::l2);
    const std::unique_ptr<QGraph> graph = set.pack();
    SearchOptions options;
    options.ef = 100;
    const Answer a = ask(graph, set, options);
    check_answer(set, a, options.k);
    CHECK(recall(set, a, options.k) == 1.0, n);
  }
  for (const Metric metric : {Metric::l2, Metric::cosine, Metric::ip}) {
    Set set(300, 16, metric);
    std::fill(set.rows.begin(), set.rows.end(), metric == Metric::ip ? 0.0F : 1.5F);  // all rows are the same
    set.link();
    const std::unique_ptr<QGraph> graph = set.pack();
    for (const Isa isa : isas()) {
      const Loops loops = loops_for(isa);
      SearchOptions options;
      options.ef = 60;
      options.loops = &loops;
      const Answer a = ask(graph, set, options);
      check_answer(set, a, options.k);
      for (const std::int64_t row : a.rows) CHECK(row >= 0, isa_name(isa), static_cast<int>(metric));
    }
  }
  Set zero(200, 8, Metric::cosine);
  std::fill(zero.queries.begin(), zero.queries.end(), 0.0F);
  check_answer(zero, ask(zero.pack(), zero, {}), 10);
}

void many_results_are_proposed_where_many_are_asked() {
  const Set set(1200, 48, Metric::l2, 100);
  const std::unique_ptr<QGraph> graph = set.pack();
  SearchOptions options;
  options.k = 250;
  options.ef = 600;
  const Answer one = ask(graph, set, options);
  check_answer(set, one, options.k);
  CHECK(recall(set, one, options.k) >= kRecallFloor, "k = 250");
}

void wide_rows_work() {
  const Set set(fewer(800), 96, Metric::l2);
  SearchOptions search;
  search.ef = 150;
  for (const std::size_t degree : {33, 64, 96, 128}) {  // with 32 of them in use
    const Answer a = ask(set.pack(degree), set, search);
    check_answer(set, a, search.k);
    CHECK(recall(set, a, search.k) >= kRecallFloor, degree, recall(set, a, search.k));
  }
}

void adopted_rows_are_checked() {
  const Set set(300, 72, Metric::cosine);
  const std::unique_ptr<QGraph> graph = set.pack();
  const Answer before = ask(graph, set, {});
  QGraph again(set.dim, set.metric, kDegree, 1);
  again.set_parameters(graph->parameters());
  const auto copy = [&] {
    again.row_block().grow(set.n * graph->stride() + kCacheLine);
    std::memcpy(again.row_block().data(), graph->row_block().data(), set.n * graph->stride());
  };
  copy();
  CHECK(again.adopt(set.n).empty());
  CHECK(ask(again, set, {}).rows == before.rows);
  const std::uint32_t far = 300;
  std::memcpy(again.row_block().data() + 5 * graph->stride(), &far, 4);  // a neighbour's number
  CHECK(!again.adopt(set.n).empty(), "edge past the end");
  copy();
  const Layout layout = Layout::of(set.dim, kDegree, bits_for(set.dim));
  std::memcpy(again.row_block().data() + layout.header + offsetof(RowHeader, row),
              again.row_block().data() + graph->stride() + layout.header + offsetof(RowHeader, row), 4);
  CHECK(!again.adopt(set.n).empty(), "two nodes of one row");
}

// Files of older releases hold rows of an unlucky length side by side.
void rows_side_by_side_are_adopted_and_answer_the_same() {
  const Set set(300, 256, Metric::l2);
  const Layout layout = Layout::of(set.dim, kDegree, bits_for(set.dim));
  CHECK(unlucky(layout.bytes), "the case of the test");
  const std::unique_ptr<QGraph> graph = set.pack();
  CHECK(graph->apart() && graph->stride() == layout.bytes + kApart);
  QGraph close(set.dim, set.metric, kDegree, 1, bits_for(set.dim), true);
  CHECK(!close.apart() && close.stride() == layout.bytes);
  close.set_parameters(graph->parameters());
  close.row_block().grow(set.n * close.stride() + kCacheLine);
  for (std::size_t node = 0; node < set.n; ++node) {
    std::memcpy(close.row_block().data() + node * close.stride(), graph->row_block().data() + node * graph->stride(),
                close.stride());
  }
  CHECK(close.adopt(set.n).empty());
  CHECK(ask(close, set, {}).rows == ask(graph, set, {}).rows);
  CHECK(!QGraph(72, Metric::l2, kDegree, 1).apart(), "a length that is no multiple needs nothing");
  const QGraph pages(768, Metric::l2, kDegree, 1);
  CHECK(pages.stride() == 4096 && !pages.apart(), "whole pages stay");
}

void metrics_without_estimates_are_refused() {
  for (const Metric metric : {Metric::hamming, Metric::manhattan}) {
    CHECK(throws<Error>([&] { const QGraph graph(8, metric, kDegree, 1); },
                        [](const Error& e) { return e.code() == ErrorCode::invalid_argument; }));
  }
}

}  // namespace

int main() {
  edges_have_one_code_on_every_instruction_set();
  rotation_keeps_lengths_and_angles();
  halves_survive_the_way_there_and_back();
  search_finds_the_nearest_on_every_instruction_set();
  a_filtered_walk_is_one_without_a_filter_until_matches_are_too_few_on_every_instruction_set();
  an_early_end_comes_where_the_next_node_is_far_away_on_every_instruction_set();
  every_hop_goes_to_the_nearest_candidate_on_every_instruction_set();
  estimates_order_neighbours_well_enough_to_walk_greedily();
  two_bits_find_more_in_as_many_nodes_on_every_instruction_set();
  rows_that_cannot_be_among_the_nearest_are_not_compared();
  only_rows_that_pass_are_proposed();
  rows_linked_later_are_found_and_changed_edges_are_followed();
  small_and_degenerate_sets_are_answered();
  many_results_are_proposed_where_many_are_asked();
  wide_rows_work();
  adopted_rows_are_checked();
  rows_side_by_side_are_adopted_and_answer_the_same();
  metrics_without_estimates_are_refused();
  return vicinal::test::failures();
}
