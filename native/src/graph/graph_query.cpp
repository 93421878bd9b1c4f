// Answering queries: encode, traverse several at a time, rerank exactly, scan what no graph holds, merge.
#include <algorithm>
#include <bit>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/isa.hpp"
#include "graph/matches.hpp"
#include "graph/search_call.hpp"

namespace vicinal::graph {
namespace {

void write_top(TopK& top, std::size_t k, std::int64_t* rows, float* distances) {
  const std::vector<std::uint64_t>& keys = top.sorted();
  write_results(keys.data(), keys.size(), k, rows, distances);
  top.clear();
}

}  // namespace

void GraphIndex::Search::run(const std::byte* queries, std::size_t n, const std::uint32_t* order,
                             std::int64_t* out_rows, float* out_distances) const {
  if (plan != Plan::scan) {
    return packed != nullptr ? run_packed(queries, n, order, out_rows, out_distances)
                             : run_codes(plan, queries, n, out_rows, out_distances);
  }
  TopK top(p.k);
  for (std::size_t i = 0; i < n; ++i) {
    const ExactQuery q = index.rows_.query(queries + i * index.query_bytes());
    scan(q, 0, size, top);
    write_top(top, p.k, out_rows + i * p.k, out_distances + i * p.k);
  }
}

void GraphIndex::Search::run_packed(const std::byte* queries, std::size_t n, const std::uint32_t* order,
                                    std::int64_t* out_rows, float* out_distances) const {
  // What the search loop calls back for each query. Nothing here allocates, so nothing can fail half way.
  struct Answers {
    const Search& search;
    const std::byte* queries;
    std::size_t query_bytes;
    std::int64_t* out_rows;
    float* out_distances;
    std::vector<std::uint64_t> keys;
    TopK top;
    std::vector<std::size_t> short_of;  // queries that found fewer rows than there are

    static const Answers& of(const void* context) noexcept { return *static_cast<const Answers*>(context); }
    static const std::byte* where(const void* context, std::uint32_t row) noexcept {
      const Rows& rows = of(context).search.index.rows_;
      rows.prefetch_norm(row);
      return rows.row(row);
    }
    static void rerank(const void* context, std::size_t query, const std::uint32_t* rows, std::size_t found) noexcept {
      const_cast<Answers*>(static_cast<const Answers*>(context))->take(query, rows, found);
    }
    void take(std::size_t query, const std::uint32_t* rows, std::size_t found) noexcept {
      const GraphIndex& index = search.index;
      const std::size_t k = search.p.k;
      const ExactQuery exact = index.rows_.query(queries + query * query_bytes);
      constexpr std::size_t block = 256;
      std::size_t n_keys = 0;
      for (std::size_t at = 0; at < found; at += block) {
        const std::size_t m = std::min(block, found - at);
        float near[block];
        index.rows_.distances(exact, rows + at, 0, m, near);
        for (std::size_t i = 0; i < m; ++i) keys[n_keys++] = candidate_key(near[i], rows[at + i]);
      }
      std::sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n_keys));
      n_keys = static_cast<std::size_t>(std::unique(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n_keys)) -
                                        keys.begin());
      if (n_keys < std::min(k, search.matches) && search.linked > n_keys) {
        short_of.push_back(query);
        return;
      }
      std::int64_t* to_rows = out_rows + query * k;
      float* to_distances = out_distances + query * k;
      if (search.linked < search.size) {
        for (std::size_t i = 0; i < n_keys; ++i) top.push_key(keys[i]);
        search.scan(exact, search.linked, search.size, top);
        write_top(top, k, to_rows, to_distances);
        return;
      }
      write_results(keys.data(), std::min(k, n_keys), k, to_rows, to_distances);
    }
  };
  const double share = static_cast<double>(matches) / static_cast<double>(size);
  const std::size_t ef = std::max(
      p.k, watched ? packed_beam_for(p.ef_search, scale, 1, 1) : packed_beam_for(p.ef_search, scale, matches, size));
  const std::size_t enough = watched ? packed_beam_for(matches_for(p.k, p.ef_search), scale, 1, 1) : 0;
  const std::size_t nodes_max = watched ? nodes_for(ef, enough, share) : 0;
  Answers answers{*this, queries, index.query_bytes(), out_rows, out_distances, {}, TopK(p.k), {}};
  answers.keys.resize(std::max(ef + ef / 2, nodes_max) + 64);
  answers.short_of.reserve(n);
  qgraph::SearchOptions options;
  options.k = p.k;
  options.ef = ef;
  options.entries = entries.data();
  options.n_entries = entries.size();
  options.pass = pass;
  options.limit = static_cast<std::uint32_t>(linked);
  options.near_part = p.near_part;
  options.order = order;
  options.alone = alone;
  if (watched) {
    options.enough = enough;
    options.nodes_max = nodes_max;
    options.rows_per_match = static_cast<float>(1.0 / share);
    if (p.near_part > 0.0F) options.near_part_all = index.near_part_all(p.k, p.near_part, share);
    options.look = static_cast<std::uint32_t>(look_for(share));
    options.share_min = static_cast<float>(share * kLostPart);
  }
  packed->search(reinterpret_cast<const float*>(queries), n, options,
                 {&answers, &Answers::where, index.rows_.row_bytes(), &Answers::rerank});
  for (const std::size_t i : answers.short_of) {
    run_codes(watched ? Plan::codes : plan, queries + i * index.query_bytes(), 1, out_rows + i * p.k,
              out_distances + i * p.k);
  }
}

// A short walk without the filter for each of the n tasks: lost[i] where it meets far fewer matches than their share
// says.
void GraphIndex::Search::look_around(const GraphView& g, Scratch& s, std::size_t n,
                                     std::vector<std::uint8_t>& lost) const {
  const double share = static_cast<double>(matches) / static_cast<double>(size);
  const std::size_t ef = look_for(share);
  std::vector<BeamTask> tasks(n);
  std::vector<std::uint32_t> rows(n * ef);
  std::vector<std::int32_t> keys(n * ef);
  for (std::size_t i = 0; i < n; ++i) {
    tasks[i].code = s.tasks[i].code;
    tasks[i].rows = rows.data() + i * ef;
    tasks[i].keys = keys.data() + i * ef;
  }
  BeamRequest request;
  request.entries = entries.data();
  request.n_entries = entries.size();
  request.ef = ef;
  request.keep = ef;
  s.prepare(std::min(n, kInFlight), linked, std::max(ef, p.ef_search));
  beam_fns(best_isa()).beam(g, request, tasks.data(), n, s.slots(), kInFlight);
  lost.assign(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t met = 0;
    for (std::size_t c = 0; c < tasks[i].found; ++c) met += test_bit(pass, tasks[i].rows[c]) ? 1U : 0U;
    const double expected = share * static_cast<double>(tasks[i].found);
    lost[i] = static_cast<double>(met) < expected * kLostPart ? 1 : 0;
  }
}

void GraphIndex::Search::run_codes(Plan how, const std::byte* queries, std::size_t n, std::int64_t* out_rows,
                                   float* out_distances) const {
  const Rows& rows = index.rows_;
  const std::size_t query_bytes = index.query_bytes();
  TopK top(p.k);
  const auto lease = index.scratches_.lease();
  Scratch& s = *lease;
  const std::size_t keep = rerank_for(p.k, p.ef_search);
  const std::size_t chunk = std::min(n, kChunk);
  const std::size_t stride = index.codec_.query_stride();
  s.prepare(std::min(chunk, kInFlight), linked, p.ef_search);
  s.floats.resize(index.codec_.scratch_floats());
  if (s.codes.size() < chunk * stride + kCacheLine) s.codes = AlignedBuffer<std::byte>(chunk * stride + kCacheLine);
  s.rows.resize(chunk * keep);
  s.keys.resize(chunk * keep);
  s.distances.resize(keep);
  GraphView g = index.view(static_cast<std::uint32_t>(linked));
  const BeamFns& fns = beam_fns(best_isa());
  BeamRequest request;
  request.entries = entries.data();
  request.n_entries = entries.size();
  request.ef = p.ef_search;
  request.keep = keep;
  request.pass = pass;
  request.two_hop = how == Plan::two_hop;
  request.near_part = p.near_part;
  request.near = p.k;
  if (watched && how == Plan::gate) request.enough = matches_for(p.k, p.ef_search);
  if (watched) request.hops_max = hops_max_for(p.ef_search, matches);
  ExactQuery exact[kChunk];
  std::vector<std::uint8_t> lost;
  std::uint32_t walking[kChunk];
  std::vector<Candidate> best;
  for (std::size_t first = 0; first < n; first += chunk) {
    const std::size_t m = std::min(chunk, n - first);
    bool inside = true;
    s.tasks.assign(m, {});
    for (std::size_t i = 0; i < m; ++i) {
      exact[i] = rows.query(queries + (first + i) * query_bytes);
      std::byte* code = s.codes.data() + i * stride;
      inside &= index.codec_.encode_query(rows, exact[i], code, s.floats.data());
      s.tasks[i].code = code;
      s.tasks[i].rows = s.rows.data() + i * keep;
      s.tasks[i].keys = s.keys.data() + i * keep;
    }
    g.kind = inside ? index.codec_.query_kind() : CodeKind::l2_u8_wide;
    if (!inside) {
      for (std::size_t i = 0; i < m; ++i) {
        index.codec_.encode_query_wide(rows, exact[i], s.codes.data() + i * stride, s.floats.data());
      }
    }
    lost.assign(m, how == Plan::codes ? 1 : 0);
    if (how != Plan::codes) {
      if (watched) look_around(g, s, m, lost);
      // Those that walk, in front of those that do not.
      for (std::size_t i = 0; i < m; ++i) walking[i] = static_cast<std::uint32_t>(i);
      const auto* end = std::stable_partition(walking, walking + m, [&](std::uint32_t i) { return lost[i] == 0; });
      const auto n_walking = static_cast<std::size_t>(end - walking);
      BeamTask walks[kChunk];
      for (std::size_t i = 0; i < n_walking; ++i) walks[i] = s.tasks[walking[i]];
      fns.beam(g, request, walks, n_walking, s.slots(), kInFlight);
      for (std::size_t i = 0; i < n_walking; ++i) s.tasks[walking[i]] = walks[i];
    }
    for (std::size_t i = 0; i < m; ++i) {
      if (i + 1 < m) {
        for (std::size_t c = 0; c < s.tasks[i + 1].found; ++c) rows.prefetch(s.tasks[i + 1].rows[c]);
      }
      const BeamTask& task = s.tasks[i];
      if (lost[i] != 0 || task.hops >= request.hops_max) {
        scan_near(g, exact[i], task.code, best, top);
      } else {
        rows.distances(exact[i], task.rows, 0, task.found, s.distances.data());
        top.offer(s.distances.data(), task.rows, 0, task.found);
      }
      if (linked < size) scan(exact[i], linked, size, top);
      if (top.size() < std::min(p.k, matches)) {
        top.clear();
        scan(exact[i], 0, size, top);
      }
      write_top(top, p.k, out_rows + (first + i) * p.k, out_distances + (first + i) * p.k);
    }
  }
}

void check_parameters(const SearchParameters& p) {
  if (p.k == 0 || p.k > kResultsMax) {
    throw Error(p.k == 0 ? ErrorCode::invalid_argument : ErrorCode::capacity,
                "k is " + std::to_string(p.k) + "; choose 1 to " + std::to_string(kResultsMax));
  }
  if (p.ef_search < p.k) {
    throw Error(ErrorCode::invalid_argument, "ef_search is " + std::to_string(p.ef_search) + ", below k = " +
                                                 std::to_string(p.k) + "; raise ef_search to k or more");
  }
  if (p.ef_search > kBeamMax) {
    throw Error(ErrorCode::capacity,
                "ef_search is " + std::to_string(p.ef_search) + "; choose up to " + std::to_string(kBeamMax));
  }
  if (!(p.near_part >= 0.0F && p.near_part <= kNearPartMax)) {
    throw Error(ErrorCode::invalid_argument, "near_part is " + std::to_string(p.near_part) +
                                                 "; choose above 0 and up to 4, or 0 for walks that a beam alone ends");
  }
  if (p.threads > kThreadsMax) {
    throw Error(ErrorCode::capacity,
                "threads is " + std::to_string(p.threads) + "; choose 0 (all) to " + std::to_string(kThreadsMax));
  }
}

void GraphIndex::search_linked(const std::byte* queries, std::size_t n_queries, const SearchParameters& p,
                               std::size_t linked, const qgraph::QGraph* form, std::int64_t* out_rows,
                               float* out_distances) const {
  const Search s{*this, p, linked, linked, linked, nullptr, Plan::gate, {}, entry_points(), form, 1.0F};
  s.run(queries, n_queries, nullptr, out_rows, out_distances);
}

std::optional<double> GraphIndex::packed_nodes(std::size_t k, std::size_t ef, double share) const noexcept {
  if (packed() == nullptr) return std::nullopt;
  const double rows = rows_for(static_cast<double>(ef), static_cast<double>(matches_for(k, ef)), share);
  const double nodes = rows * static_cast<double>(packed_scale_.load());
  return nodes <= static_cast<double>(kPackedBeamMax) ? std::optional(nodes) : std::nullopt;
}

std::size_t GraphIndex::scan_matches_max(std::size_t k, std::size_t ef, double share) const noexcept {
  const std::optional<double> nodes = share < kPackedGateShareMin ? std::nullopt : packed_nodes(k, ef, share);
  return nodes.has_value() ? static_cast<std::size_t>(*nodes * kScanPerNode) : scan_matches_for(ef);
}

Strategy GraphIndex::filtered_walk(std::size_t k, std::size_t ef, double share) const noexcept {
  const bool packed_fits = share >= kPackedGateShareMin && packed_nodes(k, ef, share).has_value();
  return packed_fits || share >= kGateShareMin ? Strategy::gate : Strategy::filter;
}

void GraphIndex::search(const std::byte* queries, std::size_t n_queries, const SearchParameters& parameters,
                        std::int64_t* out_rows, float* out_distances) const {
  check_parameters(parameters);
  SearchParameters p = parameters;
  if (!p.sound) rows_.check_queries(queries, n_queries);
  const std::size_t linked_rows = linked();  // before size: a row linked meanwhile is only scanned
  const std::size_t n = size();
  Search s{*this, p, linked_rows, n, n, nullptr, Plan::gate, {}, entry_points(), nullptr, 1.0F};
  const std::shared_ptr<qgraph::QGraph> form = packed();  // after linked: it holds at least those rows
  const std::size_t n_live = live();
  if (p.filter != nullptr || (p.strategy == Strategy::scan && n_live < n)) {
    const std::size_t words = (n + 63) / 64;
    s.owned.resize(words);
    const std::uint64_t* live_bits = live_words();
    std::size_t matches = 0;
    for (std::size_t w = 0; w < words; ++w) {
      std::uint64_t bits = __atomic_load_n(&live_bits[w], __ATOMIC_RELAXED);
      if (p.filter != nullptr) bits &= w < p.filter_words ? p.filter[w] : 0;
      if (n - w * 64 < 64) bits &= (std::uint64_t{1} << (n - w * 64)) - 1;
      s.owned[w] = bits;
      matches += static_cast<std::size_t>(std::popcount(bits));
    }
    s.matches = matches;
    s.pass = s.owned.data();
  } else if (n_live < n) {
    s.matches = n_live;
    s.pass = live_words();
  }
  const bool filtered = p.filter != nullptr;
  const double share = static_cast<double>(s.matches) / static_cast<double>(n);
  const float scale = packed_scale_.load();
  if (p.exact || linked_rows == 0 || s.matches <= p.ef_search) {
    s.plan = Plan::scan;
  } else if (s.pass == nullptr) {
    s.plan = p.strategy == Strategy::scan ? Plan::scan : Plan::gate;
  } else if (p.strategy == Strategy::scan) {
    s.plan = Plan::codes;
  } else if (p.strategy == Strategy::filter) {
    s.plan = Plan::two_hop;
  } else if (p.strategy == Strategy::automatic && filtered) {
    if (s.matches <= scan_matches_max(p.k, p.ef_search, share)) {
      s.plan = Plan::codes;
    } else if (filtered_walk(p.k, p.ef_search, share) == Strategy::filter) {
      s.plan = Plan::two_hop;
    }
  }
  s.watched = filtered && s.plan != Plan::scan && s.plan != Plan::codes;
  const bool packed_fits = s.watched ? packed_nodes(p.k, p.ef_search, share).has_value()
                                     : packed_beam_for(p.ef_search, scale, s.matches, n) <= kPackedBeamMax;
  if (form != nullptr && s.plan == Plan::gate && packed_fits) {
    s.packed = form.get();
    s.scale = scale;
    if (p.by_work && filtered) {
      if (const std::optional<Beam> beam = same_work(p.k, p.ef_search, share); beam.has_value()) {
        p.ef_search = beam->ef;
        p.near_part = beam->near_part;
      }
    }
  }
  if (s.plan == Plan::two_hop) sample_matches(s.pass, linked_rows, kMatchEntries, s.entries);
  const std::size_t query_bytes = this->query_bytes();
  const std::size_t k = p.k;
  s.alone = n_queries == 1;
  if (s.alone) return s.run(queries, 1, nullptr, out_rows, out_distances);
  std::vector<std::uint32_t> order;
  if (s.packed != nullptr && s.packed->stride() >= kOrderedRowBytes) {
    order = near_order(reinterpret_cast<const float*>(queries), n_queries, linked_rows);
  }
  if (p.threads == 1) return s.run(queries, n_queries, order.empty() ? nullptr : order.data(), out_rows, out_distances);
  ThreadPool::instance().parallel_for(n_queries, p.threads, kChunk, [&](std::size_t begin, std::size_t end, unsigned) {
    if (!order.empty()) return s.run(queries, end - begin, order.data() + begin, out_rows, out_distances);
    s.run(queries + begin * query_bytes, end - begin, nullptr, out_rows + begin * k, out_distances + begin * k);
  });
}

}  // namespace vicinal::graph
