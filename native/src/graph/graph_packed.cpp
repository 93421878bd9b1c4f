// The rabitq form of the graph: made when rows are linked in bulk, kept up to date by every later change.
//
// Its rows are encoded from the same adjacency that the sq8 form walks; which of the two answers is decided by a trial.
#include <algorithm>
#include <bit>
#include <cmath>
#include <ctime>
#include <new>
#include <utility>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kGrain = 256;

// Of this thread's processor: by the clock, a trial that others interrupted chose the slower form.
double thread_seconds() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

std::shared_ptr<qgraph::QGraph> GraphIndex::packed() const {
  const std::lock_guard lock(packed_mutex_);
  return packed_;
}

void GraphIndex::set_packed(std::shared_ptr<qgraph::QGraph> packed) {
  const std::lock_guard lock(packed_mutex_);
  packed_ = std::move(packed);
}

bool GraphIndex::can_pack() const noexcept {
  if (config_.format == Format::sq8 || !qgraph::QGraph::supports(config_.metric, config_.dtype, config_.dim)) {
    return false;
  }
  // Rows that lie closer together than a byte's rounding have float codes; the packed form has only bytes for them.
  return config_.format == Format::rabitq || codec_.kind() == CodeKind::l2_u8;
}

void GraphIndex::read_row(std::size_t row, float* out) const noexcept {
  rows_.to_float(rows_.row(row), out);
  if (config_.metric != Metric::cosine) return;
  const float inverse = rows_.inverse_norm(row);
  for (std::size_t i = 0; i < config_.dim; ++i) out[i] *= inverse;
}

// Rows in the order in which a breadth-first walk from the entry points meets them.
std::vector<std::uint32_t> GraphIndex::breadth_first(std::size_t n) const {
  std::vector<std::uint32_t> order;
  order.reserve(n);
  std::vector<bool> met(n, false);
  const auto meet = [&](std::uint32_t row) {
    if (met[row]) return;
    met[row] = true;
    order.push_back(row);
  };
  for (const std::uint32_t row : entry_points()) meet(row);
  std::uint32_t unmet = 0;
  for (std::size_t head = 0; head < n; ++head) {
    if (head == order.size()) {
      while (met[unmet]) ++unmet;
      meet(unmet);
    }
    const std::uint32_t* words = edges_.row(order[head]);
    for (std::uint32_t i = 0; i < edges_.degree; ++i) meet(load_edge(words[i]));
  }
  return order;
}

// Own vectors of n rows: rows[i], or first + i where rows is null.
void GraphIndex::encode_own(qgraph::QGraph& q, const std::uint32_t* rows, std::size_t first, std::size_t n,
                            unsigned threads) const {
  ThreadPool::instance().parallel_for(n, threads, kGrain, [&](std::size_t begin, std::size_t end, unsigned) {
    std::vector<float> values(config_.dim);
    AlignedBuffer<float> work(q.padded());
    for (std::size_t i = begin; i < end; ++i) {
      const auto row = rows != nullptr ? rows[i] : static_cast<std::uint32_t>(first + i);
      read_row(row, values.data());
      q.encode_own(row, values.data(), work.data());
    }
  });
}

// Makes rows [first, last) nodes of the same numbers, without neighbours yet.
void GraphIndex::encode_new(qgraph::QGraph& q, std::size_t first, std::size_t last, unsigned threads) const {
  q.grow(last);
  for (std::size_t row = first; row < last; ++row) {
    q.place(static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row));
  }
  encode_own(q, nullptr, first, last - first, threads);
  for (std::size_t row = first; row < last; ++row) q.encode_edges(static_cast<std::uint32_t>(row), nullptr, 0, true);
}

// Brings the nodes of all rows whose edges changed up to date.
void GraphIndex::encode_changed(qgraph::QGraph& q, std::size_t n, unsigned threads) {
  auto* words = changed_bits_.as<std::uint64_t>();
  const std::size_t n_words = (n + 63) / 64;
  std::vector<std::uint32_t> rows;
  for (std::size_t w = 0; w < n_words; ++w) {
    if (words[w] == 0) continue;
    for (std::uint64_t bits = std::exchange(words[w], 0); bits != 0; bits &= bits - 1) {
      rows.push_back(static_cast<std::uint32_t>(w * 64 + static_cast<std::size_t>(std::countr_zero(bits))));
    }
  }
  ThreadPool::instance().parallel_for(rows.size(), threads, kGrain / 8,
                                      [&](std::size_t begin, std::size_t end, unsigned) {
                                        std::uint32_t near[kDegreeMax];
                                        for (std::size_t i = begin; i < end; ++i) {
                                          const std::size_t count = neighbours(rows[i], near);
                                          q.encode_edges(rows[i], near, count, false);
                                        }
                                      });
}

std::size_t GraphIndex::neighbours(std::uint32_t row, std::uint32_t* out) const noexcept {
  const std::uint32_t* words = edges_.row(row);
  std::size_t count = 0;
  for (std::uint32_t i = 0; i < edges_.degree; ++i) {
    const std::uint32_t next = load_edge(words[i]);
    if (next != row) out[count++] = next;
  }
  return count;
}

void GraphIndex::pack(std::size_t n, unsigned threads) {
  packed_at_ = n;
  std::shared_ptr<qgraph::QGraph> q;
  if (can_pack()) {
    try {
      q = make_packed(n, threads);
    } catch (const std::bad_alloc&) {
      // The codes answer as well, only slower; a format asked for by name is not given up silently.
      if (config_.format == Format::rabitq) throw;
    }
  }
  set_packed(std::move(q));
}

// The packed form of rows [0, n); null where the trial finds the codes faster.
std::shared_ptr<qgraph::QGraph> GraphIndex::make_packed(std::size_t n, unsigned threads) {
  const std::uint32_t bits = config_.code_bits != 0 ? config_.code_bits : qgraph::bits_for(config_.dim);
  auto q = std::make_shared<qgraph::QGraph>(config_.dim, config_.metric, config_.M, config_.seed, bits);
  q->train(n, [this](std::size_t row, float* out) { read_row(row, out); });
  q->grow(n);
  const std::vector<std::uint32_t> order = breadth_first(n);
  // Side by side, as this is where the memory of the rows is first touched.
  ThreadPool::instance().parallel_for(n, threads, 8 * kGrain, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t node = begin; node < end; ++node) q->place(order[node], static_cast<std::uint32_t>(node));
  });
  encode_own(*q, order.data(), 0, n, threads);
  ThreadPool::instance().parallel_for(n, threads, kGrain, [&](std::size_t begin, std::size_t end, unsigned) {
    std::uint32_t near[kDegreeMax];
    for (std::size_t node = begin; node < end; ++node) {
      const std::size_t count = neighbours(order[node], near);
      q->encode_edges(order[node], near, count, true);
    }
  });
  std::fill_n(changed_bits_.as<std::uint64_t>(), (n + 63) / 64, std::uint64_t{0});
  const Trial trial = try_packed(*q, n);
  // A table of calibration is in units of the scale it was measured with.
  if (calibration() == nullptr || packed() == nullptr) packed_scale_.store(trial.scale);
  if (config_.format == Format::automatic && !trial.faster) return nullptr;
  return q;
}

// The trial: rows of the index as queries. Estimates by a bit or two mislead a walk more than bytes do, so the packed
// form needs a wider beam for as many of the true neighbours; how much wider is measured here, so that one ef_search
// means about the same recall in both forms, and the time of the two is compared at that.
GraphIndex::Trial GraphIndex::try_packed(const qgraph::QGraph& q, std::size_t n) const {
  constexpr std::size_t k = 10;
  constexpr std::size_t codes_ef = 48;
  constexpr std::size_t truth_ef = 400;
  const std::size_t n_queries = std::min<std::size_t>(n, 256);
  const std::size_t dim = config_.dim;
  std::vector<float> queries(n_queries * dim);
  for (std::size_t i = 0; i < n_queries; ++i) rows_.to_float(rows_.row(i * n / n_queries), &queries[i * dim]);
  std::vector<std::int64_t> truth(n_queries * k);
  std::vector<std::int64_t> found(n_queries * k);
  std::vector<float> distances(n_queries * k);
  const auto* bytes = reinterpret_cast<const std::byte*>(queries.data());
  SearchParameters p;
  p.k = k;
  const auto hits = [&] {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n_queries; ++i) {
      const std::int64_t* t = &truth[i * k];
      for (std::size_t j = 0; j < k; ++j) count += static_cast<std::size_t>(std::count(t, t + k, found[i * k + j]));
    }
    return static_cast<double>(count);
  };
  const auto seconds = [&](const qgraph::QGraph* form, std::size_t ef) {
    p.ef_search = ef;
    const double start = thread_seconds();
    search_linked(bytes, n_queries, p, n, form, found.data(), distances.data());
    return thread_seconds() - start;
  };
  // The two take turns: other work on the machine must not decide.
  const auto faster = [&](std::size_t ef) {
    double packed_best = 1e30;
    double codes_best = 1e30;
    for (int pass = 0; pass < 5; ++pass) {
      packed_best = std::min(packed_best, seconds(&q, ef));
      codes_best = std::min(codes_best, seconds(nullptr, codes_ef));
    }
    return packed_best < codes_best;
  };
  static_cast<void>(seconds(nullptr, truth_ef));
  truth = found;
  static_cast<void>(seconds(nullptr, codes_ef));
  const double wanted = hits();
  double hits_before = 0;
  std::size_t ef_before = 0;
  for (const std::size_t ef : {32, 48, 64, 96, 128, 192}) {
    static_cast<void>(seconds(&q, ef));
    const double now = hits();
    if (now >= wanted) {
      const double part = ef_before == 0 ? 1.0 : (wanted - hits_before) / std::max(1.0, now - hits_before);
      const double needed = static_cast<double>(ef_before) + part * static_cast<double>(ef - ef_before);
      return {faster(std::max(k, static_cast<std::size_t>(std::ceil(needed)))),
              static_cast<float>(std::max(1.0, needed / codes_ef))};
    }
    hits_before = now;
    ef_before = ef;
  }
  return {false, 4.0F};
}

}  // namespace vicinal::graph
