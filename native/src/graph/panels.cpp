#include "graph/panels.hpp"

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

void Panels::fill(const std::uint32_t* rows, std::size_t n) {
  constexpr std::uint32_t to_signed = 0x80808080U;
  n_ = n;
  groups_ = (g_.code_bytes + 3) / 4;
  bytes_.resize(width() * 4 * groups_);
  squares_.resize(width());
  for (std::size_t i = 0; i < n; ++i) {
    const std::byte* code = g_.code(rows[i]);
    std::int8_t* to = bytes_.data() + (i / kPanel * groups_ * kPanel + i % kPanel) * 4;
    for (std::size_t group = 0; group < groups_; ++group, to += 4 * kPanel) {
      std::uint32_t four = 0;
      std::memcpy(&four, code + 4 * group, 4);
      four ^= to_signed;
      std::memcpy(to, &four, 4);
    }
    squares_[i] = sums_.square(rows[i]);
  }
}

void Panels::dots(const std::uint32_t* rows, std::size_t n, std::int32_t* out) const {
  const std::byte* codes[kRowsAtOnce];
  for (std::size_t r = 0; r < n; ++r) codes[r] = g_.code(rows[r]);
  for (std::size_t p = 0; p < width(); p += kPanel) {
    fns_.dots(codes, n, bytes_.data() + p * 4 * groups_, groups_, out + p, width());
  }
}

void Panels::keys(std::uint32_t row, std::int32_t* out) const {
  dots(&row, 1, out);
  const std::uint32_t base = sums_.base(row);
  for (std::size_t i = 0; i < n_; ++i) out[i] = key(base, i, out[i]);
}

}  // namespace vicinal::graph
