// The memory side of a search by itself: the lines it touched, in its order and with its prefetches, and no arithmetic.
#include "base/pool.hpp"
#include "qgraph/qgraph.hpp"

namespace vicinal::qgraph {
namespace {

// One query being replayed: the same turns as a lane of the search loop.
struct Walk {
  const Visit* visit = nullptr;
  std::size_t at = 0;
  const Visit* due = nullptr;  // whose exact rows are on their way
  bool over = false;
};

std::uint64_t touch(const std::byte* from, std::size_t bytes, const std::byte* fetch) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes; i += kCacheLine) {
    if (fetch != nullptr) prefetch_next(fetch + i);
    sum += *reinterpret_cast<const volatile std::uint64_t*>(from + i);
  }
  return sum;
}

}  // namespace

std::uint64_t QGraph::replay(const std::vector<Visit>& visits, std::size_t exact_bytes) const noexcept {
  const auto* nodes = nodes_.as<std::uint32_t>();
  const auto row_of = [&](const Walk& w) {
    return rows_.data() + std::size_t{nodes[w.visit->rows[w.at]]} * layout_.stride;
  };
  Walk walks[kInterleaveMax];
  std::size_t next = 0;
  const auto begin = [&](Walk& w) {
    w.over = next >= visits.size();
    if (!w.over) w.visit = &visits[next++];
    w.at = 0;
  };
  const std::size_t width = std::min(interleave_for(dim_), visits.size());
  const std::size_t half = (width + 1) / 2;
  for (std::size_t i = 0; i < width; ++i) begin(walks[i]);
  std::uint64_t sum = 0;
  for (std::size_t active = width; active != 0;) {
    for (std::size_t group = 0; group < width; group += half) {
      const std::size_t last = std::min(group + half, width);
      for (std::size_t i = group; i < last; ++i) {
        Walk& w = walks[i];
        if (!w.over) {
          const std::size_t partner = group == 0 ? i + half : i - half;
          const Walk& other = walks[partner < width ? partner : i];
          sum += touch(row_of(w), layout_.bytes, other.over ? nullptr : row_of(other));
        }
        if (w.due != nullptr) {
          for (const std::byte* row : w.due->exact) sum += touch(row, exact_bytes, nullptr);
          w.due = nullptr;
          if (w.over) --active;
        }
        if (w.over || ++w.at != w.visit->rows.size()) continue;
        for (const std::byte* row : w.visit->exact) {
          for (std::size_t b = 0; b < exact_bytes; b += kCacheLine) prefetch_next(row + b);
        }
        w.due = w.visit;
        begin(w);
      }
      for (std::size_t i = group; i < last; ++i) {
        if (!walks[i].over) prefetch_next(row_of(walks[i]));
      }
    }
  }
  return sum;
}

}  // namespace vicinal::qgraph
