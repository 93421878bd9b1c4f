// How long the memory accesses of searches take by themselves: the visits are recorded, then replayed and timed.
#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/error.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace vicinal::graph {

Replay GraphIndex::replay(const std::byte* queries, std::size_t n_queries, const SearchParameters& p,
                          unsigned passes) const {
  check_parameters(p);
  rows_.check_queries(queries, n_queries);
  const std::size_t n_linked = linked();
  const std::shared_ptr<qgraph::QGraph> form = packed();
  const std::size_t ef = packed_beam_for(p.ef_search, packed_scale_.load(), 1, 1);
  if (form == nullptr || ef > kPackedBeamMax) {
    throw Error(ErrorCode::invalid_argument,
                "only searches of the rabitq form are replayed, and this one would walk the codes; build with "
                "format=\"rabitq\" and choose a smaller ef_search");
  }
  struct Recorder {
    const Rows& rows;
    std::vector<qgraph::Visit>& visits;
  };
  std::vector<qgraph::Visit> visits(n_queries);
  Recorder recorder{rows_, visits};
  qgraph::Reranker reranker;
  reranker.context = &recorder;
  reranker.rerank = [](const void* context, std::size_t query, const std::uint32_t* rows, std::size_t n) noexcept {
    const auto& to = *static_cast<const Recorder*>(context);
    for (std::size_t i = 0; i < n; ++i) to.visits[query].exact.push_back(to.rows.row(rows[i]));
  };
  reranker.visited = [](const void* context, std::size_t query, const std::uint32_t* rows, const float*, const float*,
                        std::size_t n) noexcept {
    static_cast<const Recorder*>(context)->visits[query].rows.assign(rows, rows + n);
  };
  const std::vector<std::uint32_t> entries = entry_points();
  qgraph::SearchOptions options;
  options.k = p.k;
  options.near_part = p.near_part;
  options.ef = ef;
  options.entries = entries.data();
  options.n_entries = entries.size();
  options.limit = static_cast<std::uint32_t>(n_linked);
  form->search(reinterpret_cast<const float*>(queries), n_queries, options, reranker);
  Replay result;
  for (const qgraph::Visit& visit : visits) {
    result.visited += visit.rows.size();
    result.compared += visit.exact.size();
  }
  result.seconds = 1e30;
  for (unsigned pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    const std::uint64_t sum = form->replay(visits, rows_.row_bytes());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    result.checksum = sum;
    result.seconds = std::min(result.seconds, took.count());
  }
  return result;
}

}  // namespace vicinal::graph
