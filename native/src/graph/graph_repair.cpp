// Healing the graph around removed rows, in place, while searches go on.
//
// Every live row that points to a removed one chooses its neighbours anew among its live neighbours and those of the
// removed ones, as Xu et al. (IP-DiskANN, arXiv:2502.13826) do at each delete; here it is one sweep over the rows.
#include <algorithm>
#include <random>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kGrain = 256;
constexpr std::size_t kOwnGrain = 64;
constexpr std::size_t kFindEfFirst = 12;
constexpr std::size_t kFindEf = 48;  // rows are made findable by a beam of this width

}  // namespace

std::size_t GraphIndex::repair(unsigned threads) {
  const std::lock_guard lock(link_mutex_);
  const std::size_t n = linked();
  if (n == 0 || live() == 0) return 0;
  const BeamFns& fns = beam_fns(best_isa());
  const GraphView g = view(static_cast<std::uint32_t>(n));
  Linker linker(edges_, in_degrees_.as<std::uint16_t>(), fns, codec_.kind(), config_.ef_construction, locks_,
                changed_bits_.as<std::uint64_t>());
  std::atomic<std::size_t> changed{0};
  // A copy: rows removed while this runs are the next repair's.
  const std::vector<std::uint64_t> alive(live_words(), live_words() + (n + 63) / 64);
  ThreadPool::instance().parallel_for(n, threads, kGrain, [&](std::size_t begin, std::size_t end, unsigned) {
    Pruner pruner(fns, g.kind);
    std::vector<std::uint32_t> near;
    std::vector<Candidate> candidates;
    Candidate chosen[kDegreeMax];
    for (std::size_t r = begin; r < end; ++r) {
      const auto row = static_cast<std::uint32_t>(r);
      if (!test_bit(alive.data(), row)) continue;
      if (!gather_around(row, alive, near)) continue;
      const std::size_t count = choose_among(g, pruner, row, near, candidates, chosen);
      const RowLocks::Guard guard(locks_, row);
      linker.write(row, chosen, count);
      changed.fetch_add(1, std::memory_order_relaxed);
    }
  });
  const std::vector<std::uint32_t> entries = entry_points();
  const bool entries_live = std::all_of(entries.begin(), entries.end(), [&](std::uint32_t e) { return is_live(e); });
  if (changed.load() != 0 || !entries_live) {
    choose_entries(n);
    attach_unreachable(n, threads);
    attach_unfound(row_range(0, n), n, threads);
  }
  if (const std::shared_ptr<qgraph::QGraph> q = packed()) encode_changed(*q, n, threads);
  return changed.load();
}

// The live rows around `row` when one of its neighbours is removed: its own, and those behind removed ones up to two
// steps away. False, and nothing gathered, where all its neighbours live.
bool GraphIndex::gather_around(std::uint32_t row, const std::vector<std::uint64_t>& alive,
                               std::vector<std::uint32_t>& near) const {
  near.clear();
  std::vector<std::uint32_t> removed;
  for (std::uint32_t i = 0; i < edges_.degree; ++i) {
    const std::uint32_t next = load_edge(edges_.row(row)[i]);
    if (next == row) continue;
    (test_bit(alive.data(), next) ? near : removed).push_back(next);
  }
  if (removed.empty()) return false;
  constexpr std::size_t enough = 512;
  for (std::size_t depth = 0; depth < 2 && !removed.empty(); ++depth) {
    std::vector<std::uint32_t> behind;
    for (const std::uint32_t gone : removed) {
      if (near.size() >= enough) break;
      for (std::uint32_t i = 0; i < edges_.degree; ++i) {
        const std::uint32_t next = load_edge(edges_.row(gone)[i]);
        if (next == gone || next == row) continue;
        (test_bit(alive.data(), next) ? near : behind).push_back(next);
      }
    }
    removed = std::move(behind);
    if (near.size() > edges_.degree) break;
  }
  std::sort(near.begin(), near.end());
  near.erase(std::unique(near.begin(), near.end()), near.end());
  return true;
}

// The row's new neighbours, chosen among `near`; returns how many.
std::size_t GraphIndex::choose_among(const GraphView& g, Pruner& pruner, std::uint32_t row,
                                     const std::vector<std::uint32_t>& near, std::vector<Candidate>& candidates,
                                     Candidate* chosen) const {
  std::vector<std::int32_t> keys(near.size() + kSlotPad);
  beam_fns(best_isa()).keys(g, g.code(row), near.data(), near.size(), keys.data());
  candidates.resize(near.size());
  for (std::size_t i = 0; i < near.size(); ++i) candidates[i] = {keys[i], near[i]};
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.key < b.key || (a.key == b.key && a.row < b.row); });
  return pruner.choose(g, row, candidates.data(), candidates.size(), edges_.degree, chosen);
}

// Searches the graph for each listed row's own code and hands on what it finds: the nearest row, or with `exclude` the
// nearest others.
void GraphIndex::search_own(const std::vector<std::uint32_t>& rows, std::size_t n, std::size_t ef, bool exclude,
                            unsigned threads, const std::function<void(std::size_t, const BeamTask&)>& take) const {
  const BeamFns& fns = beam_fns(best_isa());
  const GraphView g = view(static_cast<std::uint32_t>(n));
  const std::vector<std::uint32_t> entries = entry_points();
  const std::size_t keep = exclude ? ef : 1;
  ThreadPool::instance().parallel_for(rows.size(), threads, kOwnGrain,
                                      [&](std::size_t begin, std::size_t end, unsigned) {
                                        const auto lease = scratches_.lease();
                                        Scratch& s = *lease;
                                        s.prepare(kInFlight, n, ef);
                                        s.tasks.assign(end - begin, {});
                                        s.rows.resize((end - begin) * keep);
                                        s.keys.resize((end - begin) * keep);
                                        for (std::size_t i = begin; i < end; ++i) {
                                          BeamTask& task = s.tasks[i - begin];
                                          task.code = g.code(rows[i]);
                                          task.rows = s.rows.data() + (i - begin) * keep;
                                          task.keys = s.keys.data() + (i - begin) * keep;
                                          if (exclude) task.exclude = rows[i];
                                        }
                                        BeamRequest request;
                                        request.entries = entries.data();
                                        request.n_entries = entries.size();
                                        request.ef = ef;
                                        request.keep = keep;
                                        request.pass = live() < size() ? live_words() : nullptr;
                                        fns.beam(g, request, s.tasks.data(), end - begin, s.slots(), kInFlight);
                                        for (std::size_t i = begin; i < end; ++i) take(i, s.tasks[i - begin]);
                                      });
}

// Gives each of the rows an edge from a row at which a search for it ends.
void GraphIndex::attach(const std::vector<std::uint32_t>& lost, std::size_t n, int round, unsigned threads) {
  const BeamFns& fns = beam_fns(best_isa());
  const GraphView g = view(static_cast<std::uint32_t>(n));
  Linker linker(edges_, in_degrees_.as<std::uint16_t>(), fns, codec_.kind(), config_.ef_construction, locks_,
                changed_bits_.as<std::uint64_t>());
  const Pruner pruner(fns, g.kind);
  search_own(lost, n, kFindEf, true, threads, [&](std::size_t i, const BeamTask& task) {
    // Not always the nearest, so that lost twins do not push one another out of the same row.
    const std::size_t tried = std::min<std::size_t>(task.found, 4);
    if (tried == 0) return;
    bool attached = false;
    for (std::size_t c = 0; c < tried && !attached; ++c) {
      if (linker.degree_of(task.rows[c]) < edges_.degree) {
        attached = linker.add_edge(g, pruner, task.rows[c], {task.keys[c], lost[i]}, false);
      }
    }
    if (!attached) {
      const std::size_t c = (lost[i] + static_cast<std::size_t>(round)) % tried;
      linker.add_edge(g, pruner, task.rows[c], {task.keys[c], lost[i]}, true);
    }
    if (linker.degree_of(lost[i]) == 0) {
      const Candidate nearest{task.keys[0], task.rows[0]};
      const RowLocks::Guard guard(locks_, lost[i]);
      linker.write(lost[i], &nearest, 1);
    }
  });
}

// Gives every live row that no entry point leads to an edge from a reachable row near it.
void GraphIndex::attach_unreachable(std::size_t n, unsigned threads) {
  // An edge that attaches one row may push out another's last one, so a few rounds.
  for (int round = 0; round < 4; ++round) {
    std::vector<std::uint64_t> reached((n + 63) / 64, 0);
    std::vector<std::uint32_t> stack = entry_points();
    for (const std::uint32_t row : stack) reached[row / 64] |= std::uint64_t{1} << (row % 64);
    while (!stack.empty()) {
      const std::uint32_t row = stack.back();
      stack.pop_back();
      for (std::uint32_t i = 0; i < edges_.degree; ++i) {
        const std::uint32_t next = load_edge(edges_.row(row)[i]);
        if (next >= n || test_bit(reached.data(), next)) continue;
        reached[next / 64] |= std::uint64_t{1} << (next % 64);
        stack.push_back(next);
      }
    }
    std::vector<std::uint32_t> lost;
    for (std::uint32_t row = 0; row < n; ++row) {
      if (!test_bit(reached.data(), row) && is_live(row)) lost.push_back(row);
    }
    if (lost.empty()) return;
    attach(lost, n, round, threads);
  }
}

// Makes the listed rows findable, those of them that live: one that a search for its own code does not meet, nor a twin
// of it, gets an edge from where that search ends. A narrow beam finds nearly all of them for little.
void GraphIndex::attach_unfound(std::vector<std::uint32_t> asked, std::size_t last, unsigned threads) {
  std::erase_if(asked, [&](std::uint32_t row) { return !is_live(row); });
  const auto unfound = [&](std::size_t ef) {
    std::vector<std::uint8_t> found(asked.size(), 0);
    search_own(asked, last, ef, false, threads, [&](std::size_t i, const BeamTask& task) {
      found[i] = task.found > 0 && (task.keys[0] == 0 || task.rows[0] == asked[i]) ? 1 : 0;
    });
    std::size_t left = 0;
    for (std::size_t i = 0; i < asked.size(); ++i) {
      if (found[i] == 0) asked[left++] = asked[i];
    }
    asked.resize(left);
  };
  unfound(kFindEfFirst);
  for (int round = 0; round < 4 && !asked.empty(); ++round) {
    unfound(kFindEf);
    if (!asked.empty()) attach(asked, last, round, threads);
  }
}

}  // namespace vicinal::graph
