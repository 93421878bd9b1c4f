// Working memory of searches, made once and handed from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/pool.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

// Slots for several queries in flight, and the buffers around a chunk of queries.
class Scratch {
 public:
  // Makes n slots ready for beams of ef over n_rows rows.
  void prepare(std::size_t n, std::size_t n_rows, std::size_t ef);
  [[nodiscard]] Slot* slots() noexcept { return slots_.data(); }

  std::vector<float> floats;
  AlignedBuffer<std::byte> codes;
  std::vector<BeamTask> tasks;
  std::vector<std::uint32_t> rows;
  std::vector<std::int32_t> keys;
  std::vector<float> distances;

 private:
  struct Memory {
    AlignedBuffer<std::uint8_t> visited;
    AlignedBuffer<std::int32_t> open_keys;
    AlignedBuffer<std::uint32_t> open_rows;
    AlignedBuffer<std::int32_t> done_keys;
    AlignedBuffer<std::uint32_t> done_rows;
  };
  std::vector<Memory> memory_;
  std::vector<Slot> slots_;
};

using ScratchPool = Pool<Scratch>;

}  // namespace vicinal::graph
