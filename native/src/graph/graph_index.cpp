#include "graph/graph_index.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "base/error.hpp"
#include "base/reservation.hpp"
#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

GraphConfig checked(GraphConfig c) {
  const bool bits = c.dtype == DType::bit;
  if (c.dim == 0) throw Error(ErrorCode::invalid_argument, "dim is 0; a vector has at least one dimension");
  if (bits && c.dim % 8 != 0) {
    throw Error(ErrorCode::invalid_argument,
                "dim is " + std::to_string(c.dim) + "; bit vectors are packed and need a multiple of 8");
  }
  if (bits != (c.metric == Metric::hamming)) {
    throw Error(ErrorCode::invalid_argument, "hamming goes with dtype bit, the other metrics with f32, f16 and i8");
  }
  if (c.M < 4 || c.M > kDegreeMax) {
    throw Error(ErrorCode::invalid_argument, "M is " + std::to_string(c.M) + "; choose 4 to 128");
  }
  if (c.ef_construction < 8 || c.ef_construction > 4096) {
    throw Error(ErrorCode::invalid_argument,
                "ef_construction is " + std::to_string(c.ef_construction) + "; choose 8 to 4096");
  }
  if (c.format == Format::rabitq && !qgraph::QGraph::supports(c.metric, c.dtype, c.dim)) {
    throw Error(ErrorCode::invalid_argument,
                "format rabitq serves l2, ip and cosine over f32 and f16 rows of up to 16384 dimensions; choose auto");
  }
  return c;
}

}  // namespace

GraphIndex::GraphIndex(const GraphConfig& config)
    : config_(checked(config)),
      rows_(config.dim, config.metric, config.dtype),
      codec_(rows_),
      codes_(reservation_bytes()),
      edge_words_(reservation_bytes()),
      in_degrees_(reservation_bytes() / 8),
      live_bits_(reservation_bytes() / 64),
      changed_bits_(reservation_bytes() / 64) {
  edges_.words = edge_words_.as<std::uint32_t>();
  edges_.degree = config.M;
  edges_.stride = static_cast<std::uint32_t>(round_up(config.M, kCacheLine / sizeof(std::uint32_t)));
}

std::size_t GraphIndex::query_bytes() const noexcept {
  return config_.dtype == DType::f16 ? config_.dim * sizeof(float) : rows_.row_bytes();
}

GraphView GraphIndex::view(std::uint32_t limit) const noexcept {
  GraphView g;
  g.edges = edges_;
  g.codes = codes_.data();
  g.code_stride = codec_.stride();
  g.code_bytes = codec_.code_bytes();
  g.kind = codec_.kind();
  g.limit = limit;
  return g;
}

void GraphIndex::set_live(std::size_t first, std::size_t n) {
  live_bits_.grow((first + n + 63) / 64 * sizeof(std::uint64_t));
  auto* words = live_bits_.as<std::uint64_t>();
  for (std::size_t row = first; row < first + n;) {
    const std::size_t end = std::min(first + n, (row / 64 + 1) * 64);
    const std::uint64_t ones = end - row == 64 ? ~std::uint64_t{0} : ((std::uint64_t{1} << (end - row)) - 1);
    __atomic_fetch_or(&words[row / 64], ones << (row % 64), __ATOMIC_RELAXED);
    row = end;
  }
}

std::size_t GraphIndex::append(const std::byte* rows, std::size_t n) {
  const std::lock_guard lock(append_mutex_);
  const std::size_t first = size_.load(std::memory_order_relaxed);
  if (n > kRowsMax - first) {
    throw Error(ErrorCode::capacity, std::to_string(first) + " rows and " + std::to_string(n) +
                                         " more pass the limit of 4294967294; split them over several indexes");
  }
  rows_.check(rows, n);
  rows_.append(rows, n, first);
  set_live(first, n);
  live_count_.fetch_add(n, std::memory_order_relaxed);
  size_.store(first + n, std::memory_order_release);
  return first;
}

// Serves n rows of an empty index from the caller's memory.
void GraphIndex::attach_rows(const std::byte* rows, std::size_t n) {
  const std::lock_guard lock(append_mutex_);
  if (n > kRowsMax) throw Error(ErrorCode::capacity, std::to_string(n) + " rows pass the limit of 4294967294");
  rows_.attach(rows, n);
  set_live(0, n);
  live_count_.store(n, std::memory_order_relaxed);
  size_.store(n, std::memory_order_release);
}

void GraphIndex::build(const std::byte* rows, std::size_t n, unsigned threads, bool copy, const Progress& progress) {
  if (size() != 0) {
    throw Error(ErrorCode::invalid_argument,
                "build() needs an empty index, this one has " + std::to_string(size()) + " rows; use add()");
  }
  if (copy) {
    append(rows, n);
  } else {
    rows_.check(rows, n);
    attach_rows(rows, n);
  }
  if (n < kGraphRowsMin) return;
  try {
    link(n, threads, progress);
  } catch (...) {
    // Nothing is half done: the index is empty again. (A search that runs meanwhile keeps the rows it saw.)
    const std::lock_guard lock(append_mutex_);
    size_.store(0, std::memory_order_release);
    live_count_.store(0, std::memory_order_relaxed);
    rows_.clear();
    throw;
  }
}

std::size_t GraphIndex::remove(const std::int64_t* rows, std::size_t n) {
  const auto size = static_cast<std::int64_t>(this->size());
  for (std::size_t i = 0; i < n; ++i) {
    if (rows[i] < 0 || rows[i] >= size) {
      throw Error(ErrorCode::invalid_argument,
                  "row " + std::to_string(rows[i]) + " does not exist; rows are 0 to " + std::to_string(size - 1));
    }
  }
  auto* words = live_bits_.as<std::uint64_t>();
  std::size_t removed = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::uint64_t>(rows[i]);
    const std::uint64_t bit = std::uint64_t{1} << (row % 64);
    if ((__atomic_fetch_and(&words[row / 64], ~bit, __ATOMIC_RELAXED) & bit) != 0) ++removed;
  }
  live_count_.fetch_sub(removed, std::memory_order_relaxed);
  return removed;
}

void GraphIndex::copy_rows(const std::int64_t* rows, std::size_t n, std::byte* out) const {
  const auto size = static_cast<std::int64_t>(this->size());
  for (std::size_t i = 0; i < n; ++i) {
    if (rows[i] < 0 || rows[i] >= size) {
      throw Error(ErrorCode::invalid_argument,
                  "row " + std::to_string(rows[i]) + " does not exist; rows are 0 to " + std::to_string(size - 1));
    }
    std::memcpy(out + i * rows_.row_bytes(), rows_.row(static_cast<std::size_t>(rows[i])), rows_.row_bytes());
  }
}

std::vector<std::uint32_t> GraphIndex::entry_points() const {
  std::vector<std::uint32_t> entries(n_entries_.load(std::memory_order_acquire));
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = entries_[i].load(std::memory_order_relaxed);
  return entries;
}

std::size_t GraphIndex::memory_bytes() const noexcept {
  const std::shared_ptr<qgraph::QGraph> q = packed();
  return rows_.memory_bytes() + codes_.committed() + edge_words_.committed() + in_degrees_.committed() +
         live_bits_.committed() + changed_bits_.committed() + (q != nullptr ? q->memory_bytes() : 0);
}

}  // namespace vicinal::graph
