#include "graph/leaves.hpp"

#include <algorithm>
#include <climits>
#include <numeric>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/leaf_comparison.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kRowsAtOnce = Panels::kRowsAtOnce;
constexpr std::size_t kLeadersAtOnce = 256;
constexpr std::size_t kLeavesATick = 32;

}  // namespace

LeafPlan::LeafPlan(std::size_t ef, std::size_t n) noexcept
    : members_max(std::clamp(n / kLeavesSpan, 8 * ef, 16 * ef)),
      all{(ef + 15) / 16, 3 * ef / 8},
      sample{(ef + 15) / 16, ef / 4} {}

Leaves::Leaves(const GraphView& g, const BeamFns& fns, const CodeSums& sums, std::size_t ef, RowLocks& locks,
               unsigned threads)
    : g_(g), fns_(fns), sums_(sums), ef_(ef), plan_(ef, 0), locks_(locks), threads_(threads) {}

void Leaves::find(const std::vector<std::uint32_t>& rows, std::size_t first, std::mt19937_64& random,
                  const Tick& tick) {
  plan_ = LeafPlan(ef_, rows.size());
  candidates_ = AlignedBuffer<std::uint64_t>((rows.size() - first) * (plan_.all.keep + plan_.sample.keep));
  found_.assign(rows.size() - first, {});
  std::vector<Group> open(1);
  open[0].members.resize(rows.size());
  std::iota(open[0].members.begin(), open[0].members.end(), 0U);
  overlap_ = overlap_for(rows);
  open[0].overlap = overlap_;
  order_.clear();
  std::vector<std::vector<std::uint32_t>> leaves;
  while (!open.empty()) {
    Group group = std::move(open.back());
    open.pop_back();
    if (group.members.back() < first) continue;  // nobody here asks
    if (group.members.size() <= plan_.members_max) {
      leaves.push_back(std::move(group.members));
    } else {
      divide(rows, group, random, open);
    }
  }
  if (order_.empty()) {
    order_.resize(rows.size());
    std::iota(order_.begin(), order_.end(), 0U);
  }
  ThreadPool& pool = ThreadPool::instance();
  std::vector<Comparison> comparisons(pool.workers_for(threads_), Comparison(*this, rows, first));
  for (std::size_t at = 0; at < leaves.size(); at += kLeavesATick) {
    const std::size_t count = std::min(kLeavesATick, leaves.size() - at);
    pool.parallel_for(count, threads_, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
      for (std::size_t i = at + begin; i < at + end; ++i) comparisons[worker].run(leaves[i]);
    });
    tick(static_cast<double>(at + count) / static_cast<double>(leaves.size()));
  }
}

// Groups turn out uneven: half of the most on average.
std::size_t Leaves::leaders_for(std::size_t overlap, std::size_t n) const noexcept {
  return std::clamp<std::size_t>(2 * overlap * n / plan_.members_max, 2, std::min(n, kLeadersMax));
}

// Each member goes to the leaders nearest to it.
void Leaves::divide(const std::vector<std::uint32_t>& rows, const Group& group, std::mt19937_64& random,
                    std::vector<Group>& parts) {
  const std::size_t n = group.members.size();
  const std::size_t n_leaders = leaders_for(group.overlap, n);
  const std::size_t overlap = std::min(group.overlap, n_leaders);
  std::vector<std::uint32_t> leaders = group.members;
  for (std::size_t i = 0; i < n_leaders; ++i) {
    std::swap(leaders[i], leaders[i + random() % (n - i)]);
    leaders[i] = rows[leaders[i]];
  }
  Panels panels(g_, fns_, sums_);
  panels.fill(leaders.data(), n_leaders);
  std::vector<std::uint16_t> nearest(n * overlap);
  constexpr std::size_t rows_a_step = 16 * kRowsAtOnce;
  const std::size_t n_steps = (n + rows_a_step - 1) / rows_a_step;
  ThreadPool::instance().parallel_for(n_steps, threads_, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    std::vector<std::int32_t> dots(kRowsAtOnce * kLeadersAtOnce);
    std::vector<std::int32_t> keys(rows_a_step * overlap);
    const std::vector<std::int32_t> none(kLeadersAtOnce, INT32_MIN);
    std::vector<std::int32_t> found_keys(kLeadersAtOnce);
    std::vector<std::uint32_t> found(kLeadersAtOnce);
    for (std::size_t step = begin; step < end; ++step) {
      const std::size_t from = step * rows_a_step;
      const std::size_t to = std::min(n, from + rows_a_step);
      std::fill(keys.begin(), keys.end(), INT32_MAX);
      for (std::size_t leader = 0; leader < n_leaders; leader += kLeadersAtOnce) {
        const std::size_t width = std::min(kLeadersAtOnce, panels.width() - leader);
        for (std::size_t at = from; at < to; at += kRowsAtOnce) {
          std::uint32_t asked[kRowsAtOnce];
          const std::size_t count = std::min(kRowsAtOnce, to - at);
          for (std::size_t r = 0; r < count; ++r) asked[r] = rows[group.members[at + r]];
          panels.dots(asked, count, leader, width, dots.data());
          for (std::size_t r = 0; r < count; ++r) {
            std::int32_t* best = keys.data() + (at + r - from) * overlap;
            std::uint16_t* out = nearest.data() + (at + r) * overlap;
            // A quarter at a time: the bound of the one is that of the next.
            for (std::size_t part = 0; part < width; part += kLeadersAtOnce / 4) {
              const std::size_t some = std::min(kLeadersAtOnce / 4, std::min(width, n_leaders - leader) - part);
              const std::size_t hits =
                  fns_.near(sums_.base(asked[r]), panels.squares() + leader + part, dots.data() + r * width + part,
                            none.data(), some, best[overlap - 1], found_keys.data(), found.data());
              for (std::size_t i = 0; i < hits; ++i) {
                if (found_keys[i] >= best[overlap - 1]) continue;
                std::size_t place = overlap - 1;
                for (; place > 0 && best[place - 1] > found_keys[i]; --place) {
                  best[place] = best[place - 1];
                  out[place] = out[place - 1];
                }
                best[place] = found_keys[i];
                out[place] = static_cast<std::uint16_t>(leader + part + found[i]);
              }
            }
          }
        }
      }
    }
  });
  if (order_.empty()) {  // the first division, of all rows: by their nearest leader
    std::vector<std::size_t> ends(n_leaders + 1, 0);
    for (std::size_t i = 0; i < n; ++i) ++ends[nearest[i * overlap] + std::size_t{1}];
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    order_.resize(n);
    for (std::size_t i = 0; i < n; ++i) order_[ends[nearest[i * overlap]]++] = group.members[i];
  }
  std::vector<Group> made(n_leaders);
  for (std::size_t i = 0; i < n * overlap; ++i) made[nearest[i]].members.push_back(group.members[i / overlap]);
  for (Group& part : made) {
    if (part.members.size() < 2) continue;
    part.overlap = 1;
    if (5 * part.members.size() <= 4 * n) {
      parts.push_back(std::move(part));
      continue;
    }
    // Distances do not tell its members apart.
    for (std::size_t i = 0; i < part.members.size(); i += plan_.members_max) {
      const auto begin = part.members.begin() + static_cast<std::ptrdiff_t>(i);
      const std::size_t count = std::min(plan_.members_max, part.members.size() - i);
      parts.push_back({{begin, begin + static_cast<std::ptrdiff_t>(count)}, 1});
    }
  }
}

void Leaves::candidates(std::size_t i, std::uint32_t row, std::vector<Candidate>& out) const {
  const std::uint64_t* list = candidates_.data() + i * (plan_.all.keep + plan_.sample.keep);
  std::vector<std::uint64_t> sorted(list, list + found_[i].all);
  sorted.insert(sorted.end(), list + plan_.all.keep, list + plan_.all.keep + found_[i].sample);
  std::sort(sorted.begin(), sorted.end());
  out.clear();
  for (std::size_t c = 0; c < sorted.size(); ++c) {
    if (c == 0 || sorted[c] != sorted[c - 1]) out.push_back(unpacked_candidate(sorted[c], row));
  }
}

void Leaves::clear() noexcept {
  candidates_ = {};
  found_ = {};
}

}  // namespace vicinal::graph
