// Rows inserted into the graph one batch at a time: near rows found, neighbours chosen, edges added back.
//
// The members of a batch do not see one another's edges, so that it has two parallel phases with no order between its
// rows: find and choose neighbours (reads the graph), then add the reverse edges (locks one row). Dhulipala et al. /
// ParlayANN (PPoPP 2024) call it batch insertion; with one thread the result is reproducible.
#include "graph/linker.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/leaves.hpp"
#include "graph/panels.hpp"

namespace vicinal::graph {

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
  std::uint32_t places[kDegreeMax];
  std::iota(places, places + n, 0U);
  const bool needed = force || in_degree(to.row) < kInDegreeKept;
  std::size_t victim = victim_of(pruner, to, needed, places, n, rows, from_keys, to_keys);
  if (victim == n) {
    if (!force) return false;
    victim = static_cast<std::size_t>(std::max_element(from_keys, from_keys + n) - from_keys);
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

void Linker::insert_from(const GraphView& g, const std::vector<std::uint32_t>& batch, Leaves& leaves,
                         const CodeSums& sums, unsigned threads) {
  const std::size_t degree = edges_.degree;
  chosen_.resize(batch.size() * degree);
  n_chosen_.assign(batch.size(), 0);
  ThreadPool& pool = ThreadPool::instance();
  constexpr std::size_t grain = 64;
  pool.parallel_for(batch.size(), threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    Pruner pruner(fns_, kind_);
    std::vector<Candidate> candidates;
    for (std::size_t i = begin; i < end; ++i) {
      leaves.candidates(i, batch[i], candidates);
      Candidate* out = chosen_.data() + i * degree;
      n_chosen_[i] = pruner.choose(g, batch[i], candidates.data(), candidates.size(), degree, out);
      write(batch[i], out, n_chosen_[i]);
    }
  });
  leaves.clear();
  // The edges back, by the row that they leave from: its offers end where the next row's begin.
  std::vector<std::size_t> ends(g.limit + 1, 0);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    for (std::size_t c = 0; c < n_chosen_[i]; ++c) ++ends[chosen_[i * degree + c].row + 1];
  }
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  std::vector<Offer> offers(ends.back());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    for (std::size_t c = 0; c < n_chosen_[i]; ++c) {
      const Candidate& to = chosen_[i * degree + c];
      offers[ends[to.row]++] = {{to.key, batch[i]}, static_cast<std::uint32_t>(i)};
    }
  }
  std::vector<std::uint8_t> reachable(batch.size(), 0);
  pool.parallel_for(g.limit, threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    const Pruner pruner(fns_, kind_);
    Panels panels(g, fns_, sums);
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t first = row == 0 ? 0 : ends[row - 1];
      if (ends[row] == first) continue;
      add_edges(pruner, static_cast<std::uint32_t>(row), offers.data() + first, ends[row] - first, panels,
                reachable.data());
    }
  });
  const Pruner pruner(fns_, kind_);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (reachable[i] != 0 || n_chosen_[i] == 0) continue;
    const Candidate& nearest = chosen_[i * degree];
    add_edge(g, pruner, nearest.row, {nearest.key, batch[i]}, true);
  }
}

// add_edge() for each offer in turn, nearest first, with distances from panels.
void Linker::add_edges(const Pruner& pruner, std::uint32_t from, Offer* offers, std::size_t n_offers, Panels& panels,
                       std::uint8_t* reachable) {
  constexpr std::size_t some = 64;  // offers at once
  constexpr std::size_t rows_max = kDegreeMax + some;
  std::sort(offers, offers + n_offers, [](const Offer& a, const Offer& b) {
    return a.to.key < b.to.key || (a.to.key == b.to.key && a.to.row < b.to.row);
  });
  const RowLocks::Guard guard(locks_, from);
  std::uint32_t* words = edges_.row(from);
  for (std::size_t at = 0; at < n_offers; at += some) {
    const std::size_t count = std::min(some, n_offers - at);
    std::uint32_t rows[rows_max];          // the neighbours, then those offered
    std::uint32_t neighbours[kDegreeMax];  // places in `rows`
    std::size_t n = 0;
    for (; n < edges_.degree; ++n) {
      rows[n] = load_edge(words[n]);
      if (rows[n] == from) break;
      neighbours[n] = static_cast<std::uint32_t>(n);
    }
    const std::size_t first = n;
    for (std::size_t i = 0; i < count; ++i) rows[first + i] = offers[at + i].to.row;
    std::int32_t from_keys[round_up(rows_max, kPanel)];
    std::int32_t to_keys[round_up(rows_max, kPanel)];
    if (first + count > edges_.degree || offers[at].to.key == 0) {  // else nothing is compared
      panels.fill(rows, first + count);
      panels.keys(from, from_keys);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const Candidate to = offers[at + i].to;
      const auto place = static_cast<std::uint32_t>(first + i);
      const std::uint32_t* end = neighbours + n;
      const auto is_neighbour = [&](std::uint32_t p) { return rows[p] == to.row; };
      bool has = std::any_of(static_cast<const std::uint32_t*>(neighbours), end, is_neighbour);
      if (!has && to.key == 0) {
        const auto is_twin = [&](std::uint32_t p) { return from_keys[p] == 0; };
        const auto twins = std::count_if(static_cast<const std::uint32_t*>(neighbours), end, is_twin);
        if (static_cast<std::size_t>(twins) >= Pruner::twins_max(edges_.degree)) continue;
      }
      if (!has && n < edges_.degree) {
        note_change(from);
        count_in(to.row, 1);
        store_edge(words[n], to.row);
        neighbours[n++] = place;
        has = true;
      }
      if (!has) {
        panels.keys(to.row, to_keys);
        const std::size_t victim =
            victim_of(pruner, to, in_degree(to.row) < kInDegreeKept, neighbours, n, rows, from_keys, to_keys);
        if (victim == n) continue;
        replace(from, words[victim], rows[neighbours[victim]], to.row);
        neighbours[victim] = place;
      }
      __atomic_store_n(&reachable[offers[at + i].place], 1, __ATOMIC_RELAXED);
    }
  }
}

// Which of a full row's n neighbours gives way to `to`; n: none. The row is pruned already, so pruning it with one more
// neighbour needs only that one's distances. A row to which few edges lead keeps them, and gets this one if `needed`:
// it could not be found without.
std::size_t Linker::victim_of(const Pruner& pruner, Candidate to, bool needed, const std::uint32_t* neighbours,
                              std::size_t n, const std::uint32_t* rows, const std::int32_t* from_keys,
                              const std::int32_t* to_keys) const noexcept {
  std::size_t victim = n;
  std::size_t heaviest = n;
  float burdens[kDegreeMax];
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t p = neighbours[i];
    if (!needed && from_keys[p] <= to.key && pruner.occludes(to_keys[p], to.key)) return n;
    const std::uint16_t leading = in_degree(rows[p]);
    if (leading <= kInDegreeKept) continue;
    burdens[i] = pruner.burden(from_keys[p], leading);
    const bool occluded = from_keys[p] > to.key && pruner.occludes(to_keys[p], from_keys[p]);
    if (occluded && (victim == n || burdens[i] > burdens[victim])) victim = i;
    if (heaviest == n || burdens[i] > burdens[heaviest]) heaviest = i;
  }
  if (victim < n || heaviest == n) return victim;
  return needed || burdens[heaviest] > pruner.burden(to.key, in_degree(to.row)) ? heaviest : n;
}

}  // namespace vicinal::graph
