// Moving pending rows into the graph: a few at a time, or in bulk, where ever larger batches find one another in
// leaves.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <random>
#include <string>

#include "base/error.hpp"
#include "base/heap.hpp"
#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"
#include "graph/leaves.hpp"
#include "graph/linker.hpp"
#include "graph/panels.hpp"

namespace vicinal::graph {
namespace {

constexpr std::chrono::milliseconds kProgressEvery{200};
constexpr double kLeavesShare = 0.6;  // of the time of a batch, to find its rows' candidates

// Whether a load outgrows what is there.
bool is_bulk(std::size_t first, std::size_t last) noexcept { return last - first > first; }

// A row in the middle: of a few, the one nearest to a sample of all.
std::uint32_t central_row(const GraphView& g, const BeamFns& fns, const std::vector<std::uint32_t>& rows,
                          std::mt19937_64& random) {
  const std::size_t n = rows.size();
  const std::size_t n_sample = std::min<std::size_t>(n, 256);
  const std::size_t n_tried = std::min<std::size_t>(n, 128);
  std::vector<std::uint32_t> sample(n_sample);
  std::vector<std::int32_t> keys(n_sample);
  for (auto& row : sample) row = rows[random() % n];
  std::uint32_t best = rows[0];
  double least = -1.0;
  for (std::size_t t = 0; t < n_tried; ++t) {
    const std::uint32_t row = rows[random() % n];
    fns.keys(g, g.code(row), sample.data(), n_sample, keys.data());
    const double sum = std::accumulate(keys.begin(), keys.end(), 0.0);
    if (least < 0 || sum < least) {
      least = sum;
      best = row;
    }
  }
  return best;
}

}  // namespace

// The middle and a few random rows, all of them live ones.
void GraphIndex::choose_entries(std::size_t n) {
  std::mt19937_64 random(config_.seed ^ n);
  std::vector<std::uint32_t> rows;
  for (std::size_t i = 0; i < 4096; ++i) {
    const auto row = static_cast<std::uint32_t>(random() % n);
    if (is_live(row)) rows.push_back(row);
  }
  for (std::uint32_t row = 0; row < n && rows.size() < kEntriesMax; ++row) {
    if (is_live(row)) rows.push_back(row);  // few are alive: take the first ones
  }
  if (rows.empty()) rows.push_back(0);
  std::vector<std::uint32_t> entries{
      central_row(view(static_cast<std::uint32_t>(n)), beam_fns(best_isa()), rows, random)};
  for (std::size_t i = 0; i < rows.size() && entries.size() < kEntriesMax; ++i) {
    if (std::find(entries.begin(), entries.end(), rows[i]) == entries.end()) entries.push_back(rows[i]);
  }
  for (std::size_t i = 0; i < entries.size(); ++i) entries_[i].store(entries[i], std::memory_order_relaxed);
  n_entries_.store(static_cast<std::uint32_t>(entries.size()), std::memory_order_release);
  entries_chosen_at_ = n;
}

void GraphIndex::grow_graph(std::size_t n) {
  codes_.grow(n * codec_.stride() + kCacheLine);
  edge_words_.grow(n * edges_.stride * sizeof(std::uint32_t));
  in_degrees_.grow(n * sizeof(std::uint16_t));
  changed_bits_.grow((n + 63) / 64 * sizeof(std::uint64_t));
}

std::size_t GraphIndex::link(std::size_t max_rows, unsigned threads, const Progress& progress) {
  const std::lock_guard lock(link_mutex_);
  const std::size_t first = linked();
  const std::size_t last = first + std::min(size() - first, max_rows);
  if (first == last) return 0;
  link_rows(first, last, threads, progress);
  // What a bulk load worked with is a fifth of what it leaves.
  if (is_bulk(first, last)) release_free_memory();
  return last - first;
}

// Rows [first, last), which are the first pending ones; link_mutex_ is held.
void GraphIndex::link_rows(std::size_t first, std::size_t last, unsigned threads, const Progress& progress) {
  ThreadPool& pool = ThreadPool::instance();
  if (!codec_.trained()) codec_.train(rows_, last);
  grow_graph(last);
  pool.parallel_for(last - first, threads, 256, [&](std::size_t begin, std::size_t end, unsigned) {
    std::vector<float> floats(codec_.scratch_floats());
    for (std::size_t row = first + begin; row < first + end; ++row) {
      codec_.encode_row(rows_, row, codes_.data() + row * codec_.stride(), floats.data());
      std::uint32_t* words = edges_.row(static_cast<std::uint32_t>(row));
      for (std::size_t i = 0; i < edges_.stride; ++i) store_edge(words[i], static_cast<std::uint32_t>(row));
    }
  });

  // A bulk load is shuffled: rows given in clusters would otherwise chain up badly.
  const bool bulk = is_bulk(first, last);
  // A packed graph follows each batch; one whose rows have doubled is made anew.
  const bool pack_anew = bulk || last >= 2 * packed_at_;
  std::shared_ptr<qgraph::QGraph> packed = pack_anew ? nullptr : this->packed();
  if (packed != nullptr) encode_new(*packed, first, last, threads);
  std::vector<std::uint32_t> order(last - first);
  std::iota(order.begin(), order.end(), static_cast<std::uint32_t>(first));
  std::size_t inserted = first;
  if (first == 0) choose_entries(last);
  std::vector<std::uint32_t> entries = entry_points();
  std::mt19937_64 random(config_.seed);
  if (bulk) {
    std::shuffle(order.begin(), order.end(), random);
    if (first == 0) {
      for (std::size_t i = 0; i < entries.size(); ++i) {
        std::swap(order[i], *std::find(order.begin() + static_cast<std::ptrdiff_t>(i), order.end(), entries[i]));
      }
    }
  }
  const BeamFns& fns = beam_fns(best_isa());
  const GraphView g = view(static_cast<std::uint32_t>(last));
  // The last rows of the order are kept back: as queries that the graph never held they measure its recall.
  const std::size_t held = rows_to_hold(first, last);
  const bool tracked = packed != nullptr || held > 0;
  Linker linker(edges_, in_degrees_.as<std::uint16_t>(), fns, codec_.kind(), config_.ef_construction, locks_,
                tracked ? changed_bits_.as<std::uint64_t>() : nullptr);
  auto told = std::chrono::steady_clock::now();
  const auto tell = [&](std::size_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (!progress || now - told < kProgressEvery) return;
    told = now;
    if (!progress(done, order.size())) {
      throw Error(ErrorCode::cancelled, "stopped by the progress callback after " + std::to_string(done) + " of " +
                                            std::to_string(order.size()) + " rows");
    }
  };
  const std::size_t free = order.size() - held;
  const bool in_leaves = bulk && codec_.kind() == CodeKind::l2_u8 && first + free >= 2 * kLeavesFrom;
  std::optional<CodeSums> sums;
  std::vector<std::uint32_t> present;  // rows that leaves compare, in random order
  if (in_leaves) {
    sums.emplace(g, last, threads);
    present.resize(first);
    std::iota(present.begin(), present.end(), 0U);
    std::shuffle(present.begin(), present.end(), random);
  }
  std::vector<std::uint32_t> near;  // the same, near ones one after another
  std::vector<std::uint32_t> batch;
  std::vector<std::uint32_t> starts;
  for (std::size_t at = 0; at < order.size();) {
    if (held > 0 && at == free) {
      set_calibration(nullptr);
      if (pack_anew) pack(last, threads);
      packed = this->packed();
      calibrate_with(&order[at], held, last, threads);
    }
    const bool many = in_leaves && inserted >= kLeavesFrom && at < free;
    const std::size_t size = many ? std::min((kLeavesGrowth - 1) * inserted, kLeavesMax)
                                  : std::clamp<std::size_t>(inserted / kBatchShare, 1, kBatchMax);
    const std::size_t end = std::min(at < free ? free : order.size(), at + size);
    batch.assign(order.begin() + static_cast<std::ptrdiff_t>(at), order.begin() + static_cast<std::ptrdiff_t>(end));
    if (in_leaves) present.insert(present.end(), batch.begin(), batch.end());
    if (many) {
      Leaves leaves(g, fns, *sums, config_.ef_construction, locks_, threads);
      leaves.find(present, present.size() - batch.size(), random, [&](double share) {
        tell(at + static_cast<std::size_t>(share * kLeavesShare * static_cast<double>(end - at)));
      });
      linker.insert_from(g, present, present.size() - batch.size(), leaves, *sums, threads);
      near.clear();
      for (const std::uint32_t place : leaves.order()) near.push_back(present[place]);
    } else {
      starts = entries;
      if (first == 0) starts.resize(std::min(starts.size(), inserted));
      linker.insert(g, batch, starts, threads, scratches_);
    }
    inserted += end - at;
    at = end;
    if (packed != nullptr) encode_changed(*packed, last, threads);
    if (!bulk) linked_.store(inserted, std::memory_order_release);
    tell(at);
  }
  if (last >= 2 * entries_chosen_at_) choose_entries(last);
  if (bulk) attach_unreachable(last, threads);
  // Searches for near rows follow one another; those kept back come last.
  near.insert(near.end(), present.begin() + static_cast<std::ptrdiff_t>(near.size()), present.end());
  if (!in_leaves) near = row_range(bulk ? 0 : first, last);
  if (!bulk) {
    // What new rows push out may have been the way to others, so that each load looks for some of those too, in turn.
    for (std::size_t i = std::min(first, kFindOld * (last - first)); i > 0; --i) {
      near.push_back(static_cast<std::uint32_t>(looked_for_++ % first));
    }
  }
  attach_unfound(std::move(near), last, threads);
  if (packed != nullptr) encode_changed(*packed, last, threads);
  if (pack_anew && held == 0) pack(last, threads);
  linked_.store(last, std::memory_order_release);
  if (progress) static_cast<void>(progress(order.size(), order.size()));
}

}  // namespace vicinal::graph
