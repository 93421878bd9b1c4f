// Moving pending rows into the graph: search for near rows, prune, add the edges back.
//
// Rows are inserted in batches whose members do not see one another, so that a batch has two parallel phases with no
// order between its rows: find and choose neighbours (reads the graph), then add the reverse edges (locks one row).
// Dhulipala et al. / ParlayANN (PPoPP 2024) call it batch insertion; with one thread the result is reproducible.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <string>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"
#include "graph/linker.hpp"
#include "graph/prune.hpp"

namespace vicinal::graph {
namespace {

constexpr std::chrono::milliseconds kProgressEvery{200};

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

Linker::Linker(Adjacency edges, std::uint16_t* in_degrees, const BeamFns& fns, CodeKind kind, std::uint32_t ef,
               RowLocks& locks, std::uint64_t* changed)
    : edges_(edges), in_degrees_(in_degrees), fns_(fns), kind_(kind), ef_(ef), locks_(locks), changed_(changed) {}

std::size_t Linker::degree_of(std::uint32_t row) const noexcept {
  const std::uint32_t* words = edges_.row(row);
  std::size_t n = 0;
  while (n < edges_.degree && load_edge(words[n]) != row) ++n;
  return n;
}

void Linker::count_in(std::uint32_t row, int change) noexcept {
  __atomic_fetch_add(&in_degrees_[row], static_cast<std::uint16_t>(change), __ATOMIC_RELAXED);
}

void Linker::replace(std::uint32_t row, std::uint32_t& word, std::uint32_t before, std::uint32_t after) noexcept {
  note_change(row);
  count_in(before, -1);
  count_in(after, 1);
  store_edge(word, after);
}

void Linker::write(std::uint32_t row, const Candidate* chosen, std::size_t n) noexcept {
  note_change(row);
  std::uint32_t* words = edges_.row(row);
  for (std::size_t i = 0; i < edges_.degree; ++i) {
    const std::uint32_t before = load_edge(words[i]);
    const std::uint32_t after = i < n ? chosen[i].row : row;
    if (before != row) count_in(before, -1);
    if (after != row) count_in(after, 1);
    store_edge(words[i], after);
  }
}

bool Linker::add_edge(const GraphView& g, const Pruner& pruner, std::uint32_t from, Candidate to, bool force) {
  const RowLocks::Guard guard(locks_, from);
  std::uint32_t* words = edges_.row(from);
  std::uint32_t rows[kDegreeMax];
  std::size_t n = 0;
  for (; n < edges_.degree; ++n) {
    rows[n] = load_edge(words[n]);
    if (rows[n] == from) break;
    if (rows[n] == to.row) return true;
  }
  std::int32_t from_keys[kDegreeMax];
  std::int32_t to_keys[kDegreeMax];
  if (to.key == 0) {
    fns_.keys(g, g.code(from), rows, n, from_keys);
    const auto twins = static_cast<std::size_t>(std::count(from_keys, from_keys + n, 0));
    if (twins >= Pruner::twins_max(edges_.degree)) {
      if (!force) return false;
      const auto at = std::find(from_keys, from_keys + n, 0) - from_keys;
      replace(from, words[at], rows[at], to.row);
      return true;
    }
  }
  if (n < edges_.degree) {
    note_change(from);
    count_in(to.row, 1);
    store_edge(words[n], to.row);
    return true;
  }
  fns_.keys(g, g.code(from), rows, n, from_keys);
  fns_.keys(g, g.code(to.row), rows, n, to_keys);
  // The list is pruned already, so pruning it with one more row needs only that row's distances. A row to which few
  // edges lead keeps them: it could not be found without.
  const bool needed = force || in_degree(to.row) < kInDegreeKept;
  std::size_t victim = n;
  std::size_t heaviest = n;
  float burdens[kDegreeMax];
  for (std::size_t i = 0; i < n; ++i) {
    if (!needed && from_keys[i] <= to.key && pruner.occludes(to_keys[i], to.key)) return false;
    const std::uint16_t leading = in_degree(rows[i]);
    if (leading <= kInDegreeKept) continue;
    burdens[i] = pruner.burden(from_keys[i], leading);
    const bool occluded = from_keys[i] > to.key && pruner.occludes(to_keys[i], from_keys[i]);
    if (occluded && (victim == n || burdens[i] > burdens[victim])) victim = i;
    if (heaviest == n || burdens[i] > burdens[heaviest]) heaviest = i;
  }
  if (victim == n) {
    if (heaviest == n) {
      if (!force) return false;
      heaviest = static_cast<std::size_t>(std::max_element(from_keys, from_keys + n) - from_keys);
    } else if (!needed && burdens[heaviest] <= pruner.burden(to.key, in_degree(to.row))) {
      return false;
    }
    victim = heaviest;
  }
  replace(from, words[victim], rows[victim], to.row);
  return true;
}

void Linker::insert(const GraphView& g, const std::vector<std::uint32_t>& batch,
                    const std::vector<std::uint32_t>& entries, unsigned threads, ScratchPool& scratches) {
  chosen_.resize(batch.size() * edges_.degree);
  n_chosen_.assign(batch.size(), 0);
  ThreadPool& pool = ThreadPool::instance();
  constexpr std::size_t grain = 8;
  pool.parallel_for(batch.size(), threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    const auto scratch_lease = scratches.lease();
    Scratch& scratch = *scratch_lease;
    Pruner pruner(fns_, kind_);
    const std::size_t keep = std::min<std::size_t>(ef_, kPruneCandidates);
    scratch.prepare(kInFlight, g.limit, ef_);
    scratch.tasks.assign(end - begin, {});
    scratch.rows.resize((end - begin) * keep);
    scratch.keys.resize((end - begin) * keep);
    for (std::size_t i = begin; i < end; ++i) {
      BeamTask& task = scratch.tasks[i - begin];
      task.code = g.code(batch[i]);
      task.rows = scratch.rows.data() + (i - begin) * keep;
      task.keys = scratch.keys.data() + (i - begin) * keep;
      task.exclude = batch[i];
    }
    BeamRequest request;
    request.entries = entries.data();
    request.n_entries = entries.size();
    request.ef = ef_;
    request.keep = keep;
    fns_.beam(g, request, scratch.tasks.data(), end - begin, scratch.slots(), kInFlight);
    std::vector<Candidate> candidates;
    for (std::size_t i = begin; i < end; ++i) {
      const BeamTask& task = scratch.tasks[i - begin];
      candidates.resize(task.found);
      for (std::size_t c = 0; c < task.found; ++c) candidates[c] = {task.keys[c], task.rows[c]};
      Candidate* out = chosen_.data() + i * edges_.degree;
      n_chosen_[i] = pruner.choose(g, batch[i], candidates.data(), candidates.size(), edges_.degree, out);
      write(batch[i], out, n_chosen_[i]);
    }
  });
  pool.parallel_for(batch.size(), threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    const Pruner pruner(fns_, kind_);
    for (std::size_t i = begin; i < end; ++i) {
      const Candidate* chosen = chosen_.data() + i * edges_.degree;
      bool reachable = false;
      for (std::size_t c = 0; c < n_chosen_[i]; ++c) {
        reachable |= add_edge(g, pruner, chosen[c].row, {chosen[c].key, batch[i]}, false);
      }
      if (!reachable && n_chosen_[i] > 0) add_edge(g, pruner, chosen[0].row, {chosen[0].key, batch[i]}, true);
    }
  });
}

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

  // A load that outgrows what is there is shuffled: rows given in clusters would otherwise chain up badly.
  const bool bulk = last - first > first;
  // A packed graph follows each batch; one whose rows have doubled is made anew.
  const bool pack_anew = bulk || last >= 2 * packed_at_;
  std::shared_ptr<qgraph::QGraph> packed = pack_anew ? nullptr : this->packed();
  if (packed != nullptr) encode_new(*packed, first, last, threads);
  std::vector<std::uint32_t> order(last - first);
  std::iota(order.begin(), order.end(), static_cast<std::uint32_t>(first));
  std::size_t inserted = first;
  if (first == 0) choose_entries(last);
  std::vector<std::uint32_t> entries = entry_points();
  if (bulk) {
    std::mt19937_64 random(config_.seed);
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
  std::vector<std::uint32_t> batch;
  std::vector<std::uint32_t> starts;
  auto told = std::chrono::steady_clock::now();
  for (std::size_t at = 0; at < order.size();) {
    const std::size_t size = std::clamp<std::size_t>(inserted / kBatchShare, 1, kBatchMax);
    const std::size_t free = order.size() - held;
    if (held > 0 && at == free) {
      set_calibration(nullptr);
      if (pack_anew) pack(last, threads);
      packed = this->packed();
      calibrate_with(&order[at], held, last, threads);
    }
    const std::size_t end = std::min(at < free ? free : order.size(), at + size);
    batch.assign(order.begin() + static_cast<std::ptrdiff_t>(at), order.begin() + static_cast<std::ptrdiff_t>(end));
    starts = entries;
    if (first == 0) starts.resize(std::min(starts.size(), inserted));
    linker.insert(g, batch, starts, threads, scratches_);
    inserted += end - at;
    at = end;
    if (packed != nullptr) encode_changed(*packed, last, threads);
    if (!bulk) linked_.store(inserted, std::memory_order_release);
    const auto now = std::chrono::steady_clock::now();
    if (progress && now - told >= kProgressEvery) {
      told = now;
      if (!progress(at, order.size())) {
        throw Error(ErrorCode::cancelled, "stopped by the progress callback after " + std::to_string(at) + " of " +
                                              std::to_string(order.size()) + " rows");
      }
    }
  }
  if (last >= 2 * entries_chosen_at_) choose_entries(last);
  if (bulk) attach_unreachable(last, threads);
  attach_unfound(bulk ? 0 : first, last, threads);
  if (packed != nullptr) encode_changed(*packed, last, threads);
  if (pack_anew && held == 0) pack(last, threads);
  linked_.store(last, std::memory_order_release);
  if (progress) static_cast<void>(progress(order.size(), order.size()));
  return last - first;
}

}  // namespace vicinal::graph
