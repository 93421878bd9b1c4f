// Answering queries: encode, traverse several at a time, rerank exactly, scan what no graph holds, merge.
#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph {
namespace {

// The k nearest of what it is offered, ties to the smaller row.
class TopK {
 public:
  explicit TopK(std::size_t k) : k_(k) { heap_.reserve(k); }

  void offer(float distance, std::uint32_t row) {
    if (heap_.size() == k_) {
      if (!less({distance, row}, heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end(), less);
      heap_.back() = {distance, row};
    } else {
      heap_.push_back({distance, row});
    }
    std::push_heap(heap_.begin(), heap_.end(), less);
  }

  void write(std::int64_t* rows, float* distances) {
    std::sort_heap(heap_.begin(), heap_.end(), less);
    for (std::size_t i = 0; i < k_; ++i) {
      rows[i] = i < heap_.size() ? static_cast<std::int64_t>(heap_[i].row) : -1;
      distances[i] = i < heap_.size() ? heap_[i].distance : std::numeric_limits<float>::infinity();
    }
  }

  void clear() noexcept { heap_.clear(); }
  [[nodiscard]] std::size_t size() const noexcept { return heap_.size(); }

 private:
  struct Hit {
    float distance;
    std::uint32_t row;
  };
  static bool less(const Hit& a, const Hit& b) noexcept {
    return a.distance < b.distance || (a.distance == b.distance && a.row < b.row);
  }

  std::size_t k_;
  std::vector<Hit> heap_;
};

enum class Plan : std::uint8_t { scan, two_hop, gate };

// Up to n rows of the set below `limit`, spread over it; they start a search where the graph's entry points fail.
void sample_matches(const std::uint64_t* pass, std::size_t limit, std::size_t n, std::vector<std::uint32_t>& out) {
  const std::size_t words = (limit + 63) / 64;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t begin = i * words / n;
    const std::size_t end = std::min(words, begin + std::max<std::size_t>(words / n, 1));
    for (std::size_t w = begin; w < end; ++w) {
      const std::uint64_t bits = __atomic_load_n(&pass[w], __ATOMIC_RELAXED);
      if (bits == 0) continue;
      const std::size_t row = w * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      if (row < limit) out.push_back(static_cast<std::uint32_t>(row));
      break;
    }
  }
}

}  // namespace

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

  void scan(const ExactQuery& q, std::size_t first, std::size_t last, TopK& top) const;
  void run(const std::byte* queries, std::size_t n, std::int64_t* out_rows, float* out_distances) const;
  void run_codes(const std::byte* queries, std::size_t n, std::int64_t* out_rows, float* out_distances) const;
  void run_packed(const std::byte* queries, std::size_t n, std::int64_t* out_rows, float* out_distances) const;
};

namespace {

// Smaller keys are nearer, equal distances order by row.
std::uint64_t order_key(float distance, std::uint32_t row) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(distance + 0.0F);  // -0 is 0
  const std::uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return std::uint64_t{ordered} << 32 | row;
}

float distance_of(std::uint64_t key) noexcept {
  const auto ordered = static_cast<std::uint32_t>(key >> 32);
  return std::bit_cast<float>((ordered >> 31) != 0 ? ordered & 0x7FFFFFFFU : ~ordered);
}

}  // namespace

void GraphIndex::Search::scan(const ExactQuery& q, std::size_t first, std::size_t last, TopK& top) const {
  constexpr std::size_t block = 256;
  float distances[block];
  std::uint32_t rows[block] = {};
  if (pass == nullptr) {
    for (std::size_t at = first; at < last; at += block) {
      const std::size_t n = std::min(block, last - at);
      index.rows_.distances(q, nullptr, at, n, distances);
      for (std::size_t i = 0; i < n; ++i) top.offer(distances[i], static_cast<std::uint32_t>(at + i));
    }
    return;
  }
  std::size_t n = 0;
  const auto flush = [&] {
    index.rows_.distances(q, rows, 0, n, distances);
    for (std::size_t i = 0; i < n; ++i) top.offer(distances[i], rows[i]);
    n = 0;
  };
  for (std::size_t word = first / 64; word * 64 < last; ++word) {
    std::uint64_t bits = __atomic_load_n(&pass[word], __ATOMIC_RELAXED);
    if (word == first / 64) bits &= ~std::uint64_t{0} << (first % 64);
    if (last - word * 64 < 64) bits &= (std::uint64_t{1} << (last - word * 64)) - 1;
    for (; bits != 0; bits &= bits - 1) {
      rows[n++] = static_cast<std::uint32_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
      if (n == block) flush();
    }
  }
  flush();
}

void GraphIndex::Search::run(const std::byte* queries, std::size_t n, std::int64_t* out_rows,
                             float* out_distances) const {
  if (plan != Plan::scan) {
    return packed != nullptr ? run_packed(queries, n, out_rows, out_distances)
                             : run_codes(queries, n, out_rows, out_distances);
  }
  TopK top(p.k);
  for (std::size_t i = 0; i < n; ++i) {
    const ExactQuery q = index.rows_.query(queries + i * index.query_bytes());
    scan(q, 0, size, top);
    top.write(out_rows + i * p.k, out_distances + i * p.k);
    top.clear();
  }
}

void GraphIndex::Search::run_packed(const std::byte* queries, std::size_t n, std::int64_t* out_rows,
                                    float* out_distances) const {
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
    static void fetch(const void* context, std::uint32_t row) noexcept {
      of(context).search.index.rows_.prefetch(row);
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
        for (std::size_t i = 0; i < m; ++i) keys[n_keys++] = order_key(near[i], rows[at + i]);
      }
      std::sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n_keys));
      n_keys = static_cast<std::size_t>(
          std::unique(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n_keys)) - keys.begin());
      if (n_keys < std::min(k, search.matches) && search.linked > n_keys) {
        short_of.push_back(query);
        return;
      }
      std::int64_t* to_rows = out_rows + query * k;
      float* to_distances = out_distances + query * k;
      if (search.linked < search.size) {
        for (std::size_t i = 0; i < n_keys; ++i) {
          top.offer(distance_of(keys[i]), static_cast<std::uint32_t>(keys[i]));
        }
        search.scan(exact, search.linked, search.size, top);
        top.write(to_rows, to_distances);
        top.clear();
        return;
      }
      const std::size_t n_written = std::min(k, n_keys);
      for (std::size_t i = 0; i < n_written; ++i) {
        to_rows[i] = static_cast<std::int64_t>(keys[i] & 0xFFFFFFFFU);
        to_distances[i] = distance_of(keys[i]);
      }
      for (std::size_t i = n_written; i < k; ++i) {
        to_rows[i] = -1;
        to_distances[i] = std::numeric_limits<float>::infinity();
      }
    }
  };
  const std::size_t ef = packed_beam_for(p.ef_search, matches, size);
  Answers answers{*this, queries, index.query_bytes(), out_rows, out_distances, {}, TopK(p.k), {}};
  answers.keys.resize(ef + ef / 2 + 64);
  answers.short_of.reserve(n);
  qgraph::SearchOptions options;
  options.k = p.k;
  options.ef = ef;
  options.entries = entries.data();
  options.n_entries = entries.size();
  options.pass = pass;
  options.limit = static_cast<std::uint32_t>(linked);
  packed->search(reinterpret_cast<const float*>(queries), n, options, {&answers, &Answers::fetch, &Answers::rerank});
  for (const std::size_t i : answers.short_of) {
    run_codes(queries + i * index.query_bytes(), 1, out_rows + i * p.k, out_distances + i * p.k);
  }
}

void GraphIndex::Search::run_codes(const std::byte* queries, std::size_t n, std::int64_t* out_rows,
                                   float* out_distances) const {
  const Rows& rows = index.rows_;
  const std::size_t query_bytes = index.query_bytes();
  TopK top(p.k);
  const auto lease = index.scratches_.lease();
  Scratch& s = *lease;
  const std::size_t keep = rerank_for(p.k, p.ef_search);
  const std::size_t chunk = std::min(n, kChunk);
  const std::size_t stride = index.codec_.stride();
  s.prepare(std::min(chunk, kInFlight), linked, p.ef_search);
  s.floats.resize(index.codec_.scratch_floats());
  if (s.codes.size() < chunk * stride + kCacheLine) s.codes = AlignedBuffer<std::byte>(chunk * stride + kCacheLine);
  s.rows.resize(chunk * keep);
  s.keys.resize(chunk * keep);
  s.distances.resize(keep);
  GraphView g = index.view(static_cast<std::uint32_t>(linked));
  g.kind = index.codec_.query_kind();
  const BeamFns& fns = beam_fns(best_isa());
  BeamRequest request;
  request.entries = entries.data();
  request.n_entries = entries.size();
  request.ef = p.ef_search;
  request.keep = keep;
  request.pass = pass;
  request.two_hop = plan == Plan::two_hop;
  // A traversal that finds little gives up about when a scan of the matches would be done.
  if (pass != nullptr) request.hops_max = hops_max_for(p.ef_search, matches);
  ExactQuery exact[kChunk];
  for (std::size_t first = 0; first < n; first += chunk) {
    const std::size_t m = std::min(chunk, n - first);
    s.tasks.assign(m, {});
    for (std::size_t i = 0; i < m; ++i) {
      exact[i] = rows.query(queries + (first + i) * query_bytes);
      std::byte* code = s.codes.data() + i * stride;
      index.codec_.encode_query(rows, exact[i], code, s.floats.data());
      s.tasks[i].code = code;
      s.tasks[i].rows = s.rows.data() + i * keep;
      s.tasks[i].keys = s.keys.data() + i * keep;
    }
    fns.beam(g, request, s.tasks.data(), m, s.slots(), kInFlight);
    for (std::size_t i = 0; i < m; ++i) {
      if (i + 1 < m) {
        for (std::size_t c = 0; c < s.tasks[i + 1].found; ++c) rows.prefetch(s.tasks[i + 1].rows[c]);
      }
      const BeamTask& task = s.tasks[i];
      rows.distances(exact[i], task.rows, 0, task.found, s.distances.data());
      for (std::size_t c = 0; c < task.found; ++c) top.offer(s.distances[c], task.rows[c]);
      if (linked < size) scan(exact[i], linked, size, top);
      if (top.size() < std::min(p.k, matches)) {
        top.clear();
        scan(exact[i], 0, size, top);
      }
      top.write(out_rows + (first + i) * p.k, out_distances + (first + i) * p.k);
      top.clear();
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
  if (p.threads > kThreadsMax) {
    throw Error(ErrorCode::capacity,
                "threads is " + std::to_string(p.threads) + "; choose 0 (all) to " + std::to_string(kThreadsMax));
  }
}

void GraphIndex::search_linked(const std::byte* queries, std::size_t n_queries, const SearchParameters& p,
                               std::size_t linked, const qgraph::QGraph* form, std::int64_t* out_rows,
                               float* out_distances) const {
  const Search s{*this, p, linked, linked, linked, nullptr, Plan::gate, {}, entry_points(), form};
  s.run(queries, n_queries, out_rows, out_distances);
}

void GraphIndex::search(const std::byte* queries, std::size_t n_queries, const SearchParameters& p,
                        std::int64_t* out_rows, float* out_distances) const {
  check_parameters(p);
  rows_.check_queries(queries, n_queries);
  const std::size_t linked_rows = linked();  // before size: a row linked meanwhile is only scanned
  const std::size_t n = size();
  Search s{*this, p, linked_rows, n, n, nullptr, Plan::gate, {}, entry_points(), nullptr};
  const std::shared_ptr<qgraph::QGraph> form = packed();  // after linked: it holds at least those rows
  const std::size_t n_live = live();
  if (p.filter != nullptr) {
    const std::size_t words = (n + 63) / 64;
    s.owned.resize(words);
    const std::uint64_t* live_bits = live_words();
    std::size_t matches = 0;
    for (std::size_t w = 0; w < words; ++w) {
      std::uint64_t bits = w < p.filter_words ? p.filter[w] & __atomic_load_n(&live_bits[w], __ATOMIC_RELAXED) : 0;
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
  if (p.exact || p.strategy == Strategy::scan || linked_rows == 0 || s.matches <= p.ef_search) {
    s.plan = Plan::scan;
  } else if (p.strategy == Strategy::filter && s.pass != nullptr) {
    s.plan = Plan::two_hop;
  } else if (p.strategy == Strategy::automatic && filtered) {
    const double share = static_cast<double>(s.matches) / static_cast<double>(n);
    if (s.matches <= scan_matches_max(p.ef_search)) {
      s.plan = Plan::scan;
    } else if (share < kGateShareMin) {
      s.plan = Plan::two_hop;
    }
  }
  if (form != nullptr && !filtered && s.plan == Plan::gate &&
      packed_beam_for(p.ef_search, s.matches, n) <= kPackedBeamMax) {
    s.packed = form.get();
  }
  if (s.plan == Plan::two_hop) sample_matches(s.pass, linked_rows, kMatchEntries, s.entries);
  const std::size_t query_bytes = this->query_bytes();
  const std::size_t k = p.k;
  if (p.threads == 1 || n_queries == 1) {
    s.run(queries, n_queries, out_rows, out_distances);
    return;
  }
  ThreadPool::instance().parallel_for(n_queries, p.threads, kChunk, [&](std::size_t begin, std::size_t end, unsigned) {
    s.run(queries + begin * query_bytes, end - begin, out_rows + begin * k, out_distances + begin * k);
  });
}

}  // namespace vicinal::graph
