// In how many leaves must a row be? In few where near rows share leaves anyway, as those of photographs do, in many
// where leaders are about equally far, as for texts: each leaf more costs the same.
#include <algorithm>
#include <array>
#include <atomic>
#include <climits>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/leaves.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kAsked = 128;  // rows whose near ones are looked at
constexpr std::size_t kAskedAtOnce = 32;
constexpr std::size_t kNear = 32;
constexpr std::size_t kLeadersAtOnce = 256;
constexpr std::array<std::size_t, 4> kFewer{kLeafOverlapMin, 10, 12, 14};
static_assert(kFewer.back() < kLeafOverlap);

// The leaders nearest to a row, for each of kFewer.
using Nearest = std::array<std::array<std::uint32_t, kFewer.back()>, kFewer.size()>;

bool share_one(const std::uint32_t* a, const std::uint32_t* b, std::size_t n) noexcept {
  return std::any_of(a, a + n, [&](std::uint32_t leader) { return std::find(b, b + n, leader) != b + n; });
}

}  // namespace

// Rows near some of them are found by comparing all, and leaders are chosen as they will be.
std::size_t Leaves::overlap_for(const std::vector<std::uint32_t>& rows) const {
  const std::size_t n_leaders = leaders_for(kLeafOverlap, rows.size());
  if (rows.size() <= plan_.members_max || rows.size() < n_leaders + kAsked) return kLeafOverlap;
  // The order of rows is random.
  Panels leaders(g_, fns_, sums_);
  leaders.fill(rows.data(), n_leaders);
  const auto nearest_to = [&](std::uint32_t row, std::vector<std::int32_t>& dots, std::vector<std::uint64_t>& all) {
    all.clear();
    for (std::size_t at = 0; at < n_leaders; at += kLeadersAtOnce) {
      const std::size_t width = std::min(kLeadersAtOnce, leaders.width() - at);
      dots.resize(width);
      leaders.dots(&row, 1, at, width, dots.data());
      for (std::size_t i = at; i < std::min(n_leaders, at + width); ++i) {
        const auto key = static_cast<std::uint32_t>(leaders.key(sums_.base(row), i, dots[i - at]));
        all.push_back(std::uint64_t{key} << 32 | i);
      }
    }
    Nearest nearest{};
    for (std::size_t f = 0; f < kFewer.size(); ++f) {  // fewer leaves, fewer leaders: the first of all
      std::vector<std::uint64_t> some(all.begin(),
                                      all.begin() + static_cast<std::ptrdiff_t>(leaders_for(kFewer[f], rows.size())));
      const auto end = some.begin() + static_cast<std::ptrdiff_t>(kFewer[f]);
      std::nth_element(some.begin(), end - 1, some.end());
      std::transform(some.begin(), end, nearest[f].begin(),
                     [](std::uint64_t s) { return static_cast<std::uint32_t>(s); });
    }
    return nearest;
  };
  std::array<std::atomic<std::size_t>, kFewer.size()> together{};
  ThreadPool::instance().parallel_for(
      kAsked / kAskedAtOnce, threads_, 1, [&](std::size_t begin, std::size_t end, unsigned) {
        std::vector<std::int32_t> dots;
        std::vector<std::uint64_t> all;
        for (std::size_t t = begin; t < end; ++t) {
          const std::uint32_t* asked = rows.data() + n_leaders + t * kAskedAtOnce;
          const std::vector<std::uint32_t> near = nearest_rows(rows, asked, kAskedAtOnce, kNear);
          for (std::size_t a = 0; a < kAskedAtOnce; ++a) {
            const Nearest own = nearest_to(asked[a], dots, all);
            for (std::size_t i = 0; i < kNear; ++i) {
              const Nearest other = nearest_to(near[a * kNear + i], dots, all);
              for (std::size_t f = 0; f < kFewer.size(); ++f) {
                if (share_one(own[f].data(), other[f].data(), kFewer[f])) ++together[f];
              }
            }
          }
        }
      });
  for (std::size_t f = 0; f < kFewer.size(); ++f) {
    if (static_cast<double>(together[f]) >= kLeafTogether * kAsked * kNear) return kFewer[f];
  }
  return kLeafOverlap;
}

// The `near` nearest of `rows`, themselves left out, to each of n rows, n a multiple of kPanel; in no order.
std::vector<std::uint32_t> Leaves::nearest_rows(const std::vector<std::uint32_t>& rows, const std::uint32_t* asked,
                                                std::size_t n, std::size_t near) const {
  Panels panels(g_, fns_, sums_);
  panels.fill(asked, n);
  std::vector<std::vector<Candidate>> best(n);
  std::vector<std::int32_t> bounds(n, INT32_MAX);
  std::vector<std::int32_t> dots(Panels::kRowsAtOnce * n);
  std::vector<std::int32_t> keys(n);
  std::vector<std::uint32_t> places(n);
  const auto nearer = [](const Candidate& a, const Candidate& b) {
    return a.key < b.key || (a.key == b.key && a.row < b.row);
  };
  const auto pick = [&](std::vector<Candidate>& list) {
    std::nth_element(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(near) - 1, list.end(), nearer);
    list.resize(near);
  };
  for (std::size_t at = 0; at < rows.size(); at += Panels::kRowsAtOnce) {
    const std::size_t count = std::min(Panels::kRowsAtOnce, rows.size() - at);
    panels.dots(rows.data() + at, count, 0, n, dots.data());
    for (std::size_t r = 0; r < count; ++r) {
      const std::uint32_t row = rows[at + r];
      const std::size_t hits = fns_.near(sums_.base(row), panels.squares(), dots.data() + r * n, bounds.data(), n,
                                         INT32_MIN, keys.data(), places.data());
      for (std::size_t h = 0; h < hits; ++h) {
        std::vector<Candidate>& list = best[places[h]];
        if (row == asked[places[h]]) continue;
        list.push_back({keys[h], row});
        if (list.size() < 4 * near) continue;
        pick(list);
        bounds[places[h]] = std::max_element(list.begin(), list.end(), nearer)->key;
      }
    }
  }
  std::vector<std::uint32_t> found;
  for (std::vector<Candidate>& list : best) {
    pick(list);
    for (const Candidate& c : list) found.push_back(c.row);
  }
  return found;
}

}  // namespace vicinal::graph
