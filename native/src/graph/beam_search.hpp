// The beam search, written once over building blocks `Ops` of an instruction set. Included only by
// graph_search_<isa>.cpp, each inside its own namespace, so that no instruction set's code can be linked into
// another's.
//
// Candidates live in two unsorted lists: open (not expanded yet) and done (expanded and returnable). A step takes the
// open candidate of smallest key by a SIMD scan; keeping the lists sorted costs several times as much. The search ends
// when ef done rows are at least as near as every open one, which is the rule of Malkov & Yashunin, arXiv:1603.09320,
// Algorithm 2. `bound` (an upper limit of the ef-th smallest key) keeps hopeless candidates out of the open list; it is
// tightened by bisection only when the list is full.
//
// A request may end a walk before that: as soon as `near` done rows are nearer than the nearest open one by a stretch
// (Al-Jazzazi et al., "Distance Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search",
// arXiv:2505.15636). A query with near neighbours ends soon, one in the void goes on, up to ef.
//
// Each query is a state machine with two memory-bound phases (adjacency row, codes of new neighbours), and several
// queries take turns, so that the lines one of them waits for arrive while another computes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "graph/view.hpp"

namespace vicinal::graph {
namespace {  // every including file gets its own copy

inline constexpr std::int32_t kKeyMax = INT32_MAX;
inline constexpr std::size_t kFlightMax = 8;

// GCC 12 drops all but the first prefetch of a loop; the fence (no instruction) keeps them.
inline void keep_prefetches() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

inline void prefetch_bytes(const void* address, std::size_t bytes) noexcept {
  const auto* p = static_cast<const char*>(address);
  for (std::size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(p + i, 0, 2);
    keep_prefetches();
  }
}

inline bool passes(const std::uint64_t* pass, std::uint32_t row) noexcept {
  return pass == nullptr || test_bit(pass, row);
}

// Keys of the rows for a query code of the given kind.
template <class Ops, CodeKind kind>
inline void keys_of(const GraphView& g, const std::byte* code, const std::uint32_t* rows, std::size_t n,
                    std::int32_t* out) noexcept {
  if constexpr (kind == CodeKind::l2_u8_wide) {
    constexpr std::size_t kAtOnce = 128;
    alignas(64) std::int32_t dots[kAtOnce + kSlotPad];
    WideFactors factors;
    __builtin_memcpy(&factors, code + 2 * g.code_stride, sizeof(factors));
    for (std::size_t at = 0; at < n; at += kAtOnce) {
      const std::size_t m = n - at < kAtOnce ? n - at : kAtOnce;
      Ops::template keys<CodeKind::l2_u8>(g, code, rows + at, m, out + at);
      Ops::template keys<CodeKind::dot_u8>(g, code + g.code_stride, rows + at, m, dots);
      for (std::size_t i = 0; i < m; ++i) {
        const float key = static_cast<float>(out[at + i]) + factors.dot * static_cast<float>(dots[i] - kDotBase);
        out[at + i] = static_cast<std::int32_t>((key + factors.shift) * factors.shrink);
      }
    }
  } else {
    Ops::template keys<kind>(g, code, rows, n, out);
  }
}

// The key of `part` times the distance of a key; at most the largest there is.
template <CodeKind kind>
inline std::int32_t scaled(std::int32_t key, float part) noexcept {
  if constexpr (kind == CodeKind::l2_f32 || kind == CodeKind::l1_f32) {
    float distance;
    __builtin_memcpy(&distance, &key, sizeof(distance));
    distance *= part;
    __builtin_memcpy(&key, &distance, sizeof(key));
    return key;
  } else {
    const float distance = static_cast<float>(key) * part;
    if (!(distance < 2.0e9F)) return kKeyMax;
    const auto below = static_cast<std::int32_t>(distance);
    return below + (static_cast<float>(below) < distance ? 1 : 0);  // whole keys below it are those below this one
  }
}

// With two_hop only rows that pass are scored; neighbours that fail serve as bridges to their own neighbours (the
// predicate-subgraph traversal of Patel et al., ACORN, SIGMOD 2024).
template <class Ops, CodeKind kind, bool two_hop>
class Flight {
 public:
  void start(const GraphView& g, const BeamRequest& request, BeamTask& task, Slot& slot) noexcept {
    task_ = &task;
    slot_ = &slot;
    n_open_ = 0;
    n_done_ = 0;
    bound_ = kKeyMax;
    task.hops = 0;
    begin_epoch(slot);
    n_fresh_ = 0;
    for (std::size_t i = 0; i < request.n_entries; ++i) take_if_new(g, request.entries[i]);
    for (std::size_t i = 0; i < n_fresh_; ++i) prefetch_bytes(g.code(fresh_[i]), g.code_bytes);
    phase_ = Phase::codes;
  }

  // Does one phase; returns false when the query is finished.
  bool step(const GraphView& g, const BeamRequest& request) noexcept {
    switch (phase_) {
      case Phase::codes:
        score(g, request);
        phase_ = Phase::edges;
        return choose(g, request);
      case Phase::edges:
        if constexpr (two_hop) {
          gather_passing(g, request);
          phase_ = Phase::bridges;
        } else {
          gather(g);
          phase_ = Phase::codes;
        }
        return true;
      case Phase::bridges:
        if constexpr (two_hop) cross_bridges(g, request);
        phase_ = Phase::codes;
        return true;
    }
    return false;
  }

  void finish(const BeamRequest& request) noexcept;

 private:
  enum class Phase : std::uint8_t { edges, bridges, codes };

  static void begin_epoch(Slot& slot) noexcept {
    if (++slot.epoch == 0) {
      for (std::size_t i = 0; i < slot.visited_size; ++i) slot.visited[i] = 0;
      slot.epoch = 1;
    }
  }

  void take_if_new(const GraphView& g, std::uint32_t row) noexcept {
    if (row >= g.limit) return;
    std::uint8_t& tag = slot_->visited[row];
    fresh_[n_fresh_] = row;
    n_fresh_ += tag != slot_->epoch ? 1U : 0U;
    tag = slot_->epoch;
  }

  // Phase 1: the chosen row's adjacency is here; find the neighbours not seen yet and send for their codes.
  void gather(const GraphView& g) noexcept {
    std::uint32_t* edges = g.edges.row(chosen_);
    n_fresh_ = 0;
    for (std::uint32_t i = 0; i < g.edges.degree; ++i) take_if_new(g, load_edge(edges[i]));
    for (std::size_t i = 0; i < n_fresh_; ++i) prefetch_bytes(g.code(fresh_[i]), g.code_bytes);
  }

  void gather_passing(const GraphView& g, const BeamRequest& request) noexcept {
    std::uint32_t* edges = g.edges.row(chosen_);
    n_fresh_ = 0;
    n_bridges_ = 0;
    for (std::uint32_t i = 0; i < g.edges.degree; ++i) {
      const std::uint32_t row = load_edge(edges[i]);
      if (row >= g.limit || slot_->visited[row] == slot_->epoch) continue;
      slot_->visited[row] = slot_->epoch;
      if (passes(request.pass, row)) {
        fresh_[n_fresh_++] = row;
      } else {
        bridges_[n_bridges_++] = row;
        prefetch_bytes(g.edges.row(row), g.edges.degree * sizeof(std::uint32_t));
      }
    }
  }

  // A bridge's own failing neighbours stay unseen, so that they may be bridges later.
  void cross_bridges(const GraphView& g, const BeamRequest& request) noexcept {
    for (std::size_t b = 0; b < n_bridges_ && n_fresh_ < kDegreeMax / 2; ++b) {
      std::uint32_t* edges = g.edges.row(bridges_[b]);
      for (std::uint32_t i = 0; i < g.edges.degree && n_fresh_ < kDegreeMax; ++i) {
        const std::uint32_t row = load_edge(edges[i]);
        if (row >= g.limit || !passes(request.pass, row)) continue;
        fresh_[n_fresh_] = row;
        n_fresh_ += slot_->visited[row] != slot_->epoch ? 1U : 0U;
        slot_->visited[row] = slot_->epoch;
      }
    }
    for (std::size_t i = 0; i < n_fresh_; ++i) prefetch_bytes(g.code(fresh_[i]), g.code_bytes);
  }

  // Phase 2: keys of the fresh rows; those below the bound become candidates.
  void score(const GraphView& g, const BeamRequest& request) noexcept {
    keys_of<Ops, kind>(g, task_->code, fresh_, n_fresh_, fresh_keys_);
    n_open_ = Ops::append_below(slot_->open_keys, slot_->open_rows, n_open_, fresh_keys_, fresh_, n_fresh_, bound_);
    if (n_open_ + kDegreeMax > slot_->open_capacity) shrink(request);
  }

  bool choose(const GraphView& g, const BeamRequest& request) noexcept {
    if (n_open_ == 0 || task_->hops >= request.hops_max) return false;
    const std::size_t at = Ops::argmin(slot_->open_keys, n_open_);
    const std::int32_t key = slot_->open_keys[at];
    const std::size_t wanted = done_wanted(request);
    if (n_done_ >= wanted && Ops::count_below(slot_->done_keys, n_done_, key + 1) >= wanted) return false;
    if constexpr (ends_early(kind)) {
      if (request.near_part > 0.0F && n_done_ >= request.near &&
          Ops::count_below(slot_->done_keys, n_done_, scaled<kind>(key, request.near_part)) >= request.near) {
        return false;
      }
    }
    chosen_ = slot_->open_rows[at];
    if (task_->visited_keys != nullptr) [[unlikely]] {
      task_->visited_keys[task_->hops] = key;
      task_->visited_rows[task_->hops] = chosen_;
    }
    prefetch_bytes(g.edges.row(chosen_), g.edges.degree * sizeof(std::uint32_t));
    --n_open_;
    slot_->open_keys[at] = slot_->open_keys[n_open_];
    slot_->open_rows[at] = slot_->open_rows[n_open_];
    ++task_->hops;
    if (passes(request.pass, chosen_) && chosen_ != task_->exclude) {
      if (n_done_ == slot_->done_capacity) drop_far_done(request);
      slot_->done_keys[n_done_] = key;
      slot_->done_rows[n_done_] = chosen_;
      ++n_done_;
    }
    return true;
  }

  // Done rows that end the walk. Where all rows count, those not kept lie as the kept ones do: as large a share of both
  // is nearer than the next candidate.
  std::size_t done_wanted(const BeamRequest& request) const noexcept {
    if (request.enough == 0 || task_->hops <= request.ef) return request.ef;
    const std::size_t part = request.ef * n_done_ / task_->hops;
    return part > request.enough ? part : request.enough;
  }

  // A key bound with at least `wanted` of the listed entries below it, and not many more.
  std::int32_t bisect(std::size_t wanted, bool with_open) const noexcept {
    std::int32_t low = 0;  // fewer than wanted below low
    std::int32_t high = kKeyMax;
    while (high - low > 1) {
      const std::int32_t middle = low + (high - low) / 2;
      const std::size_t count = Ops::count_below(slot_->done_keys, n_done_, middle) +
                                (with_open ? Ops::count_below(slot_->open_keys, n_open_, middle) : 0);
      if (count < wanted) {
        low = middle;
      } else {
        high = middle;
        if (count <= wanted + wanted / 8) break;
      }
    }
    return high;
  }

  // The open list is nearly full: lower the bound and drop what is past it.
  void shrink(const BeamRequest& request) noexcept {
    // Where only some rows may be returned, open ones cannot vouch for the bound.
    const bool open_counts = request.pass == nullptr;
    if (n_done_ + (open_counts ? n_open_ : 0) >= request.ef) {
      const std::int32_t bound = bisect(request.ef, open_counts);
      bound_ = bound < bound_ ? bound : bound_;
      drop_open(bound_);
    }
    // Still full (ties, or too few returnable rows yet): keep the nearer half, whatever it costs in reach.
    if (n_open_ + kDegreeMax > slot_->open_capacity) {
      std::int32_t low = 0;
      std::int32_t high = kKeyMax;
      const std::size_t room = slot_->open_capacity / 2;
      while (high - low > 1) {
        const std::int32_t middle = low + (high - low) / 2;
        (Ops::count_below(slot_->open_keys, n_open_, middle) <= room ? low : high) = middle;
      }
      drop_open(low);
    }
  }

  void drop_open(std::int32_t bound) noexcept {
    n_open_ =
        Ops::append_below(slot_->open_keys, slot_->open_rows, 0, slot_->open_keys, slot_->open_rows, n_open_, bound);
  }

  void drop_far_done(const BeamRequest& request) noexcept {
    const std::int32_t bound = bisect(request.ef, false);
    n_done_ =
        Ops::append_below(slot_->done_keys, slot_->done_rows, 0, slot_->done_keys, slot_->done_rows, n_done_, bound);
    if (n_done_ == slot_->done_capacity) n_done_ = request.ef;  // more ties than room: any of them will do
  }

  BeamTask* task_ = nullptr;
  Slot* slot_ = nullptr;
  std::size_t n_open_ = 0;
  std::size_t n_done_ = 0;
  std::size_t n_fresh_ = 0;
  std::int32_t bound_ = kKeyMax;
  std::uint32_t chosen_ = 0;
  Phase phase_ = Phase::codes;
  std::size_t n_bridges_ = 0;
  std::uint32_t bridges_[two_hop ? kDegreeMax : 1];
  alignas(64) std::uint32_t fresh_[kDegreeMax + kSlotPad];
  alignas(64) std::int32_t fresh_keys_[kDegreeMax + kSlotPad];
};

// Writes the `keep` nearest done rows, sorted: select by a bound, then a heap sort in place.
template <class Ops, CodeKind kind, bool two_hop>
void Flight<Ops, kind, two_hop>::finish(const BeamRequest& request) noexcept {
  std::int32_t* keys = slot_->done_keys;
  std::uint32_t* rows = slot_->done_rows;
  if (n_done_ > request.keep) {
    const std::int32_t bound = bisect(request.keep, false);
    n_done_ = Ops::append_below(keys, rows, 0, keys, rows, n_done_, bound);
  }
  const auto less = [&](std::size_t a, std::size_t b) {
    return keys[a] < keys[b] || (keys[a] == keys[b] && rows[a] < rows[b]);
  };
  const auto swap = [&](std::size_t a, std::size_t b) {
    const std::int32_t key = keys[a];
    const std::uint32_t row = rows[a];
    keys[a] = keys[b];
    rows[a] = rows[b];
    keys[b] = key;
    rows[b] = row;
  };
  const auto sift = [&](std::size_t at, std::size_t end) {
    for (std::size_t child = 2 * at + 1; child < end; child = 2 * at + 1) {
      if (child + 1 < end && less(child, child + 1)) ++child;
      if (!less(at, child)) return;
      swap(at, child);
      at = child;
    }
  };
  for (std::size_t i = n_done_ / 2; i-- > 0;) sift(i, n_done_);
  for (std::size_t end = n_done_; end > 1;) {
    swap(0, --end);
    sift(0, end);
  }
  const std::size_t found = n_done_ < request.keep ? n_done_ : request.keep;
  for (std::size_t i = 0; i < found; ++i) {
    task_->rows[i] = rows[i];
    task_->keys[i] = keys[i];
  }
  task_->found = static_cast<std::uint32_t>(found);
}

template <class Ops, CodeKind kind, bool two_hop>
void run_beam(const GraphView& g, const BeamRequest& request, BeamTask* tasks, std::size_t n_tasks, Slot* slots,
              std::size_t n_slots) noexcept {
  Flight<Ops, kind, two_hop> flights[kFlightMax];
  std::size_t n_flights = n_slots < n_tasks ? n_slots : n_tasks;
  if (n_flights > kFlightMax) n_flights = kFlightMax;
  std::size_t next = 0;
  bool busy[kFlightMax] = {};
  for (std::size_t i = 0; i < n_flights; ++i) {
    flights[i].start(g, request, tasks[next++], slots[i]);
    busy[i] = true;
  }
  for (std::size_t alive = n_flights; alive > 0;) {
    for (std::size_t i = 0; i < n_flights; ++i) {
      if (!busy[i] || flights[i].step(g, request)) continue;
      flights[i].finish(request);
      if (next < n_tasks) {
        flights[i].start(g, request, tasks[next++], slots[i]);
      } else {
        busy[i] = false;
        --alive;
      }
    }
  }
}

template <class Ops>
std::size_t near(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots, const std::int32_t* bounds,
                 std::size_t n, std::int32_t bound, std::int32_t* out_keys, std::uint32_t* out_places) noexcept {
  std::int32_t keys[kPanel];
  std::size_t found = 0;
  for (std::size_t i = 0; i < n; i += kPanel) {
    unsigned hits = Ops::below(base, norms + i, dots + i, bounds + i, bound, keys);
    if (n - i < kPanel) hits &= (1U << (n - i)) - 1;
    for (; hits != 0; hits &= hits - 1) {
      const auto at = static_cast<unsigned>(__builtin_ctz(hits));
      out_keys[found] = keys[at];
      out_places[found++] = static_cast<std::uint32_t>(i + at);
    }
  }
  return found;
}

void least(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots, std::size_t n,
           std::int32_t* out) noexcept {
  std::int32_t best[kPanel];
  for (std::int32_t& key : best) key = INT32_MAX;
  for (std::size_t i = 0; i < n; i += kPanel) {
    for (std::size_t j = 0; j < kPanel; ++j) {
      const auto key = static_cast<std::int32_t>(base + norms[i + j] - 2 * static_cast<std::uint32_t>(dots[i + j]));
      best[j] = key < best[j] ? key : best[j];
    }
  }
  for (std::size_t j = 0; j < kPanel; ++j) out[j] = best[j];
}

// Plain loops, which the compiler widens for each instruction set.
std::size_t keep(std::uint64_t* list, std::size_t size, std::size_t capacity, const std::uint64_t* more, std::size_t n,
                 std::uint64_t* worst) noexcept {
  std::uint64_t largest = UINT64_MAX;
  std::size_t place = 0;
  const auto find_largest = [&] {
    std::uint64_t most = 0;
    for (std::size_t i = 0; i < capacity; ++i) most = list[i] > most ? list[i] : most;
    std::uint64_t at = 0;
    for (std::size_t i = 0; i < capacity; ++i) at |= list[i] == most ? i : 0;
    largest = most;
    place = at;
  };
  if (size == capacity) find_largest();
  for (std::size_t m = 0; m < n; ++m) {
    const std::uint64_t candidate = more[m];
    if (candidate >= largest) continue;
    std::uint64_t apart = UINT64_MAX;
#pragma GCC unroll 4
    for (std::size_t i = 0; i < size; ++i) apart = (list[i] ^ candidate) < apart ? list[i] ^ candidate : apart;
    if (apart == 0) continue;
    if (size < capacity) {
      list[size++] = candidate;
      if (size < capacity) continue;
    } else {
      list[place] = candidate;
    }
    find_largest();
  }
  *worst = largest;
  return size;
}

template <class Ops, CodeKind kind>
void beam_of_kind(const GraphView& g, const BeamRequest& request, BeamTask* tasks, std::size_t n_tasks, Slot* slots,
                  std::size_t n_slots) noexcept {
  if (request.two_hop) return run_beam<Ops, kind, true>(g, request, tasks, n_tasks, slots, n_slots);
  return run_beam<Ops, kind, false>(g, request, tasks, n_tasks, slots, n_slots);
}

template <class Ops>
void beam(const GraphView& g, const BeamRequest& request, BeamTask* tasks, std::size_t n_tasks, Slot* slots,
          std::size_t n_slots) noexcept {
  switch (g.kind) {
    case CodeKind::l2_u8:
      return beam_of_kind<Ops, CodeKind::l2_u8>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::l1_u8:
      return beam_of_kind<Ops, CodeKind::l1_u8>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::hamming:
      return beam_of_kind<Ops, CodeKind::hamming>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::dot_u8:
      return beam_of_kind<Ops, CodeKind::dot_u8>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::l2_f32:
      return beam_of_kind<Ops, CodeKind::l2_f32>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::l1_f32:
      return beam_of_kind<Ops, CodeKind::l1_f32>(g, request, tasks, n_tasks, slots, n_slots);
    case CodeKind::l2_u8_wide:
      return beam_of_kind<Ops, CodeKind::l2_u8_wide>(g, request, tasks, n_tasks, slots, n_slots);
  }
}

template <class Ops>
void keys(const GraphView& g, const std::byte* code, const std::uint32_t* rows, std::size_t n,
          std::int32_t* out) noexcept {
  switch (g.kind) {
    case CodeKind::l2_u8:
      return Ops::template keys<CodeKind::l2_u8>(g, code, rows, n, out);
    case CodeKind::l1_u8:
      return Ops::template keys<CodeKind::l1_u8>(g, code, rows, n, out);
    case CodeKind::hamming:
      return Ops::template keys<CodeKind::hamming>(g, code, rows, n, out);
    case CodeKind::dot_u8:
      return Ops::template keys<CodeKind::dot_u8>(g, code, rows, n, out);
    case CodeKind::l2_f32:
      return Ops::template keys<CodeKind::l2_f32>(g, code, rows, n, out);
    case CodeKind::l1_f32:
      return Ops::template keys<CodeKind::l1_f32>(g, code, rows, n, out);
    case CodeKind::l2_u8_wide:
      return keys_of<Ops, CodeKind::l2_u8_wide>(g, code, rows, n, out);
  }
}

}  // namespace
}  // namespace vicinal::graph
