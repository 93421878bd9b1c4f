// One-byte codes side by side, so that a row is compared with sixteen of them at a time.
//
// Keys are those of CodeKind::l2_u8, exact modulo 2^32: |a - b|^2 = (|a|^2 - 256 sum a) + |b|^2 - 2 <a, b - 128>.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

// Of the codes of rows [0, n): what their keys need besides products.
class CodeSums {
 public:
  CodeSums(const GraphView& g, std::size_t n, unsigned threads);
  [[nodiscard]] std::uint32_t square(std::uint32_t row) const noexcept { return squares_[row]; }  // |b|^2
  [[nodiscard]] std::uint32_t base(std::uint32_t row) const noexcept { return bases_[row]; }      // |a|^2 - 256 sum a

 private:
  std::vector<std::uint32_t> squares_;
  std::vector<std::uint32_t> bases_;
};

// Keys of one row after another to listed rows, from products of their codes: a fraction of the instructions that
// differences take.
class RowKeys {
 public:
  RowKeys(const GraphView& g, const BeamFns& fns, const CodeSums& sums);
  void set(std::uint32_t row);
  // Of set()'s row to n others.
  void to(const std::uint32_t* rows, std::size_t n, std::int32_t* out) const noexcept;

 private:
  GraphView g_;
  const BeamFns& fns_;
  const CodeSums& sums_;
  std::uint32_t square_ = 0;
  AlignedBuffer<std::byte> shifted_;  // its code, signed
};

class Panels {
 public:
  static constexpr std::size_t kRowsAtOnce = 8;

  Panels(const GraphView& g, const BeamFns& fns, const CodeSums& sums) : g_(g), fns_(fns), sums_(sums) {}

  // The codes of n rows, in place of what was here.
  void fill(const std::uint32_t* rows, std::size_t n);
  [[nodiscard]] std::size_t width() const noexcept { return round_up(n_, kPanel); }
  [[nodiscard]] const std::uint32_t* squares() const noexcept { return squares_.data(); }

  // Products of n <= kRowsAtOnce codes with `width` codes from `first` on, both multiples of kPanel. A key is
  // base(row) + squares()[first + i] - 2 out[row * width + i].
  void dots(const std::byte* const* codes, std::size_t n, std::size_t first, std::size_t width,
            std::int32_t* out) const noexcept;
  void dots(const std::uint32_t* rows, std::size_t n, std::size_t first, std::size_t width, std::int32_t* out) const;
  [[nodiscard]] std::int32_t key(std::uint32_t base, std::size_t i, std::int32_t dot) const noexcept {
    return static_cast<std::int32_t>(base + squares_[i] - 2 * static_cast<std::uint32_t>(dot));
  }

 private:
  GraphView g_;
  const BeamFns& fns_;
  const CodeSums& sums_;
  std::size_t n_ = 0;
  std::size_t groups_ = 0;
  std::vector<std::int8_t> bytes_;
  std::vector<std::uint32_t> squares_;
};

}  // namespace vicinal::graph
