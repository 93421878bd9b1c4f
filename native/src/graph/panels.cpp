#include "graph/panels.hpp"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.hpp"

namespace vicinal::graph {

CodeSums::CodeSums(const GraphView& g, std::size_t n, unsigned threads) : squares_(n), bases_(n) {
  constexpr std::size_t grain = 1024;
  ThreadPool::instance().parallel_for(n, threads, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t row = begin; row < end; ++row) {
      const auto* code = reinterpret_cast<const std::uint8_t*>(g.code(static_cast<std::uint32_t>(row)));
      std::uint32_t square = 0;
      std::uint32_t sum = 0;
      for (std::size_t b = 0; b < g.code_bytes; ++b) {
        square += std::uint32_t{code[b]} * code[b];
        sum += code[b];
      }
      squares_[row] = square;
      bases_[row] = square - 256 * sum;
    }
  });
}

RowKeys::RowKeys(const GraphView& g, const BeamFns& fns, const CodeSums& sums)
    : g_(g), fns_(fns), sums_(sums), shifted_(round_up(g.code_bytes, kCacheLine)) {
  g_.kind = CodeKind::dot_u8;
}

void RowKeys::set(std::uint32_t row) {
  constexpr std::uint64_t to_signed = 0x8080808080808080U;
  const std::byte* code = g_.code(row);
  std::byte* out = shifted_.data();
  for (std::size_t b = 0; b < g_.code_bytes; b += 8) {  // codes lie at multiples of their padded size
    std::uint64_t eight = 0;
    std::memcpy(&eight, code + b, 8);
    eight ^= to_signed;
    std::memcpy(out + b, &eight, 8);
  }
  square_ = sums_.square(row);
}

void RowKeys::to(const std::uint32_t* rows, std::size_t n, std::int32_t* out) const noexcept {
  fns_.keys(g_, shifted_.data(), rows, n, out);  // kDotBase less the product
  constexpr auto base = 2 * static_cast<std::uint32_t>(kDotBase);
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = static_cast<std::int32_t>(sums_.base(rows[i]) + square_ + 2 * static_cast<std::uint32_t>(out[i]) - base);
  }
}

void Panels::fill(const std::uint32_t* rows, std::size_t n) {
  constexpr std::uint32_t to_signed = 0x80808080U;
  n_ = n;
  groups_ = (g_.code_bytes + 3) / 4;
  bytes_.resize(width() * 4 * groups_);
  squares_.resize(width());
  std::int8_t* to = bytes_.data();
  for (std::size_t p = 0; p < n; p += kPanel) {
    const std::byte* codes[kPanel];
    for (std::size_t i = 0; i < kPanel; ++i) {
      const std::uint32_t row = rows[std::min(p + i, n - 1)];
      codes[i] = g_.code(row);
      squares_[p + i] = sums_.square(row);
    }
    for (std::size_t group = 0; group < groups_; ++group) {
      for (std::size_t i = 0; i < kPanel; ++i, to += 4) {
        std::uint32_t four = 0;
        std::memcpy(&four, codes[i] + 4 * group, 4);
        four ^= to_signed;
        std::memcpy(to, &four, 4);
      }
    }
  }
}

void Panels::dots(const std::byte* const* codes, std::size_t n, std::size_t first, std::size_t width,
                  std::int32_t* out) const noexcept {
  fns_.dots(codes, n, bytes_.data() + first * 4 * groups_, width / kPanel, groups_, out, width);
}

void Panels::dots(const std::uint32_t* rows, std::size_t n, std::size_t first, std::size_t width,
                  std::int32_t* out) const {
  const std::byte* codes[kRowsAtOnce];
  for (std::size_t r = 0; r < n; ++r) codes[r] = g_.code(rows[r]);
  dots(codes, n, first, width, out);
}

}  // namespace vicinal::graph
