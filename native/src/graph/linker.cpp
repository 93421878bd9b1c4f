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
#include "distance/prefetch.hpp"
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
  const bool needed = force || in_degree(to.row) < kInDegreeKept;
  std::size_t victim = victim_of(pruner, to, needed, n, rows, from_keys, to_keys);
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

void Linker::insert_from(const GraphView& g, const std::vector<std::uint32_t>& rows, std::size_t first, Leaves& leaves,
                         const CodeSums& sums, unsigned threads) {
  const std::size_t degree = edges_.degree;
  const std::size_t n = rows.size() - first;
  const std::vector<std::uint32_t>& order = leaves.order();
  chosen_.resize(n * degree);
  n_chosen_.assign(n, 0);
  ThreadPool& pool = ThreadPool::instance();
  constexpr std::size_t grain = 64;
  pool.parallel_for(order.size(), threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    RowKeys keys(g, fns_, sums);
    Pruner pruner(fns_, kind_, &keys);
    std::vector<Candidate> candidates;
    std::vector<Candidate> next;  // whose codes are sent for while the neighbours of the row before are chosen
    const auto find_next = [&](std::size_t at) {
      while (at < end && order[at] < first) ++at;
      next.clear();
      if (at == end) return at;
      leaves.candidates(order[at] - first, rows[order[at]], next);
      for (const Candidate& c : next) prefetch_bytes(g.code(c.row), g.code_bytes);
      return at;
    };
    for (std::size_t at = find_next(begin); at < end;) {
      const std::size_t i = order[at] - first;
      const std::uint32_t row = rows[order[at]];
      std::swap(candidates, next);
      at = find_next(at + 1);
      Candidate* out = chosen_.data() + i * degree;
      n_chosen_[i] = pruner.choose(g, row, candidates.data(), candidates.size(), degree, out);
      write(row, out, n_chosen_[i]);
    }
  });
  leaves.clear();
  // The edges back, by the row that they leave from: its offers end where the next row's begin.
  std::vector<std::size_t> ends(g.limit + 1, 0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t c = 0; c < n_chosen_[i]; ++c) ++ends[chosen_[i * degree + c].row + 1];
  }
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  std::vector<Offer> offers(ends.back());
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t c = 0; c < n_chosen_[i]; ++c) {
      const Candidate& to = chosen_[i * degree + c];
      offers[ends[to.row]++] = {{to.key, rows[first + i]}, static_cast<std::uint32_t>(i)};
    }
  }
  std::vector<std::uint8_t> reachable(n, 0);
  // By number, which is by chance: with near rows one after another, each would see the edges of those before it.
  pool.parallel_for(g.limit, threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    const Pruner pruner(fns_, kind_);
    RowKeys keys(g, fns_, sums);
    for (std::size_t row = begin; row < end; ++row) {
      if (row + 1 < end && ends[row + 1] != ends[row]) {
        const std::uint32_t* words = edges_.row(static_cast<std::uint32_t>(row + 1));
        for (std::size_t w = 0; w < degree; ++w) prefetch_bytes(g.code(load_edge(words[w])), g.code_bytes);
      }
      const std::size_t from = row == 0 ? 0 : ends[row - 1];
      if (ends[row] == from) continue;
      add_edges(pruner, static_cast<std::uint32_t>(row), offers.data() + from, ends[row] - from, keys,
                reachable.data());
    }
  });
  const Pruner pruner(fns_, kind_);
  for (std::size_t i = 0; i < n; ++i) {
    if (reachable[i] != 0 || n_chosen_[i] == 0) continue;
    const Candidate& nearest = chosen_[i * degree];
    add_edge(g, pruner, nearest.row, {nearest.key, rows[first + i]}, true);
  }
}

// add_edge() for each offer in turn, nearest first, with distances from products.
void Linker::add_edges(const Pruner& pruner, std::uint32_t from, Offer* offers, std::size_t n_offers, RowKeys& keys,
                       std::uint8_t* reachable) {
  constexpr std::size_t some = 8;  // neighbours compared at a time: the first few refuse most offers
  std::sort(offers, offers + n_offers, [](const Offer& a, const Offer& b) {
    return a.to.key < b.to.key || (a.to.key == b.to.key && a.to.row < b.to.row);
  });
  const RowLocks::Guard guard(locks_, from);
  std::uint32_t* words = edges_.row(from);
  std::uint32_t rows[kDegreeMax];
  std::int32_t from_keys[kDegreeMax];
  std::int32_t to_keys[kDegreeMax];
  std::size_t n = 0;
  for (; n < edges_.degree; ++n) {
    rows[n] = load_edge(words[n]);
    if (rows[n] == from) break;
  }
  if (n + n_offers > edges_.degree || offers[0].to.key == 0) {  // else nothing is compared
    keys.set(from);
    keys.to(rows, n, from_keys);
  }
  for (Offer* offer = offers; offer != offers + n_offers; ++offer) {
    const Candidate to = offer->to;
    bool has = std::find(rows, rows + n, to.row) != rows + n;
    if (!has && to.key == 0) {
      const auto twins = std::count(from_keys, from_keys + n, 0);
      if (static_cast<std::size_t>(twins) >= Pruner::twins_max(edges_.degree)) continue;
    }
    if (!has && n < edges_.degree) {
      note_change(from);
      count_in(to.row, 1);
      store_edge(words[n], to.row);
      rows[n] = to.row;
      from_keys[n++] = to.key;
      has = true;
    }
    if (!has) {
      const bool needed = in_degree(to.row) < kInDegreeKept;
      bool refused = false;
      keys.set(to.row);
      for (std::size_t i = 0; i < n && !refused; i += some) {
        const std::size_t end = std::min(n, i + some);
        keys.to(rows + i, end - i, to_keys + i);
        for (std::size_t j = i; j < end && !needed && !refused; ++j) {
          refused = from_keys[j] <= to.key && pruner.occludes(to_keys[j], to.key);
        }
      }
      if (refused) continue;
      const std::size_t victim = victim_of(pruner, to, needed, n, rows, from_keys, to_keys);
      if (victim == n) continue;
      replace(from, words[victim], rows[victim], to.row);
      rows[victim] = to.row;
      from_keys[victim] = to.key;
    }
    __atomic_store_n(&reachable[offer->place], 1, __ATOMIC_RELAXED);
  }
}

// Which of a full row's n neighbours gives way to `to`; n: none. The row is pruned already, so pruning it with one more
// neighbour needs only that one's distances. A row to which few edges lead keeps them, and gets this one if `needed`:
// it could not be found without.
std::size_t Linker::victim_of(const Pruner& pruner, Candidate to, bool needed, std::size_t n, const std::uint32_t* rows,
                              const std::int32_t* from_keys, const std::int32_t* to_keys) const noexcept {
  std::size_t victim = n;
  std::size_t heaviest = n;
  float burdens[kDegreeMax];
  for (std::size_t i = 0; i < n; ++i) {
    if (!needed && from_keys[i] <= to.key && pruner.occludes(to_keys[i], to.key)) return n;
    const std::uint16_t leading = in_degree(rows[i]);
    if (leading <= kInDegreeKept) continue;
    burdens[i] = pruner.burden(from_keys[i], leading);
    const bool occluded = from_keys[i] > to.key && pruner.occludes(to_keys[i], from_keys[i]);
    if (occluded && (victim == n || burdens[i] > burdens[victim])) victim = i;
    if (heaviest == n || burdens[i] > burdens[heaviest]) heaviest = i;
  }
  if (victim < n || heaviest == n) return victim;
  return needed || burdens[heaviest] > pruner.burden(to.key, in_degree(to.row)) ? heaviest : n;
}

}  // namespace vicinal::graph
