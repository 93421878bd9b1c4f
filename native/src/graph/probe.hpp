// Queries in every form that a search needs, and their true neighbours.
#pragma once

#include <cstddef>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "graph/graph_index.hpp"
#include "graph/walks.hpp"

namespace vicinal::graph {

struct GraphIndex::Probe {
  const std::byte* queries;
  std::size_t n;
  AlignedBuffer<std::byte> codes;
  std::size_t stride;
  std::vector<CodeKind> kinds;  // of each kChunk queries
  std::vector<Truth> truth;

  [[nodiscard]] const std::byte* code(std::size_t i) const noexcept { return codes.data() + i * stride; }
};

}  // namespace vicinal::graph
