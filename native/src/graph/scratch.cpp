#include "graph/scratch.hpp"

#include <algorithm>

namespace vicinal::graph {
namespace {

template <class T>
T* at_least(AlignedBuffer<T>& buffer, std::size_t n) {
  if (buffer.size() < n) buffer = AlignedBuffer<T>(n);
  return buffer.data();
}

}  // namespace

void Scratch::prepare(std::size_t n, std::size_t n_rows, std::size_t ef) {
  if (memory_.size() < n) {
    memory_.resize(n);
    slots_.resize(n);
  }
  for (std::size_t i = 0; i < n; ++i) {
    Slot& slot = slots_[i];
    Memory& memory = memory_[i];
    if (slot.visited_size < n_rows) {
      // Grown in steps, so that an index that grows row by row does not clear its tags each time.
      const std::size_t size = std::max<std::size_t>(n_rows + n_rows / 4, 4096);
      memory.visited = AlignedBuffer<std::uint8_t>(size);
      slot.visited = memory.visited.data();
      slot.visited_size = size;
      slot.epoch = 0;
    }
    const std::size_t open = open_capacity_for(ef);
    const std::size_t done = done_capacity_for(ef);
    slot.open_keys = at_least(memory.open_keys, open + kSlotPad);
    slot.open_rows = at_least(memory.open_rows, open + kSlotPad);
    slot.done_keys = at_least(memory.done_keys, done + kSlotPad);
    slot.done_rows = at_least(memory.done_rows, done + kSlotPad);
    slot.open_capacity = open;
    slot.done_capacity = done;
  }
}

}  // namespace vicinal::graph
