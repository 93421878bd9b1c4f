// A copy of the index without its removed rows: what gives the memory of updates back.
//
// Nothing is linked anew. Rows move together in their old order, edges are renumbered, and what pointed to a removed
// row was mended before, so that the copy costs one pass over memory and answers as the original does.
#include <algorithm>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace vicinal::graph {

std::unique_ptr<GraphIndex> GraphIndex::compact(unsigned threads, std::vector<std::int64_t>& kept) {
  repair(threads);
  auto made = std::make_unique<GraphIndex>(config_);
  GraphIndex& to = *made;
  const std::lock_guard link_lock(link_mutex_);
  const std::lock_guard append_lock(append_mutex_);
  const std::size_t n = size();
  const std::vector<std::uint64_t> alive(live_words(), live_words() + (n + 63) / 64);
  constexpr std::uint32_t gone = UINT32_MAX;
  std::vector<std::uint32_t> place(n, gone);
  kept.clear();
  std::size_t n_linked = 0;
  for (std::uint32_t row = 0; row < n; ++row) {
    if (!test_bit(alive.data(), row)) continue;
    place[row] = static_cast<std::uint32_t>(kept.size());
    kept.push_back(row);
    if (row < linked()) n_linked = kept.size();
  }
  for (std::size_t at = 0; at < kept.size();) {
    std::size_t end = at + 1;  // of a run of rows that lie together
    while (end < kept.size() && kept[end] == kept[end - 1] + 1 &&
           static_cast<std::size_t>(kept[end]) != rows_.n_external()) {
      ++end;
    }
    to.append(rows_.row(static_cast<std::size_t>(kept[at])), end - at);
    at = end;
  }
  if (n_linked > 0) {
    to.codec_.set_parameters(to.rows_, codec_.parameters());
    to.grow_graph(n_linked);
    auto* in_degrees = to.in_degrees_.as<std::uint16_t>();
    ThreadPool::instance().parallel_for(n_linked, threads, 1024, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t row = begin; row < end; ++row) {
        const auto from = static_cast<std::uint32_t>(kept[row]);
        std::copy_n(codes_.data() + from * codec_.stride(), codec_.stride(), to.codes_.data() + row * codec_.stride());
        std::uint32_t* words = to.edges_.row(static_cast<std::uint32_t>(row));
        std::fill_n(words, edges_.stride, static_cast<std::uint32_t>(row));
        std::uint32_t near[kDegreeMax];
        const std::size_t count = neighbours(from, near);
        for (std::size_t i = 0, used = 0; i < count; ++i) {
          const std::uint32_t next = place[near[i]];
          if (next == gone) continue;
          words[used++] = next;
          __atomic_fetch_add(&in_degrees[next], std::uint16_t{1}, __ATOMIC_RELAXED);
        }
      }
    });
    to.choose_entries(n_linked);
    to.attach_unreachable(n_linked, threads);
    to.pack(n_linked, threads);
    to.linked_.store(n_linked, std::memory_order_release);
  }
  // Rows removed while this ran are removed from the copy, too.
  std::vector<std::int64_t> late;
  for (std::size_t row = 0; row < kept.size(); ++row) {
    if (!is_live(static_cast<std::uint32_t>(kept[row]))) late.push_back(static_cast<std::int64_t>(row));
  }
  to.remove(late.data(), late.size());
  return made;
}

}  // namespace vicinal::graph
