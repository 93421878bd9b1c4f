// The search loop over Q rows, written once over a vector type V and compiled per instruction set.
//
// A query is a small state machine; several of them take turns on one thread, so that one query's cache misses pass
// while the others compute. One hop: find the nearest of the old candidates (and cross out the node being expanded)
// -> the node's own distance -> estimates of its neighbours -> those below the threshold that are not yet expanded
// are appended without a branch -> the nearest is chosen -> next query.
//
// Where a walk ends, its lane begins the next query in the same turn, and sends for the rows to compare exactly while
// it prepares it; they are compared one turn later.
//
// What is still to be expanded is kept in candidates.hpp. A search may end sooner by distance, as in
// graph/beam_search.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"
#include "qgraph/candidates.hpp"
#include "qgraph/search.hpp"
#include "qgraph/two_bits.hpp"

namespace vicinal::qgraph {

inline constexpr std::uint32_t kWantMin = 8;       // candidates kept however near the end
inline constexpr float kMargin = 3.0F;             // standard deviations that an own distance may be off
inline constexpr std::size_t kSoonBytes = 1024;    // a query alone sends for rows up to so long before it needs them
inline constexpr std::size_t kAtOnceBytes = 4096;  // and for nodes' rows up to so long in one go
inline constexpr float kCopies = 2.0F;             // candidates for a node that looking for matches will expand
inline constexpr std::uint32_t kTouched = 4;       // rows whose pages are looked up before they are sent for
inline constexpr std::uint32_t kRoomMin = 160;     // of candidates, where an early end keeps them few

template <class V>
struct SearchLoop : Candidates<V> {
  using F = typename V::F;
  using U = typename V::U;
  using M = typename V::M;
  static constexpr std::uint32_t W = V::kWidth;
  using Candidates<V>::choose;
  using Candidates<V>::count_below;
  using Candidates<V>::just_above;
  using Candidates<V>::look_for_nearest;
  using Candidates<V>::not_expanded;
  using Candidates<V>::passed_by;
  using Candidates<V>::tighten;

  static VICINAL_INLINE void prefetch_lines(const std::byte* from, const std::byte* to) noexcept {
    for (; from < to; from += 64) {
      __builtin_prefetch(from, 0, 2);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC 12 would keep only the first
    }
  }

  // The first line of each page of a row: what finds the page may take longer than what fetches the line, and holds
  // back all fetches behind it.
  static VICINAL_INLINE void touch(const std::byte* row, std::size_t bytes) noexcept {
    prefetch_next(row);
    const std::byte* end = row + bytes;
    for (row += kPageBytes - reinterpret_cast<std::uintptr_t>(row) % kPageBytes; row < end; row += kPageBytes) {
      prefetch_next(row);
    }
  }

  static VICINAL_INLINE const std::byte* row_of(const View& g, std::uint32_t node) noexcept {
    return g.rows + std::size_t{node} * g.layout.stride;
  }

  // Chooses the node after the current one of a query alone, and sends for its row.
  static VICINAL_INLINE void choose_ahead(const View& g, const Sizes& sizes, Lane& l, std::uint32_t node,
                                          float estimate) noexcept {
    l.latest = choose(sizes, l, node, estimate, l.chosen++);
    const std::byte* row = row_of(g, node);
    if (g.layout.bytes <= kAtOnceBytes) {
      prefetch_lines(row, row + g.layout.bytes);
    } else {
      touch(row, g.layout.bytes);
    }
  }

  // The distance of a row's own node, by its one-byte codes.
  static VICINAL_INLINE float own_distance(const Context& c, const Lane& l, const std::byte* row) noexcept {
    const Layout& layout = c.graph.layout;
    const auto* header = reinterpret_cast<const RowHeader*>(row + layout.header);
    const std::int32_t dot =
        V::own_dot(reinterpret_cast<const std::int8_t*>(row + layout.own), l.own_query, layout.padded, header->sum);
    return header->add + l.query_add + header->scale * l.own_scale * static_cast<float>(dot);
  }

  // Sends for the rows picked in a lane, some lines at a time.
  struct Sender {
    const Reranker& reranker;
    const std::uint32_t* rows;
    std::uint32_t left;
    std::size_t part;  // lines sent for at a time
    const std::byte* at = nullptr;
    const std::byte* end = nullptr;

    Sender(const Reranker& r, const std::uint32_t* picked, std::uint32_t n, std::size_t parts) noexcept
        : reranker(r), rows(picked), left(r.row_bytes != 0 ? n : 0), part(n * (r.row_bytes / 64 + 1) / parts + 1) {
      for (std::uint32_t i = 0; i < left && i < kTouched; ++i) touch(r.where(r.context, rows[i]), r.row_bytes);
    }

    VICINAL_INLINE void send(std::size_t lines) noexcept {
      for (; lines != 0; --lines, at += 64) {
        if (at >= end) {
          if (left == 0) return;
          if (left > kTouched) touch(reranker.where(reranker.context, rows[kTouched]), reranker.row_bytes);
          at = reranker.where(reranker.context, *rows++);
          end = at + reranker.row_bytes;
          --left;
        }
        prefetch_next(at);
      }
    }
    VICINAL_INLINE void some() noexcept {
      if (left != 0 || at < end) send(part);
    }
  };

  // Prepares a query, and meanwhile sends for the rows picked for the one before it.
  static __attribute__((noinline)) void start(const Context& c, const Batch& b, const Sizes& sizes, Lane& l,
                                              std::size_t index) noexcept {
    Sender sender(b.reranker, l.pick, l.due ? l.picked : 0, passes<V>(c.rotation));
    const std::size_t dim = c.graph.dim, padded = c.graph.layout.padded;
    const float* q = b.queries + index * dim;
    l.index = index;
    float scale = 1.0F;
    if (c.metric != Metric::l2) {
      F norm = V::setf(0.0F);
      std::size_t i = 0;
      for (; i + W <= dim; i += W) norm = V::fma(V::loadf(q + i), V::loadf(q + i), norm);
      float total = V::sum_of(norm);
      for (; i < dim; ++i) total += q[i] * q[i];
      const float inverse = total > 0.0F ? 1.0F / __builtin_sqrtf(total) : 0.0F;
      scale = c.metric == Metric::cosine ? inverse : inverse * c.query_norm;
    }
    float* x = l.work;
    if (c.metric == Metric::ip) {
      for (std::size_t i = 0; i < dim; ++i) x[i] = q[i] * scale;
    } else {
      for (std::size_t i = 0; i < dim; ++i) x[i] = q[i] * scale - c.mean[i];
    }
    for (std::size_t i = dim; i < padded; ++i) x[i] = 0.0F;
    rotate<V>(c.rotation, x, [&]() __attribute__((always_inline)) { sender.some(); });
    sender.send(SIZE_MAX);

    F norm = V::setf(0.0F), top = norm, top_entry = norm, total = norm;
    const bool two_bits = c.graph.layout.bits == 2;
    for (std::size_t i = 0; i < padded; i += W) {
      const F v = V::loadf(x + i), a = V::abs(v);
      norm = V::fma(v, v, norm);
      top = V::max(top, a);
      top_entry = V::max(top_entry, two_bits ? V::sum2(a) : V::sum4(a));
      total = V::add(total, a);
    }
    const float square = V::sum_of(norm);
    l.query_add = c.metric == Metric::ip ? 0.0F : c.graph.unit * square;
    const float peak = V::max_of(top);
    l.own_scale = peak > 0.0F ? peak / 127.0F : 1.0F;
    // An own distance is off by the rounding of the query's and of the row's bytes, which are about as coarse: each by
    // the twelfth part of a unit's square in every dimension.
    l.margin = kMargin * 2.0F * c.graph.unit * l.own_scale * __builtin_sqrtf(square / 6.0F);
    const F own = V::setf(1.0F / l.own_scale);
    // Rounding may lift a sum of four by two: 61 + 2 entries still fit six bits.
    float delta = V::max_of(top_entry) / 61.0F;
    const float least = V::sum_of(total) / 60000.0F;
    if (delta < least) delta = least;
    if (!(delta > 0.0F)) delta = 1.0F;
    const F coarse = V::setf(1.0F / delta);
    total = V::setf(0.0F);
    for (std::size_t i = 0; i < padded; i += W) {
      const F v = V::loadf(x + i);
      V::store_i8(l.own_query + i, V::mul(v, own));
      total = V::add(total, V::abs(V::store_i8(l.table_query + i, V::mul(v, coarse))));
    }
    V::prepare_own(l.own_query, padded);
    if (two_bits) {
      build_two_bit_tables(l.table_query, padded, l.tables);
    } else {
      V::build_tables(l.table_query, padded, l.tables);
    }
    l.delta = -2.0F * delta;
    l.delta_sum = delta * V::sum_of(total);

    const F empty = V::setf(kInfinity);
    l.kth = -kInfinity;
    l.stop = kInfinity;
    l.room = sizes.room;
    if (b.near_part > 0.0F && l.room > kRoomMin) l.room = kRoomMin;
    if (b.near != 0 && b.near <= b.ef) {
      const auto near = static_cast<std::uint32_t>(b.near);
      for (std::uint32_t i = 0; i < near; i += W) V::storef(l.closest + i, empty);
      for (std::uint32_t i = near; i % W != 0; ++i) l.closest[i] = -kInfinity;
      l.kth = kInfinity;
      l.kth_at = 0;
    }
    for (std::uint32_t i = 0; i < l.room + 64; i += W) V::storef(l.cd + i, empty);
    for (std::uint32_t i = 0; i < sizes.hops_max; i += W) V::storef(l.ek + i, empty);
    l.size = l.sealed = 0;
    l.nearest = kNoNode;
    l.hops = l.returnable = 0;
    l.tau = 3.0e38F;
    // Expansion starts at the first entry; the others are candidates with their own distances.
    for (std::size_t i = 1; i < b.n_entries; ++i) {
      l.cd[l.size] = own_distance(c, l, row_of(c.graph, b.entries[i]));
      l.ci[l.size] = b.entries[i];
      ++l.size;
    }
    l.current = choose(sizes, l, b.entries[0], -kInfinity, 0);
    l.row = row_of(c.graph, l.current);
    l.latest = kNoNode;
    l.chosen = 1;
    l.phase = 1;
  }

  static VICINAL_INLINE bool may_return(const Batch& b, std::uint32_t row) noexcept {
    if (row >= b.limit) return false;
    return b.pass == nullptr || (__atomic_load_n(&b.pass[row / 64], __ATOMIC_RELAXED) >> (row % 64) & 1) != 0;
  }

  static VICINAL_INLINE bool astray(const Batch& b, const Lane& l) noexcept {
    return static_cast<float>(l.returnable) < b.share_min * static_cast<float>(l.hops);
  }

  // Whether candidates that were dropped are missing: others were thought to be enough, but hardly any of them match.
  static VICINAL_INLINE bool ran_dry(const Batch& b, const Lane& l) noexcept {
    return l.returnable < b.enough / 2 && l.tau < l.stop;
  }

  // Nodes that a walk will go on to expand, as far as one can tell.
  static VICINAL_INLINE std::uint32_t still_to_expand(const Batch& b, std::uint32_t ef, const Lane& l) noexcept {
    const std::uint32_t rows = ef > l.hops ? ef - l.hops : 0;
    if (l.returnable >= b.enough) return rows;
    const float seen = static_cast<float>(l.hops) / static_cast<float>(l.returnable + 1);
    const float each = seen > b.rows_per_match ? seen : b.rows_per_match;
    const float more = kCopies * each * static_cast<float>(b.enough - l.returnable);
    const float most = static_cast<float>(b.nodes_max);
    const auto for_matches = static_cast<std::uint32_t>(more < most ? more : most);
    return rows > for_matches ? rows : for_matches;
  }

  // Whether as many as are enough of those that may be returned are nearer than the nearest candidate.
  static VICINAL_INLINE bool enough_settled(const Batch& b, Lane& l, float nearest) noexcept {
    if (l.returnable < b.enough) return false;
    const F empty = V::setf(kInfinity), limit = V::setf(nearest);
    V::storef(l.ed + l.hops, empty);
    std::size_t nearer = 0;
    for (std::uint32_t i = 0; i < l.hops; i += W) {
      const M may = V::lt(V::loadf(l.ed + i), empty);  // chosen as near, and not one that may not be returned
      nearer += static_cast<std::size_t>(__builtin_popcount(V::bits(V::both(may, V::lt(V::loadf(l.ek + i), limit)))));
    }
    return nearer >= b.enough;
  }

  // Between the part of all rows and that of a filter, by how many of the nodes may not be returned.
  static VICINAL_INLINE float near_part_of(const Batch& b, const Lane& l) noexcept {
    if (!(b.near_part_all > 0.0F)) return b.near_part;
    const auto nodes = static_cast<float>(l.hops + 1);
    const float usual = 1.0F - 1.0F / b.rows_per_match;
    // A standard deviation is left to chance.
    const float others =
        1.0F - static_cast<float>(l.returnable) / nodes + __builtin_sqrtf(usual * (1.0F - usual) / nodes);
    if (!(others < usual)) return b.near_part;
    return b.near_part_all + (b.near_part - b.near_part_all) * others / usual;
  }

  // Takes an own distance among the nearest. When those are settled, candidates too far away to change them end the
  // walk.
  static __attribute__((noinline)) void take_near(const Context& c, const Batch& b, Lane& l, float own) noexcept {
    const auto near = static_cast<std::uint32_t>(b.near);
    l.closest[l.kth_at] = own;
    F most = V::loadf(l.closest);
    for (std::uint32_t i = W; i < near; i += W) most = V::max(most, V::loadf(l.closest + i));
    l.kth = V::max_of(most);
    const F top = V::setf(l.kth);
    for (std::uint32_t i = 0; i < near; i += W) {
      const std::uint32_t less = V::bits(V::lt(V::loadf(l.closest + i), top)) & ((1ULL << W) - 1);
      if (less == (1ULL << W) - 1) continue;
      l.kth_at = i + static_cast<std::uint32_t>(__builtin_ctz(~less));
      break;
    }
    if (l.kth == kInfinity || !(b.near_part > 0.0F)) return;
    const float distance = l.kth + c.far_off;  // below 0 only by rounding, or for the longest rows under ip
    l.stop = (distance > 0.0F ? distance / near_part_of(b, l) : distance) - c.far_off;
  }

  // One hop. False when the search is over.
  // `coming` is the row that the next turn on this thread will read: it is fetched here, a few lines at a time between
  // the look-ups, because a burst of prefetches would fill the miss queue and stall.
  // A query alone (Single) is two turns of its own: while one node is scanned, the row of the one chosen before is on
  // its way, and what the scan finds is chosen from for the turn after that. Nodes are thus chosen one turn late, which
  // expands a few more; that costs less than waiting for each.
  template <bool Single>
  static VICINAL_INLINE bool step(const Context& c, const Batch& b, const Sizes& sizes, std::uint32_t ef, Lane& l,
                                  const std::byte* coming) noexcept {
    const View& g = c.graph;
    const Layout& layout = g.layout;
    const std::byte* row = l.row;
    const std::byte* fetch = coming;
    const std::size_t fetch_lines = !Single || layout.bytes > kAtOnceBytes ? layout.lines : 0;
    if (Single && l.latest != kNoNode) fetch = row_of(g, l.latest);
    if (fetch_lines != 0) prefetch_lines(fetch + 64, fetch + layout.own);
    const F empty = V::setf(kInfinity);

    F best = empty;
    U best_id = V::setu(0);
    look_for_nearest(sizes, l, Single && l.latest != kNoNode ? l.latest : l.current, best, best_id);
    if constexpr (Single) {
      const float nearest = V::min_of(best);
      if (l.latest == kNoNode && l.chosen < ef && nearest < kInfinity &&
          !(nearest > l.stop)) {  // nothing is on its way
        choose_ahead(g, sizes, l, V::id_at(best, nearest, best_id), nearest);
        best = empty;
        look_for_nearest(sizes, l, l.latest, best, best_id);
      }
    }

    const auto* header = reinterpret_cast<const RowHeader*>(row + layout.header);
    const float own = own_distance(c, l, row);
    l.ed[l.hops] = own;
    l.er[l.hops] = header->row;
    bool joins = false;  // the nearest so far
    if (b.near != 0) {
      if (!may_return(b, header->row)) {
        l.ed[l.hops] = kInfinity;
      } else {
        ++l.returnable;
        joins = own < l.kth;
      }
    }
    // A query alone does this while it waits for its next row.
    if (!Single && joins) take_near(c, b, l, own);
    if (++l.hops == sizes.hops_max) {
      if (Single && joins) take_near(c, b, l, own);
      return false;
    }
    if (l.hops == b.look && astray(b, l)) return false;

    const F own_all = V::setf(own);
    const F slope = V::setf(header->step * l.delta), base = V::setf(header->step * l.delta_sum);
    const auto* ids = reinterpret_cast<const std::uint32_t*>(row + layout.ids);
    const auto* adds = reinterpret_cast<const std::uint16_t*>(row + layout.add);
    const auto* steps = reinterpret_cast<const std::uint8_t*>(row + layout.step);
    const auto* codes = reinterpret_cast<const std::uint8_t*>(row + layout.codes);
    for (std::uint32_t block = 0; block < layout.degree; block += kBlock) {
      if (l.size + kBlock > l.room) {
        const std::uint32_t want = sizes.kept * still_to_expand(b, ef, l);
        tighten(sizes, l, want > kWantMin ? want : kWantMin);
      }
      const F limit = V::setf(l.tau < l.stop ? l.tau : l.stop);
      constexpr std::size_t N = kBlock / W;
      F sums[N];
      V::scan(codes, l.tables, layout.tables, fetch + layout.own, fetch_lines, sums);
      fetch += std::size_t{layout.tables} * 4 * layout.lines;
      F near[N];
      U near_id[N];
      M below[N];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < N; ++v) {
        const F rise = V::fma(sums[v], slope, base);
        near[v] = V::fma(V::load_u8(steps + v * W), rise, V::add(own_all, V::load_f16(adds + v * W)));
        near_id[v] = V::loadu(ids + v * W);
        below[v] = V::lt(near[v], limit);
      }
      const auto append = [&](F d, U id) __attribute__((always_inline)) {
        const M m = not_expanded(sizes, l, V::lt(d, empty), id);
        const F fresh = V::pack(m, d, empty);
        const U fresh_id = V::pack(m, id);
        V::storef(l.cd + l.size, fresh);
        V::storeu(l.ci + l.size, fresh_id);
        l.size += static_cast<std::uint32_t>(__builtin_popcount(V::bits(m)));
        const M nearer = V::lt(fresh, best);
        best = V::pick(nearer, fresh, best);
        best_id = V::pick(nearer, fresh_id, best_id);
      };
      if constexpr (N == 2) {
        const auto first = static_cast<unsigned>(__builtin_popcount(V::bits(below[0])));
        const auto second = static_cast<unsigned>(__builtin_popcount(V::bits(below[1])));
        const F near0 = V::pack(below[0], near[0], empty), near1 = V::pack(below[1], near[1], empty);
        const U id0 = V::pack(below[0], near_id[0]), id1 = V::pack(below[1], near_id[1]);
        if (first + second <= W) [[likely]] {
          append(V::concat(near0, first, near1), V::concat(id0, first, id1));
        } else {
          append(near0, id0);
          append(near1, id1);
        }
      } else {
        alignas(64) float packed[kBlock + W];
        alignas(64) std::uint32_t packed_id[kBlock + W];
        std::uint32_t count = 0;
#pragma GCC unroll 8
        for (std::size_t v = 0; v < N; ++v) {
          V::storef(packed + count, V::pack(below[v], near[v], empty));
          V::storeu(packed_id + count, V::pack(below[v], near_id[v]));
          count += static_cast<std::uint32_t>(__builtin_popcount(V::bits(below[v])));
        }
        V::storef(packed + count, empty);
        for (std::uint32_t i = 0; i < count; i += W) append(V::loadf(packed + i), V::loadu(packed_id + i));
      }
      ids += kBlock;
      adds += kBlock;
      steps += kBlock;
      codes += std::size_t{layout.tables} * 16;
    }

    const float nearest = V::min_of(best);
    const std::uint32_t known = Single ? l.chosen : l.hops;  // nodes expanded or about to be
    bool on = nearest < kInfinity && !(nearest > l.stop);
    if (on && known >= ef) {  // over when ef expanded nodes are nearer than the nearest candidate
      const F limit_all = V::setf(nearest);
      std::uint32_t nearer = 0;
      for (std::uint32_t i = 0; i < known; i += W) {
        nearer += static_cast<std::uint32_t>(__builtin_popcount(V::bits(V::lt(V::loadf(l.ek + i), limit_all))));
      }
      on = nearer < ef && known < sizes.rows_max;
      if (!on && b.enough != 0) on = known < sizes.hops_max && !enough_settled(b, l, nearest);
    }
    if constexpr (!Single) {
      if (!on) return false;
      l.current = choose(sizes, l, V::id_at(best, nearest, best_id), nearest, known);
      l.row = row_of(g, l.current);
      return true;
    } else {
      l.current = l.latest;
      l.latest = kNoNode;
      if (on) choose_ahead(g, sizes, l, V::id_at(best, nearest, best_id), nearest);
      if (joins) {
        take_near(c, b, l, own);
        // Its row is likely to be among those compared exactly.
        if (b.reranker.row_bytes <= kSoonBytes) Sender(b.reranker, &l.er[l.hops - 1], 1, 1).send(SIZE_MAX);
      }
      if (l.current == kNoNode) {  // nothing was on its way
        if (!on) return false;
        l.current = l.latest;
        l.latest = kNoNode;
      }
      l.row = row_of(g, l.current);
      return true;
    }
  }

  // Takes the nearest expanded nodes that may be returned, and those whose own distance may be as small but for its
  // rounding.
  static void collect(const Context& c, const Batch& b, Lane& l) noexcept {
    if (b.reranker.visited != nullptr) {
      for (std::uint32_t i = 0; i < l.hops; ++i) {
        l.ek[i] += c.far_off;
        l.ed[i] += c.far_off;
      }
      b.reranker.visited(b.reranker.context, l.index, l.er, l.ek, l.ed, l.hops);
    }
    for (std::uint32_t i = 0; i < l.hops; ++i) l.table[l.es[i]] = kNoNode;
    std::uint32_t n = 0;
    for (std::uint32_t i = 0; i < l.hops; ++i) {
      const std::uint32_t row = l.er[i];
      l.ed[n] = l.ed[i];
      l.er[n] = row;
      n += may_return(b, row) ? 1 : 0;
    }
    if (b.look != 0 && l.hops >= b.look && (astray(b, l) || ran_dry(b, l))) n = 0;
    V::storef(l.ed + n, V::setf(kInfinity));  // the lanes behind the last
    const auto results = static_cast<std::uint32_t>(b.results);
    const auto most = static_cast<std::uint32_t>(b.rerank);
    float high = kInfinity;
    if (n > results) {
      const bool known = b.near == results && l.kth < kInfinity && b.reranker.visited == nullptr;
      high = (known ? just_above(l.kth) : passed_by(l.ed, n, results, 0)) + l.margin;
      if (n > most && count_below(l.ed, n, high) > most + 2) high = passed_by(l.ed, n, most, 2);
    }
    const F limit = V::setf(high);
    std::uint32_t picked = 0;
    for (std::uint32_t i = 0; i < n; i += W) {
      const M m = V::lt(V::loadf(l.ed + i), limit);
      V::storeu(l.pick + picked, V::pack(m, V::loadu(l.er + i)));
      picked += static_cast<std::uint32_t>(__builtin_popcount(V::bits(m)));
    }
    l.picked = picked;
    l.asked = l.index;
    l.due = true;
  }

  static void finish(const Batch& b, Lane& l) noexcept {
    b.reranker.rerank(b.reranker.context, l.asked, l.pick, l.picked);
    l.due = false;
  }

  static void run(const Context& c, const Batch& b, Lane* lanes, std::size_t begin, std::size_t end) noexcept {
    const Sizes sizes = Sizes::of(b.ef, b.nodes_max, c.graph.nodes, b.results);
    const auto ef = static_cast<std::uint32_t>(b.ef);
    std::size_t next = begin;
    std::size_t width = end - begin < b.interleave ? end - begin : b.interleave;
    if (b.alone) {
      Lane& l = lanes[0];
      for (; next < end; ++next) {
        // Nothing else is under way: the entries come while the query is prepared.
        const std::byte* first = row_of(c.graph, b.entries[0]);
        prefetch_lines(first, first + c.graph.layout.bytes);
        for (std::size_t i = 1; i < b.n_entries; ++i) {
          const std::byte* entry = row_of(c.graph, b.entries[i]);
          prefetch_lines(entry + c.graph.layout.header, entry + c.graph.layout.codes);
        }
        start(c, b, sizes, l, b.nth(next));
        while (step<true>(c, b, sizes, ef, l, l.row)) {
        }
        collect(c, b, l);
        if (b.reranker.row_bytes > kSoonBytes) Sender(b.reranker, l.pick, l.picked, 1).send(SIZE_MAX);
        finish(b, l);
      }
      return;
    }
    for (std::size_t i = 0; i < width; ++i) start(c, b, sizes, lanes[i], b.nth(next++));
    // Two groups take turns. The first touch of a row may wait for a page walk, which holds back all that follows; so
    // a group's rows are touched together, and their other lines fetched during the turns of the other group.
    const std::size_t half = (width + 1) / 2;
    std::size_t active = width;
    while (active != 0) {
      for (std::size_t group = 0; group < width; group += half) {
        const std::size_t last = group + half < width ? group + half : width;
        for (std::size_t i = group; i < last; ++i) {
          Lane& l = lanes[i];
          if (l.phase == 1) [[likely]] {
            const std::size_t partner = group == 0 ? i + half : i - half;
            const bool on = step<false>(c, b, sizes, ef, l, lanes[partner < width ? partner : i].row);
            if (l.due) finish(b, l);
            if (on) [[likely]]
              continue;
            collect(c, b, l);
            if (next < end) {
              start(c, b, sizes, l, b.nth(next++));
            } else {
              Sender(b.reranker, l.pick, l.picked, 1).send(SIZE_MAX);
              l.phase = 2;
            }
          } else if (l.phase == 2) {
            finish(b, l);
            l.phase = 0;
            --active;
          }
        }
        for (std::size_t i = group; i < last; ++i) touch(lanes[i].row, c.graph.layout.bytes);
      }
    }
  }
};

template <class V>
inline void rotate_fn(const RotationView& r, float* x) noexcept {
  rotate<V>(r, x, [] {});
}

}  // namespace vicinal::qgraph
