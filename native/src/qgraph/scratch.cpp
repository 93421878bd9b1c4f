// Lays out lane memory.
#include "qgraph/scratch.hpp"

#include <algorithm>
#include <cstdint>

namespace vicinal::qgraph {

void Scratch::prepare(const View& graph, std::size_t ef, std::size_t nodes_max, std::size_t lanes) {
  const std::uint32_t padded = graph.layout.padded;
  if (ef == ef_ && nodes_max == nodes_max_ && lanes <= count_ && padded == padded_ && graph.layout.tables == tables_)
    return;
  const Sizes sizes = Sizes::of(ef, nodes_max, 0, ef);
  const std::size_t list = sizes.capacity + 128;
  const std::size_t expanded = round_up(sizes.hops_max + 64, 16);
  std::size_t used = 0;
  const auto place = [&used](std::size_t bytes) {
    const std::size_t at = used;
    // An odd number of lines between arrays keeps those of the lanes from meeting in the same cache sets.
    used += round_up(bytes, kCacheLine) + kCacheLine;
    return at;
  };
  struct Offsets {
    std::size_t cd, ci, least, ek, ed, er, en, table, own, coarse, tables, work, pick, closest;
  };
  Offsets at[kInterleaveMax];
  for (std::size_t i = 0; i < lanes; ++i) {
    at[i].cd = place(list * 4);
    at[i].ci = place(list * 4);
    at[i].least = place((list / kMinBlock + 32) * 4);
    at[i].ek = place(expanded * 4);
    at[i].ed = place(expanded * 4);
    at[i].er = place(expanded * 4);
    at[i].en = place(expanded * 4);
    at[i].table = place(std::size_t{sizes.slots} * 4);
    at[i].own = place(padded);
    at[i].coarse = place(padded);
    at[i].tables = place(std::size_t{graph.layout.tables} * 16);
    at[i].work = place(std::size_t{padded} * 4);
    at[i].pick = place(expanded * 4);
    at[i].closest = place(expanded * 4);
  }
  ef_ = count_ = 0;
  if (memory_.size() < used || memory_.size() > 16 * used) memory_ = AlignedBuffer<std::byte>(used);
  for (std::size_t i = 0; i < lanes; ++i) {
    std::byte* base = memory_.data();
    Lane& l = lanes_[i];
    l = Lane{};
    l.cd = reinterpret_cast<float*>(base + at[i].cd);
    l.ci = reinterpret_cast<std::uint32_t*>(base + at[i].ci);
    l.least = reinterpret_cast<float*>(base + at[i].least);
    l.ek = reinterpret_cast<float*>(base + at[i].ek);
    l.ed = reinterpret_cast<float*>(base + at[i].ed);
    l.er = reinterpret_cast<std::uint32_t*>(base + at[i].er);
    l.es = reinterpret_cast<std::uint32_t*>(base + at[i].en);
    l.table = reinterpret_cast<std::uint32_t*>(base + at[i].table);
    l.own_query = reinterpret_cast<std::int8_t*>(base + at[i].own);
    l.table_query = reinterpret_cast<std::int8_t*>(base + at[i].coarse);
    l.tables = reinterpret_cast<std::uint8_t*>(base + at[i].tables);
    l.work = reinterpret_cast<float*>(base + at[i].work);
    l.pick = reinterpret_cast<std::uint32_t*>(base + at[i].pick);
    l.closest = reinterpret_cast<float*>(base + at[i].closest);
    std::fill_n(l.table, sizes.slots, kNoNode);
    std::fill_n(l.ci, list, 0U);
  }
  ef_ = ef;
  nodes_max_ = nodes_max;
  count_ = lanes;
  padded_ = padded;
  tables_ = graph.layout.tables;
}

}  // namespace vicinal::qgraph
