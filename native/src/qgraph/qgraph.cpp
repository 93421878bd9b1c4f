// QGraph: learning, numbering, dispatch.
#include "qgraph/qgraph.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/reservation.hpp"

namespace vicinal::qgraph {
namespace {

// Queries under way per thread in batch calls. Long rows keep the memory busy with two already.
constexpr std::size_t kInterleaveLow = 4;
constexpr std::size_t kInterleaveHigh = 2;
constexpr std::size_t kDimLow = 512;
// A query alone keeps track of up to so many nearest even where that ends no walk, to send for their rows early.
constexpr std::size_t kNearAlone = 64;
constexpr std::size_t kTrainRowsMax = 100000;
// f_add of the longest row of the sample, at most 8 times its squared norm, takes this much of f16's 65504: later rows
// may be four times as long.
constexpr float kAddMax = 4096.0F;

}  // namespace

std::size_t interleave_for(std::size_t dim) noexcept { return dim <= kDimLow ? kInterleaveLow : kInterleaveHigh; }

Loops loops_for(Isa isa) noexcept {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx512:
      return loops_avx512();
    case Isa::avx2:
      return loops_avx2();
#elif defined(__aarch64__)
    case Isa::neon:
      return loops_neon();
#endif
    default:
      return loops_scalar();
  }
}

QGraph::QGraph(std::size_t dim, Metric metric, std::size_t degree, std::uint64_t seed, std::uint32_t bits, bool close)
    : dim_(dim),
      metric_(metric),
      layout_(Layout::of(dim, round_up(degree, kBlock), bits, close)),
      rotation_(layout_.padded, seed),
      loops_(loops_for(best_isa())),
      rows_(reservation_bytes()),
      nodes_(reservation_bytes() / 16) {
  if (!supports(metric, DType::f32, dim)) {
    throw Error(ErrorCode::invalid_argument, "packed graphs search l2, ip and cosine in up to " +
                                                 std::to_string(kDimMax) + " dimensions; use format sq8 for others");
  }
}

void QGraph::train(std::size_t n, const ReadRow& read) {
  std::vector<double> sum(dim_, 0.0);
  std::vector<float> x(dim_);
  double length = 0.0;
  const std::size_t step = std::max<std::size_t>(1, n / kTrainRowsMax);
  std::size_t seen = 0;
  for (std::size_t i = 0; i < n; i += step, ++seen) {
    read(i, x.data());
    double square = 0.0;
    for (std::size_t j = 0; j < dim_; ++j) {
      sum[j] += x[j];
      square += static_cast<double>(x[j]) * x[j];
    }
    length += std::sqrt(square);
  }
  const double count = static_cast<double>(std::max<std::size_t>(seen, 1));
  parameters_.mean.assign(dim_, 0.0F);
  if (metric_ != Metric::ip) {
    for (std::size_t j = 0; j < dim_; ++j) parameters_.mean[j] = static_cast<float>(sum[j] / count);
  }
  parameters_.query_norm = static_cast<float>(length / count);
  double longest = 0.0;
  for (std::size_t i = 0; i < n; i += step) {
    read(i, x.data());
    double square = 0.0;
    for (std::size_t j = 0; j < dim_; ++j) {
      const double d = static_cast<double>(x[j]) - parameters_.mean[j];
      square += d * d;
    }
    longest = std::max(longest, square);
  }
  const auto unit = static_cast<float>(kAddMax / (8.0 * longest));
  parameters_.unit = longest > 0.0 && std::isfinite(unit) && unit > 0.0F ? unit : 1.0F;
}

void QGraph::grow(std::size_t n) {
  rows_.grow(n * layout_.stride + kCacheLine);
  nodes_.grow(n * sizeof(std::uint32_t));
}

void QGraph::place(std::uint32_t row, std::uint32_t node) noexcept {
  nodes_.as<std::uint32_t>()[row] = node;
  reinterpret_cast<RowHeader*>(row_at(node) + layout_.header)->row = row;
}

std::string QGraph::adopt(std::size_t n) {
  nodes_.grow(n * sizeof(std::uint32_t));
  auto* nodes = nodes_.as<std::uint32_t>();
  std::fill_n(nodes, n, kNoNode);
  for (std::size_t node = 0; node < n; ++node) {
    const std::byte* row = rows_.data() + node * layout_.stride;
    const auto* header = reinterpret_cast<const RowHeader*>(row + layout_.header);
    if (header->row >= n || nodes[header->row] != kNoNode)
      return "a packed node has the number of no row, or another's";
    nodes[header->row] = static_cast<std::uint32_t>(node);
    const auto* ids = reinterpret_cast<const std::uint32_t*>(row + layout_.ids);
    for (std::size_t j = 0; j < layout_.degree; ++j) {
      if (ids[j] >= n) return "a packed edge leads to node " + std::to_string(ids[j]) + ", which is not there";
    }
  }
  return {};
}

void QGraph::search(const float* queries, std::size_t nq, const SearchOptions& options,
                    const Reranker& reranker) const {
  std::vector<std::uint32_t> entries(options.n_entries);
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = nodes_.as<std::uint32_t>()[options.entries[i]];
  Batch batch;
  batch.queries = queries;
  batch.order = options.order;
  batch.ef = options.ef;
  batch.results = options.k;
  batch.rerank = rerank_for(options.k);
  batch.interleave = options.interleave != 0 ? std::min(options.interleave, kInterleaveMax) : interleave_for(dim_);
  batch.entries = entries.data();
  batch.n_entries = entries.size();
  batch.pass = options.pass;
  batch.limit = options.limit;
  batch.near_part = options.near_part;
  batch.near_part_all = options.near_part_all;
  batch.alone = options.alone && reranker.visited == nullptr;
  if (options.near_part > 0.0F || (batch.alone && options.k <= kNearAlone)) {
    batch.near = options.k;
  } else if (reranker.visited != nullptr || options.enough != 0 || options.look != 0) {
    batch.near = SIZE_MAX;  // never ends early, and says which nodes may be returned
  }
  batch.enough = options.enough;
  batch.nodes_max = options.nodes_max;
  batch.rows_per_match = options.rows_per_match;
  batch.look = options.look;
  batch.share_min = options.share_min;
  batch.reranker = reranker;

  Context context;
  context.graph.rows = rows_.data();
  context.graph.layout = layout_;
  context.graph.dim = static_cast<std::uint32_t>(dim_);
  context.graph.nodes = options.limit;
  context.graph.unit = parameters_.unit;
  context.rotation = rotation_.view();
  context.metric = metric_;
  context.mean = parameters_.mean.data();
  context.query_norm = parameters_.query_norm;
  if (metric_ == Metric::ip)
    context.far_off = 2.0F * parameters_.unit * parameters_.query_norm * parameters_.query_norm;

  const auto scratch = scratches_.lease();
  scratch->prepare(context.graph, batch.ef, batch.nodes_max, std::min(batch.interleave, nq));
  (options.loops != nullptr ? *options.loops : loops_).search(context, batch, scratch->lanes(), 0, nq);
}

}  // namespace vicinal::qgraph
