// The memory of the lanes of one searching thread, kept between searches so that a single query allocates nothing.
#pragma once

#include <cstddef>

#include "base/aligned_buffer.hpp"
#include "base/pool.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

class Scratch {
 public:
  // Lays out `lanes` lanes for searches of that shape; keeps the memory where it suffices.
  void prepare(const View& graph, std::size_t ef, std::size_t nodes_max, std::size_t lanes);
  [[nodiscard]] Lane* lanes() noexcept { return lanes_; }

 private:
  AlignedBuffer<std::byte> memory_;
  Lane lanes_[kInterleaveMax];
  std::size_t ef_ = 0;
  std::size_t nodes_max_ = 0;
  std::size_t count_ = 0;
  std::uint32_t padded_ = 0;
  std::uint32_t tables_ = 0;
};

using ScratchPool = Pool<Scratch>;

}  // namespace vicinal::qgraph
