// The candidates of a walk and the nodes it has expanded, over a vector type V.
//
// Candidates are an unsorted list. A search expands ef nodes in all, so after h hops only the ef - h nearest
// candidates matter: when the list is full, a threshold near that rank is found by bisection and the rest dropped.
// Of a long list only the end, which still grows, is looked through at every hop; the rest lies in blocks whose minima
// are kept, where a node may stay after it was expanded through another entry, until it comes to be the nearest.
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

inline constexpr float kInfinity = __builtin_inff();
inline constexpr std::uint32_t kFlatRoom = 256;  // a list with more room is looked through by the minima of its blocks

template <class V>
struct Candidates {
  using F = typename V::F;
  using U = typename V::U;
  using M = typename V::M;
  static constexpr std::uint32_t W = V::kWidth;

  // Enters a node, the n-th of a walk, into the table of expanded nodes; returns it.
  static VICINAL_INLINE std::uint32_t choose(const Sizes& sizes, Lane& l, std::uint32_t node, float estimate,
                                             std::uint32_t n) noexcept {
    std::uint32_t slot = node & (sizes.slots - 1);
    if (sizes.bitmap) {
      slot = node / 32 & sizes.word_mask;
      l.table[slot] &= ~(1U << node % 32);
    } else {
      while (l.table[slot] != kNoNode) [[unlikely]] {
        slot = (slot + 1) & (sizes.slots - 1);
      }
      l.table[slot] = node;
    }
    l.es[n] = slot;
    l.ek[n] = estimate;
    return node;
  }

  static VICINAL_INLINE bool was_expanded(const Sizes& sizes, const Lane& l, std::uint32_t node) noexcept {
    if (sizes.bitmap) return (l.table[node / 32 & sizes.word_mask] >> node % 32 & 1) == 0;
    std::uint32_t slot = node & (sizes.slots - 1);
    while (l.table[slot] != kNoNode && l.table[slot] != node) slot = (slot + 1) & (sizes.slots - 1);
    return l.table[slot] == node;
  }

  // The lanes of m whose nodes were not expanded.
  static VICINAL_INLINE M not_expanded(const Sizes& sizes, const Lane& l, M m, U id) noexcept {
    if (sizes.bitmap) {
      return V::both(m, V::bit_set(V::gather(l.table, V::band(V::word_of(id), V::setu(sizes.word_mask))), id));
    }
    const U slot_mask = V::setu(sizes.slots - 1), no_node = V::setu(kNoNode), one = V::setu(1);
    U at = V::band(id, slot_mask);
    U found = V::gather(l.table, at);
    m = V::but_not(m, V::eq(found, id));
    M other = V::but_not(m, V::eq(found, no_node));
    while (V::bits(other) != 0) [[unlikely]] {  // a slot taken by another node: look on
      at = V::band(V::addu(at, one), slot_mask);
      found = V::gather(l.table, at);
      const M same = V::eq(found, id);
      m = V::but_not(m, V::both(other, same));
      other = V::but_not(V::but_not(other, same), V::eq(found, no_node));
    }
    return m;
  }

  // The nearest of candidates [from, to), of which `expanded` is crossed out.
  static VICINAL_INLINE void look_through(Lane& l, std::uint32_t from, std::uint32_t to, U expanded, F& best,
                                          U& best_id) noexcept {
    for (std::uint32_t i = from; i < to; i += W) {
      const U id = V::loadu(l.ci + i);
      const F d = V::pick(V::eq(id, expanded), V::setf(kInfinity), V::loadf(l.cd + i));
      V::storef(l.cd + i, d);
      const M m = V::lt(d, best);
      best = V::pick(m, d, best);
      best_id = V::pick(m, id, best_id);
    }
  }

  // The minimum of the block that begins at `at`, of which `expanded` is crossed out.
  static VICINAL_INLINE void take_minimum(Lane& l, std::uint32_t at, U expanded) noexcept {
    F least = V::setf(kInfinity);
    for (std::uint32_t i = at; i < at + kMinBlock; i += W) {
      const F d = V::pick(V::eq(V::loadu(l.ci + i), expanded), V::setf(kInfinity), V::loadf(l.cd + i));
      V::storef(l.cd + i, d);
      least = V::min(least, d);
    }
    l.least[at / kMinBlock] = V::min_of(least);
  }

  // The first of x, one of which is at most `limit`, that is.
  static VICINAL_INLINE std::uint32_t first_at_most(const float* x, float limit) noexcept {
    const F bound = V::setf(limit);
    constexpr std::uint32_t all = (1ULL << W) - 1;
    for (std::uint32_t i = 0;; i += W) {
      const std::uint32_t found = ~V::bits(V::lt(bound, V::loadf(x + i))) & all;
      if (found != 0) return i + static_cast<std::uint32_t>(__builtin_ctz(found));
    }
  }

  // The nearest candidate of a long list.
  static VICINAL_INLINE void look_at_blocks(const Sizes& sizes, Lane& l, std::uint32_t chosen, F& best,
                                            U& best_id) noexcept {
    const U expanded = V::setu(chosen);
    if (l.nearest == chosen) take_minimum(l, l.nearest_block, expanded);
    l.nearest = kNoNode;
    for (; l.sealed + kMinBlock <= l.size; l.sealed += kMinBlock) {
      const std::uint32_t block = l.sealed / kMinBlock;
      if (block % W == 0) V::storef(l.least + block, V::setf(kInfinity));
      take_minimum(l, l.sealed, expanded);
    }
    look_through(l, l.sealed, l.size, expanded, best, best_id);
    for (;;) {
      F least = V::setf(kInfinity);
      for (std::uint32_t i = 0; i < l.sealed / kMinBlock; i += W) least = V::min(least, V::loadf(l.least + i));
      const float distance = V::min_of(least);
      if (!(distance < V::min_of(best))) return;
      const std::uint32_t block = first_at_most(l.least, distance) * kMinBlock;
      const std::uint32_t at = block + first_at_most(l.cd + block, distance), node = l.ci[at];
      if (!was_expanded(sizes, l, node)) {
        l.nearest = node;
        l.nearest_block = block;
        best = V::setf(distance);
        best_id = V::setu(node);
        return;
      }
      take_minimum(l, block, V::setu(node));
    }
  }

  // The nearest candidate, `chosen` being the node that was chosen last.
  static VICINAL_INLINE void look_for_nearest(const Sizes& sizes, Lane& l, std::uint32_t chosen, F& best,
                                              U& best_id) noexcept {
    if (l.room <= kFlatRoom) [[likely]] {
      look_through(l, 0, l.size, V::setu(chosen), best, best_id);
    } else {
      look_at_blocks(sizes, l, chosen, best, best_id);
    }
  }

  static VICINAL_INLINE float just_above(float x) noexcept { return x + (__builtin_fabsf(x) * 1e-6F + 1e-30F); }

  // Finds a threshold that about `want` candidates pass, and drops the others.
  static __attribute__((noinline)) void tighten(const Sizes& sizes, Lane& l, std::uint32_t want) noexcept {
    const std::uint32_t capacity = sizes.capacity;
    const F empty = V::setf(kInfinity), bound = V::setf(l.stop);
    for (std::uint32_t i = 0; i < l.sealed; i += W) {
      const F d = V::loadf(l.cd + i);
      V::storef(l.cd + i, V::pick(not_expanded(sizes, l, V::lt(d, empty), V::loadu(l.ci + i)), d, empty));
    }
    l.sealed = 0;
    l.nearest = kNoNode;
    F least = empty, most = V::setf(-kInfinity);
    std::uint32_t live = 0;
    for (std::uint32_t i = 0; i < l.size; i += W) {
      const F d = V::loadf(l.cd + i);
      const M m = V::lt(d, bound);
      least = V::min(least, d);
      most = V::max(most, V::pick(m, d, V::setf(-kInfinity)));
      live += static_cast<std::uint32_t>(__builtin_popcount(V::bits(m)));
    }
    float high = l.tau < l.stop ? l.tau : l.stop;
    if (live > want) {
      float low = V::min_of(least);
      high = just_above(V::max_of(most));
      const std::uint32_t enough = want + want / 8 + 2;
      for (int round = 0; round < 12; ++round) {
        const float middle = 0.5F * (low + high);
        const F limit = V::setf(middle);
        std::uint32_t below = 0;
        for (std::uint32_t i = 0; i < l.size; i += W) {
          below += static_cast<std::uint32_t>(__builtin_popcount(V::bits(V::lt(V::loadf(l.cd + i), limit))));
        }
        if (below < want) {
          low = middle;
        } else {
          high = middle;
          if (below <= enough) break;
        }
      }
      l.tau = high;
    }
    const F limit = V::setf(high);
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < l.size; i += W) {
      const F d = V::loadf(l.cd + i);
      const U id = V::loadu(l.ci + i);
      const M m = V::lt(d, limit);
      V::storef(l.cd + kept, V::pack(m, d, empty));  // kept <= i: never ahead of what is read
      V::storeu(l.ci + kept, V::pack(m, id));
      kept += static_cast<std::uint32_t>(__builtin_popcount(V::bits(m)));
    }
    // Equal distances cannot be told apart by a threshold: keep any of them.
    if (kept + kBlock > capacity) kept = want < capacity - kBlock ? want : capacity - kBlock;
    for (std::uint32_t i = kept; i < l.size + W; i += W) V::storef(l.cd + i, empty);
    l.size = kept;
    // A list half full of what is needed would be tightened again and again.
    const std::uint32_t before = l.room;
    const std::uint32_t widest = want > sizes.room ? capacity : sizes.room;
    while (l.room < widest && l.size > l.room / 2) l.room = 2 * l.room < widest ? 2 * l.room : widest;
    for (std::uint32_t i = before + 64; i < l.room + 64; i += W) V::storef(l.cd + i, empty);
  }

  static VICINAL_INLINE std::uint32_t count_below(const float* x, std::uint32_t n, float limit) noexcept {
    const F bound = V::setf(limit);
    std::uint32_t below = 0;
    for (std::uint32_t i = 0; i < n; i += W) {
      below += static_cast<std::uint32_t>(__builtin_popcount(V::bits(V::lt(V::loadf(x + i), bound))));
    }
    return below;
  }

  // A limit that `want` to want + slack of n values are below, or more where values are equal; the values behind the
  // n-th, up to W, are infinite.
  static VICINAL_INLINE float passed_by(const float* x, std::uint32_t n, std::uint32_t want,
                                        std::uint32_t slack) noexcept {
    const F empty = V::setf(kInfinity);
    F least = empty, most = V::setf(-kInfinity);
    for (std::uint32_t i = 0; i < n; i += W) {
      const F d = V::loadf(x + i);
      least = V::min(least, d);
      most = V::max(most, V::pick(V::lt(d, empty), d, V::setf(-kInfinity)));
    }
    float low = V::min_of(least);
    float high = just_above(V::max_of(most));
    for (int round = 0; round < 16; ++round) {
      const float middle = 0.5F * (low + high);
      const std::uint32_t below = count_below(x, n, middle);
      if (below < want) {
        low = middle;
      } else {
        high = middle;
        if (below <= want + slack) break;
      }
    }
    return high;
  }
};

}  // namespace vicinal::qgraph
