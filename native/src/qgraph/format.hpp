// The Q node row: one contiguous, cache-line aligned block per node that one hop of a search reads from front to back.
//
//   neighbour ids      u32 [R]            R is a multiple of 32; an empty slot has f_add = +inf, so it never passes a
//   threshold f_add              f16 [R]            additive part of a neighbour's estimate, in internal distance units
//   f_step             u8  [R]            multiplicative part, in units of the row's `step`
//   header             32 bytes           RowHeader
//   own vector         i8  [P]            rotated, centred, one scale per row
//   neighbour codes    u4  [R][T]         of (neighbour - node), packed in blocks of 32 for in-register look-up
//
// P is the dimension padded to a multiple of 64, a dimension has B bits, T = P B / 4. For a node p and its neighbour c,
// r = rotate(c - p), and s is r in B bits a dimension: the signs, or -1, -1/3, 1/3, 1:
//
//   |q - c|^2 ~ |q - p|^2 + f_add - F <s, q>,   F = 2 |r|^2 / <s, r>,   f_add = |r|^2 + F <s, p>
//
// which is the unbiased estimator of RaBitQ (Gao and Long, arXiv:2405.12497) written so that only <s, q> depends on the
// query; keeping the codes of a node's neighbours beside it is SymphonyQG's layout (Gou et al., arXiv:2411.12229), and
// <s, q> is summed for 32 neighbours at a time from 16-entry tables in registers (Andre et al., arXiv:1704.07355).
// For inner products the same row holds -2<q, c> ~ -2<q, p> - 2<p, r> - F <s, q - p>. All internal distances
// are multiplied by one constant per graph that keeps f_add inside the range of f16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vicinal::qgraph {

inline constexpr std::size_t kBlock = 32;  // neighbours scanned together
inline constexpr std::size_t kPad = 64;    // dimensions are padded to a multiple of this
inline constexpr std::size_t kDimMax = 16384;
// Rows that all begin at a multiple of this are at times, and for seconds, read at 1.8 times the cost: they are kept
// apart, by two lines, because rows that begin within a pair of lines cost more, too. Whole pages are left as they are:
// a row in one page is worth more (docs/performance.md, Rows of 1,536 bytes).
inline constexpr std::uint32_t kUnluckyBytes = 512;
inline constexpr std::uint32_t kApart = 128;
inline constexpr std::uint32_t kPageBytes = 4096;
[[nodiscard]] constexpr bool unlucky(std::uint32_t bytes) noexcept {
  return bytes % kUnluckyBytes == 0 && bytes % kPageBytes != 0;
}
// Up to so many (padded) dimensions a code has two bits for each: a walk of a third fewer nodes is worth half as long a
// row. Longer rows cost more than that saves.
inline constexpr std::size_t kTwoBitsMax = 128;
[[nodiscard]] constexpr std::uint32_t bits_for(std::size_t dim) noexcept { return dim <= kTwoBitsMax ? 2 : 1; }

struct RowHeader {
  float scale;        // own vector = scale * code, with -2 and the distance unit folded in
  float add;          // |own|^2 in internal units; 0 for inner products
  std::int32_t sum;   // sum of the own codes
  std::uint32_t row;  // the caller's row number of this node
  float step;         // unit of f_step: F = step * f_step, in internal units
  float grain;        // own vector = grain * code, in the units of the rows
  std::uint32_t reserved[2];
};
static_assert(sizeof(RowHeader) == 32);

// Byte offsets inside a row.
struct Layout {
  std::uint32_t degree = 0;  // R
  std::uint32_t padded = 0;  // P
  std::uint32_t bits = 0;    // B
  std::uint32_t tables = 0;  // T: a look-up for each four bits of a code; a multiple of 16
  std::uint32_t lines = 0;   // cache lines of own vector and codes, for each 16 look-ups in a block
  std::uint32_t ids = 0;
  std::uint32_t add = 0;
  std::uint32_t step = 0;
  std::uint32_t header = 0;
  std::uint32_t own = 0;
  std::uint32_t codes = 0;
  std::uint32_t bytes = 0;   // that are read
  std::uint32_t stride = 0;  // from one row to the next

  // `close`: nothing is left between rows, as in older files.
  static constexpr Layout of(std::size_t dim, std::size_t degree, std::uint32_t bits, bool close = false) noexcept {
    Layout l;
    l.degree = static_cast<std::uint32_t>(degree);
    l.padded = static_cast<std::uint32_t>((dim + kPad - 1) / kPad * kPad);
    l.bits = bits;
    l.tables = l.padded / 4 * bits;
    l.add = l.degree * 4;
    l.step = l.add + l.degree * 2;
    l.header = l.step + l.degree;
    l.own = (l.header + static_cast<std::uint32_t>(sizeof(RowHeader)) + 63) / 64 * 64;
    l.codes = l.own + l.padded;
    l.bytes = l.codes + l.tables / 2 * l.degree;
    l.stride = unlucky(l.bytes) && !close ? l.bytes + kApart : l.bytes;
    const auto turns = static_cast<std::uint32_t>(l.tables / 16 * (l.degree / kBlock));
    l.lines = ((l.bytes - l.own) / 64 + turns - 1) / turns;
    return l;
  }
};

// Where the four bits of neighbour `nb` (0..31 within its block) for look-up t are: 16 bytes per t hold 32 nibbles. The
// order makes the sums of a scan come out in the order of the neighbours without a final shuffle.
constexpr std::size_t nibble_byte(std::size_t nb) noexcept { return (nb % 8) * 2 + (nb / 8) % 2; }
constexpr unsigned nibble_shift(std::size_t nb) noexcept { return nb / 16 * 4; }

// What the search loops need of a graph; plain data so that files compiled per instruction set can share it.
struct View {
  const std::byte* rows = nullptr;
  Layout layout;
  std::uint32_t dim = 0;
  std::uint32_t nodes = 0;
  float unit = 1.0F;  // internal distance = unit * squared distance
};

}  // namespace vicinal::qgraph
