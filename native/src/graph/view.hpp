// What a traversal reads and writes: plain pointers, no ownership, so that code compiled per instruction set stays free
// of shared templates. The graph (adjacency) and the codes are two separate blocks; either can be replaced.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vicinal::graph {

// How two codes are compared. Keys are int32, not negative and smaller-is-nearer; the codec keeps them below 2^31.
// dot_u8 compares int8 queries with unsigned codes by kDotBase - dot; it is for queries only. The f32 kinds serve data
// that one byte a dimension cannot tell apart; their keys are the bits of a float, which order as integers do.
// l2_u8_wide is for queries that lie outside the range of the codes: a WideQuery.
enum class CodeKind : std::uint8_t { l2_u8, l1_u8, hamming, dot_u8, l2_f32, l1_f32, l2_u8_wide };

// A query q that clamping to the codes' range changes to q': |q - c|^2 = |q' - c|^2 - 2 <q - q', c> + a constant.
// Behind the code of q' stand, at the next multiple of the code stride, q - q' as int8, and one stride on, these
// factors.
struct WideFactors {
  float dot = 0.0F;     // of kDotBase - <q - q', c> as int8 codes give it
  float shift = 0.0F;   // brings the smallest possible key to 0
  float shrink = 1.0F;  // keeps the largest below 2^31
};

inline constexpr std::int32_t kDotBase = std::int32_t{1} << 30;  // no dot product of codes is larger

inline constexpr std::uint32_t kDegreeMax = 128;

// One row of the adjacency block is `stride` words, of which the first `degree` are neighbours. An unused slot holds
// the row's own number, which every traversal has visited already, so readers need no count and no sentinel test.
// Words are written under the row's lock and read without one: always through load_edge and store_edge.
struct Adjacency {
  std::uint32_t* words = nullptr;
  std::uint32_t degree = 0;
  std::uint32_t stride = 0;

  [[nodiscard]] [[gnu::always_inline]] std::uint32_t* row(std::uint32_t r) const noexcept {
    return words + static_cast<std::size_t>(r) * stride;
  }
};

// acquire and release: whoever sees an edge sees the code and the adjacency of the row it names.
// Builtins and always inlined: this is compiled for several instruction sets, and no copy may be shared among them.
[[gnu::always_inline]] inline std::uint32_t load_edge(const std::uint32_t& word) noexcept {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}
[[gnu::always_inline]] inline void store_edge(std::uint32_t& word, std::uint32_t row) noexcept {
  __atomic_store_n(&word, row, __ATOMIC_RELEASE);
}

// Bit sets over rows are read while others set bits.
[[gnu::always_inline]] inline bool test_bit(const std::uint64_t* words, std::uint32_t row) noexcept {
  return ((__atomic_load_n(&words[row >> 6], __ATOMIC_RELAXED) >> (row & 63U)) & 1U) != 0;
}

struct GraphView {
  Adjacency edges;
  const std::byte* codes = nullptr;
  std::size_t code_stride = 0;  // bytes from one code to the next
  std::size_t code_bytes = 0;   // bytes compared
  CodeKind kind = CodeKind::l2_u8;
  std::uint32_t limit = 0;  // rows from here on are not part of the traversal

  [[nodiscard]] [[gnu::always_inline]] const std::byte* code(std::uint32_t r) const noexcept {
    return codes + static_cast<std::size_t>(r) * code_stride;
  }
};

// Memory of one query in flight. Arrays have kSlotPad entries past their capacity, for full-width stores.
inline constexpr std::size_t kSlotPad = 64;

struct Slot {
  std::uint8_t* visited = nullptr;  // visited[row] == epoch: seen by this query
  std::size_t visited_size = 0;
  std::uint8_t epoch = 0;
  std::int32_t* open_keys = nullptr;  // candidates not expanded yet, unsorted
  std::uint32_t* open_rows = nullptr;
  std::size_t open_capacity = 0;
  std::int32_t* done_keys = nullptr;  // expanded and returnable, unsorted
  std::uint32_t* done_rows = nullptr;
  std::size_t done_capacity = 0;
};

// One query: its code, and where its nearest rows go (sorted by key, then row).
struct BeamTask {
  const std::byte* code = nullptr;
  std::uint32_t* rows = nullptr;
  std::int32_t* keys = nullptr;
  std::uint32_t found = 0;
  std::uint32_t hops = 0;
  std::uint32_t exclude = UINT32_MAX;  // a row that is passed through and not returned
  std::int32_t* visited_keys =
      nullptr;  // key and row of every node expanded, in order, hops_max of them; null: not kept
  std::uint32_t* visited_rows = nullptr;
};

struct BeamRequest {
  const std::uint32_t* entries = nullptr;
  std::size_t n_entries = 0;
  std::size_t ef = 0;
  std::size_t keep = 0;                 // rows wanted per task, <= ef
  const std::uint64_t* pass = nullptr;  // rows that may be returned; null: all
  // With `pass`: ends with as many rows as ef, returned or not, once so many of those that may be are done; 0: these
  // alone count, as many as ef.
  std::size_t enough = 0;
  bool two_hop = false;             // step over rows that do not pass; needs `pass`
  std::size_t hops_max = SIZE_MAX;  // gives up after so many expansions
  float near_part = 0.0F;           // 1 / the stretch of an early end, see ends_early(); 0: none
  std::size_t near = 0;             // and how many done rows it asks for
};

// Whether a walk over keys of the kind may end early: keys must be distances, of which one can say "so many times as
// far". Those of the other two are shifted by what differs from query to query.
[[nodiscard]] constexpr bool ends_early(CodeKind kind) noexcept {
  return kind != CodeKind::dot_u8 && kind != CodeKind::l2_u8_wide;
}

inline constexpr std::size_t kPanel = 16;

// The functions compiled once per instruction set.
struct BeamFns {
  // Runs the tasks with up to n_slots of them in flight.
  void (*beam)(const GraphView&, const BeamRequest&, BeamTask* tasks, std::size_t n_tasks, Slot* slots,
               std::size_t n_slots) noexcept;
  // Keys from one code to the listed rows.
  void (*keys)(const GraphView&, const std::byte* code, const std::uint32_t* rows, std::size_t n,
               std::int32_t* out) noexcept;
  // Products of n rows of unsigned bytes with the kPanel codes of signed bytes of each panel, which holds `groups`
  // times four bytes of each: out[row * out_stride + code], modulo 2^32.
  void (*dots)(const std::byte* const* rows, std::size_t n, const std::int8_t* panels, std::size_t n_panels,
               std::size_t groups, std::int32_t* out, std::size_t out_stride) noexcept;
  // Key and place of each of n codes whose key is below `bound` or below its own one of `bounds`, the key of the i-th
  // being base + norms[i] - 2 dots[i] modulo 2^32; returns how many. All that is read goes on to a multiple of kPanel.
  std::size_t (*near)(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots,
                      const std::int32_t* bounds, std::size_t n, std::int32_t bound, std::int32_t* out_keys,
                      std::uint32_t* out_places) noexcept;
  // The least of the keys of every kPanel-th code, for each of the first kPanel; n is a multiple of kPanel.
  void (*least)(std::uint32_t base, const std::uint32_t* norms, const std::int32_t* dots, std::size_t n,
                std::int32_t* out) noexcept;
  // Adds n candidates to a list of the `capacity` least ones, each once and in no order; returns its new size, and in
  // `worst` the largest where it is full, else UINT64_MAX.
  std::size_t (*keep)(std::uint64_t* list, std::size_t size, std::size_t capacity, const std::uint64_t* more,
                      std::size_t n, std::uint64_t* worst) noexcept;
};

// Open candidates a slot needs for a beam of ef; done entries it needs.
[[nodiscard]] constexpr std::size_t open_capacity_for(std::size_t ef) noexcept { return 2 * ef + 256 + kDegreeMax; }
[[nodiscard]] constexpr std::size_t done_capacity_for(std::size_t ef) noexcept { return 2 * ef + 256; }

}  // namespace vicinal::graph
