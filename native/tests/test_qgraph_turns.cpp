// Tests of when things happen in searches of packed graphs: queries alone and in another order, rows sent for.
#include <cstddef>
#include <memory>
#include <vector>

#include "check.hpp"
#include "qgraph/qgraph.hpp"
#include "qgraph_set.hpp"

using namespace vicinal;
using namespace vicinal::qgraph;
using namespace vicinal::qgraph::test;

namespace {

void queries_alone_find_as_much_as_together() {
  const Set set(vicinal::test::fewer(1000), 128, Metric::l2, 200);
  const std::unique_ptr<QGraph> graph = set.pack();
  for (const Isa isa : isas()) {
    const Loops loops = loops_for(isa);
    for (const float part : {0.0F, 0.9F}) {
      SearchOptions options;
      options.loops = &loops;
      options.near_part = part;
      for (const std::size_t ef : {10, 20, 60}) {
        options.ef = ef;
        options.alone = false;
        const double together = recall(set, ask(graph, set, options), options.k);
        options.alone = true;
        const double alone = recall(set, ask(graph, set, options), options.k);
        CHECK(alone >= together - 0.005, isa_name(isa), ef, part, alone, together);
      }
    }
  }
}

void the_order_of_queries_changes_no_answer() {
  const Set set(vicinal::test::fewer(1000), 100, Metric::cosine, 60);
  const std::unique_ptr<QGraph> graph = set.pack();
  std::vector<std::uint32_t> order(set.nq());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i * 37 % order.size());
  for (const Isa isa : isas()) {
    const Loops loops = loops_for(isa);
    SearchOptions options;
    options.loops = &loops;
    const Answer plain = ask(graph, set, options);
    options.order = order.data();
    const Answer ordered = ask(graph, set, options);
    CHECK(ordered.rows == plain.rows, isa_name(isa));
    CHECK(ordered.distances == plain.distances, isa_name(isa));
  }
}

// Whatever is compared exactly was sent for before, and only rows of the graph are.
void rows_are_sent_for_before_they_are_compared() {
  const Set set(vicinal::test::fewer(1000), 200, Metric::l2, 60);
  const std::unique_ptr<QGraph> graph = set.pack();
  struct Sent {
    const Set& set;
    std::vector<int> times;
    bool several;  // a query alone sends for what is likely to be compared, while there is time
    std::size_t compared = 0;
  };
  const std::uint32_t entry = 0;
  for (const std::size_t nq : {1, 2, 3, 60}) {
    Sent sent{set, std::vector<int>(set.n, 0), nq > 1};
    Reranker reranker;
    reranker.context = &sent;
    reranker.row_bytes = set.dim * sizeof(float);
    reranker.where = [](const void* context, std::uint32_t row) noexcept {
      auto& to = *const_cast<Sent*>(static_cast<const Sent*>(context));
      CHECK(row < to.set.n, row);
      ++to.times[row];
      return reinterpret_cast<const std::byte*>(&to.set.rows[row * to.set.dim]);
    };
    reranker.rerank = [](const void* context, std::size_t query, const std::uint32_t* rows, std::size_t n) noexcept {
      auto& to = *const_cast<Sent*>(static_cast<const Sent*>(context));
      for (std::size_t i = 0; i < n && to.several; ++i) CHECK(to.times[rows[i]] > 0, query, rows[i]);
      ++to.compared;
    };
    SearchOptions options;
    options.entries = &entry;
    options.n_entries = 1;
    options.limit = static_cast<std::uint32_t>(set.n);
    options.alone = !sent.several;
    graph->search(set.queries.data(), nq, options, reranker);
    CHECK(sent.compared == nq, sent.compared, nq);
  }
}

}  // namespace

int main() {
  queries_alone_find_as_much_as_together();
  the_order_of_queries_changes_no_answer();
  rows_are_sent_for_before_they_are_compared();
  return vicinal::test::failures();
}
