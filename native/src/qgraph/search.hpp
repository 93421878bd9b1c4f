// What a search over Q rows needs and leaves, shared by the files compiled per instruction set.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "distance/distance.hpp"
#include "qgraph/format.hpp"
#include "qgraph/rotation.hpp"

namespace vicinal::qgraph {

inline constexpr std::size_t kInterleaveMax = 8;
inline constexpr std::uint32_t kMinBlock = 64;  // candidates that have one minimum

// Own distances are off by quantisation: up to this many get exact ones for k results.
[[nodiscard]] constexpr std::size_t rerank_for(std::size_t k) noexcept { return k + 5 + k / 8; }

// A hint to bring one line into L2; kept apart from its neighbours, which GCC 12 would merge.
static inline __attribute__((always_inline)) void prefetch_next(const std::byte* line) noexcept {
  __builtin_prefetch(line, 0, 2);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// The caller's side of a search: exact distances, from rows that this layer never sees.
struct Reranker {
  const void* context = nullptr;
  // Where a row lies that will be asked for, row_bytes long; the loop sends for it while it does other work.
  const std::byte* (*where)(const void* context, std::uint32_t row) noexcept = nullptr;
  std::size_t row_bytes = 0;  // 0: nothing is sent for
  // The nearest rows found for a query; a row may be among them twice.
  void (*rerank)(const void* context, std::size_t query, const std::uint32_t* rows, std::size_t n) noexcept = nullptr;
  // All nodes expanded for a query, in order: row, the estimate by which it was chosen and its own distance, both as
  // walks compare them (Context::far_off added), infinite where the row may not be returned. Null: nobody asks.
  void (*visited)(const void* context, std::size_t query, const std::uint32_t* rows, const float* estimates,
                  const float* own, std::size_t n) noexcept = nullptr;
};

struct Batch {
  const float* queries = nullptr;        // n x dim
  const std::uint32_t* order = nullptr;  // the number of the query to answer first, second, ...; null: 0, 1, ...
  std::size_t ef = 0;                    // nodes expanded per query, >= 1
  std::size_t results = 0;               // wanted
  std::size_t rerank = 0;                // candidates handed to the reranker, at most or hardly more
  std::size_t interleave = 4;
  bool alone = false;                      // one query after the other, each in the least time; see SearchLoop::step
  const std::uint32_t* entries = nullptr;  // nodes to start from, at least one
  std::size_t n_entries = 0;
  const std::uint64_t* pass = nullptr;  // bit r set: row r may be returned; null: every row may
  std::uint32_t limit = 0;              // rows from here on are passed through and not returned
  // A walk ends early when `near` returnable nodes are nearer than near_part times the nearest candidate; 0: it does
  // not.
  float near_part = 0.0F;
  // The part where all rows near the query may be returned: they lie nearer than as many of some, and no more is known
  // of what is still to be found. A walk goes by the share of its own nodes that may be, and rows_per_match. 0: there
  // is one part for all.
  float near_part_all = 0.0F;
  std::size_t near = 0;  // so many nearest are kept track of, at most ef; 0: none; SIZE_MAX: none, see Lane::ed
  // Where only some rows may be returned (near is not 0 then), a walk of ef nodes goes on until so many of those are
  // nearer than the nearest candidate, or nodes_max nodes are expanded; 0: it does not. Each is expected to take
  // rows_per_match nodes.
  std::size_t enough = 0;
  std::size_t nodes_max = 0;
  float rows_per_match = 0.0F;
  // And when of its first `look` nodes, or at its end of all, a smaller share may be returned, or it has no candidates
  // left and not even half of enough: it is in the wrong place, and proposes nothing. 0: nowhere is wrong.
  std::uint32_t look = 0;
  float share_min = 0.0F;
  Reranker reranker;

  [[nodiscard]] __attribute__((always_inline)) std::size_t nth(std::size_t i) const noexcept {
    return order != nullptr ? order[i] : i;
  }
};

// Constants of the graph.
struct Context {
  View graph;
  RotationView rotation;
  Metric metric = Metric::l2;
  const float* mean = nullptr;  // dim; subtracted from queries of l2 and cosine
  float query_norm = 0.0F;      // ip: queries are scaled to this length for estimates
  // ip: added to -2 <x, q> it is a squared distance for rows of the usual length, 2 * unit * query_norm^2; else 0.
  float far_off = 0.0F;
};

// One query under way.
struct Lane {
  std::size_t index = 0;  // of the query in the batch
  int phase = 0;
  std::uint32_t current = 0;       // the node to expand
  const std::byte* row = nullptr;  // and its row
  std::uint32_t latest = 0;        // of a query alone: the one after it, kNoNode where there is none yet
  std::uint32_t chosen = 0;        // and how many were chosen
  std::uint32_t hops = 0;
  std::uint32_t returnable = 0;  // of the nodes expanded, where near is not 0
  std::uint32_t size = 0;        // candidates; cd is +inf from here on
  float tau = 0.0F;
  float query_add = 0.0F;
  float own_scale = 0.0F;
  float margin = 0.0F;     // by which own distances may be off
  float delta = 0.0F;      // -2 * unit of the table entries
  float delta_sum = 0.0F;  // unit * sum of |q|
  float kth = 0.0F;        // the largest of closest
  float stop = 0.0F;       // the walk ends when no candidate is nearer
  std::uint32_t kth_at = 0;
  std::uint32_t room = 0;     // of cd and ci, as far as they are in use; at most Sizes::capacity
  std::uint32_t sealed = 0;   // candidates in blocks whose minima are kept
  std::uint32_t nearest = 0;  // the nearest candidate of them, where that is the nearest of all; else kNoNode
  std::uint32_t nearest_block = 0;
  bool due = false;  // the rows picked for query `asked` are on their way, and then to be compared
  std::size_t asked = 0;
  std::uint32_t picked = 0;
  // Buffers of a Scratch.
  float* cd = nullptr;
  std::uint32_t* ci = nullptr;
  float* least = nullptr;       // of each block of candidates
  float* ek = nullptr;          // the estimate with which each expanded node was chosen
  float* ed = nullptr;          // own distance of each expanded node; where near is not 0, infinite if not returnable
  std::uint32_t* er = nullptr;  // its row for the caller
  std::uint32_t* es = nullptr;  // its slot in the table
  std::uint32_t* table = nullptr;
  std::int8_t* own_query = nullptr;
  std::int8_t* table_query = nullptr;
  std::uint8_t* tables = nullptr;
  float* work = nullptr;          // P floats
  std::uint32_t* pick = nullptr;  // rows to rerank
  float* closest = nullptr;       // the smallest own distances of returnable nodes, Batch::near of them, unsorted
};

struct Sizes {
  std::uint32_t capacity = 0;  // of cd and ci, without padding
  std::uint32_t room = 0;      // of it at first
  std::uint32_t slots = 0;     // of the table of expanded nodes, a power of two
  // Where a bit for each node takes no more room than the table, the table's first words are these bits, set for nodes
  // not expanded; their number is a power of two, and nodes share bits where there are more of them.
  bool bitmap = false;
  std::uint32_t word_mask = 0;
  std::uint32_t rows_max = 0;  // expanded nodes at most, but for those that Batch::enough asks for
  std::uint32_t hops_max = 0;  // and at all
  // Candidates kept for each node left to expand. Some are copies, met from several rows: a walk that keeps one for
  // each may run out of them early. Where nearly all its nodes are results that costs a second walk, elsewhere little.
  std::uint32_t kept = 1;
  // nodes_max: of Batch, with `enough`; else 0.
  static Sizes of(std::size_t ef, std::size_t nodes_max, std::uint32_t nodes, std::size_t results) noexcept {
    Sizes s;
    s.kept = 4 * results > 3 * ef ? 2 : 1;
    const auto list_for = [&](std::size_t wanted) {
      return static_cast<std::uint32_t>((s.kept * wanted + (wanted / 2 > 64 ? wanted / 2 : 64) + 31) / 32 * 32);
    };
    s.room = list_for(ef);
    s.capacity = nodes_max > ef ? list_for(nodes_max) : s.room;
    s.rows_max = static_cast<std::uint32_t>(ef + ef / 2 + 32);
    s.hops_max = nodes_max > s.rows_max ? static_cast<std::uint32_t>(nodes_max) : s.rows_max;
    s.slots = 256;
    while (s.slots < 32 * ef || s.slots < 16 * nodes_max) s.slots *= 2;
    s.bitmap = nodes <= 32 * std::uint64_t{s.slots};
    if (s.bitmap) s.word_mask = (nodes <= 32 ? 1 : std::bit_ceil(nodes) / 32) - 1;
    return s;
  }
};

inline constexpr std::uint32_t kNoNode = 0xFFFFFFFFU;

// Answers queries [begin, end) of the batch.
using SearchFn = void (*)(const Context&, const Batch&, Lane* lanes, std::size_t begin, std::size_t end) noexcept;
using RotateFn = void (*)(const RotationView&, float*) noexcept;

// What is summed over the dimensions of r = neighbour - node, p being the node and s the code of r.
struct EdgeSums {
  float square = 0.0F;  // |r|^2
  float along = 0.0F;   // <s, r>
  float across = 0.0F;  // <s, p>
  float dot = 0.0F;     // <p, r>
};
// Of two own vectors (own = grain * code, `padded` codes each); writes the `bits` bits of each dimension of s to
// `code`, the lowest ones first.
using EdgeFn = EdgeSums (*)(const std::int8_t* own, float own_grain, const std::int8_t* other, float other_grain,
                            std::size_t padded, std::uint32_t bits, std::uint64_t* code) noexcept;

struct Loops {
  SearchFn search = nullptr;
  RotateFn rotate = nullptr;
  EdgeFn edge = nullptr;
};

[[nodiscard]] Loops loops_scalar() noexcept;
#if defined(__x86_64__)
[[nodiscard]] Loops loops_avx2() noexcept;
[[nodiscard]] Loops loops_avx512() noexcept;
#elif defined(__aarch64__)
[[nodiscard]] Loops loops_neon() noexcept;
#endif

}  // namespace vicinal::qgraph
