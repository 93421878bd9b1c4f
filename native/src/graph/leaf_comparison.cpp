#include "graph/leaf_comparison.hpp"

#include <algorithm>
#include <climits>
#include <cmath>

#include "distance/prefetch.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kRowsAtOnce = Panels::kRowsAtOnce;
constexpr std::size_t kColumnsAtOnce = 256;     // their codes stay in the cache while all rows pass
constexpr std::size_t kProbe = kColumnsAtOnce;  // keys that tell about where the nearest few end

std::int32_t key_of(std::uint64_t candidate) noexcept { return static_cast<std::int32_t>(candidate >> 32); }

}  // namespace

// Some of the first n keys, which are as good as any, tell where the nearest few end: of the least keys of kPanel equal
// parts of them, so many are below a bound as that bound's share of all keys says.
void Leaves::Comparison::Held::begin(std::size_t members, std::size_t width, std::size_t n, std::size_t near_wanted) {
  near = near_wanted;
  const std::size_t part = std::min(kProbe, n / 2) / kPanel;  // keys in each
  const double share = 1.25 * static_cast<double>(near) / static_cast<double>(n);
  probed = share > 0.25 ? 0 : part * kPanel;
  const double below = kPanel * (1.0 - std::pow(1.0 - share, static_cast<double>(part)));
  wanted = probed == 0 ? 0 : static_cast<std::size_t>(std::lround(below));
  room = 2 * near + 32;
  candidates.resize(std::max(candidates.size(), members * room));
  counts.assign(members, 0);
  picked.assign(members, 0);
  bounds.assign(width, INT32_MIN);
}

// A bound that about `near` of the keys of a member are below.
std::int32_t Leaves::Comparison::Held::probe(const BeamFns& fns, std::uint32_t base, const Panels& panels,
                                             const std::int32_t* dots, std::size_t self) const noexcept {
  if (probed == 0) return INT32_MAX;
  std::int32_t least[kPanel];
  fns.least(base, panels.squares(), dots, probed, least);
  std::int32_t* const at = least + std::min(wanted + (self < probed ? 1 : 0), kPanel - 1);
  std::nth_element(least, at, least + kPanel);
  return *at + 1;
}

void Leaves::Comparison::Held::add(std::size_t member, std::uint64_t candidate) {
  candidates[member * room + counts[member]++] = candidate;
  if (counts[member] < room) return;
  pick(member);
  picked[member] = 1;
  const std::uint64_t* held = candidates.data() + member * room;
  bounds[member] = std::min(bounds[member], key_of(*std::max_element(held, held + near)));
}

// Leaves the nearest few.
void Leaves::Comparison::Held::pick(std::size_t member) {
  std::uint64_t* held = candidates.data() + member * room;
  if (counts[member] <= near) return;
  std::nth_element(held, held + near - 1, held + counts[member]);
  counts[member] = static_cast<std::uint32_t>(near);
}

void Leaves::Comparison::run(const std::vector<std::uint32_t>& members) {
  n_ = members.size();
  members_ = &members;
  own_.resize(n_);
  for (std::size_t i = 0; i < n_; ++i) own_[i] = rows_[members[i]];
  panels_.fill(own_.data(), n_);
  const auto up_to = [&](std::size_t place) {
    return static_cast<std::size_t>(std::lower_bound(members.begin(), members.end(), place) - members.begin());
  };
  sample_ = up_to(rows_.size() / kLeafSample);
  all_.begin(n_, panels_.width(), n_, leaves_.plan_.all.near);
  near_sample_.begin(n_, panels_.width(), sample_, leaves_.plan_.sample.near);
  either_.assign(panels_.width(), INT32_MIN);
  none_.assign(kColumnsAtOnce, INT32_MIN);
  dots_.resize(kRowsAtOnce * kColumnsAtOnce);
  keys_.resize(kColumnsAtOnce);
  places_.resize(kColumnsAtOnce);
  const std::size_t asking = up_to(first_);
  first_columns(asking);
  later_columns(asking);
  hand_over(asking, members);
}

// All that ask with the first members, which gives them their bounds. Pairs within these are met twice.
void Leaves::Comparison::first_columns(std::size_t asking) {
  const std::size_t width = std::min(kColumnsAtOnce, panels_.width());
  const std::size_t columns = std::min(width, n_);
  for (std::size_t at = asking; at < n_; at += kRowsAtOnce) {
    const std::size_t count = std::min(kRowsAtOnce, n_ - at);
    panels_.dots(own_.data() + at, count, 0, width, dots_.data());
    for (std::size_t row = at; row < at + count; ++row) {
      const std::int32_t* dots = dots_.data() + (row - at) * width;
      const std::size_t place = (*members_)[row] - first_;
      const std::uint32_t base = leaves_.sums_.base(own_[row]);
      Found found;
      {
        const RowLocks::Guard guard(leaves_.locks_, static_cast<std::uint32_t>(place));
        found = leaves_.found_[place];
      }
      all_.bounds[row] = std::min(found.all_bound, all_.probe(leaves_.fns_, base, panels_, dots, row));
      near_sample_.bounds[row] =
          std::min(found.sample_bound, near_sample_.probe(leaves_.fns_, base, panels_, dots, row));
      either_[row] = std::max(all_.bounds[row], near_sample_.bounds[row]);
      select(row, 0, columns, dots, row >= columns);
    }
  }
}

void Leaves::Comparison::later_columns(std::size_t asking) {
  for (std::size_t column = kColumnsAtOnce; column < n_; column += kColumnsAtOnce) {
    const std::size_t width = std::min(kColumnsAtOnce, panels_.width() - column);
    for (std::size_t at = std::max(asking, column); at < n_; at += kRowsAtOnce) {
      const std::size_t count = std::min(kRowsAtOnce, n_ - at);
      const std::size_t needed = std::min(width, round_up(at + count - column, kPanel));
      panels_.dots(own_.data() + at, count, column, needed, dots_.data());
      for (std::size_t row = at; row < at + count; ++row) {
        select(row, column, std::min(needed, row - column), dots_.data() + (row - at) * needed, true);
      }
    }
  }
}

// One row with n members from `column` on: for the row, and with `both` for them.
void Leaves::Comparison::select(std::size_t row, std::size_t column, std::size_t n, const std::int32_t* dots,
                                bool both) {
  const std::int32_t bound = column < sample_ ? either_[row] : all_.bounds[row];
  const std::int32_t* theirs = row < sample_ ? either_.data() + column : all_.bounds.data() + column;
  const std::size_t hits = leaves_.fns_.near(leaves_.sums_.base(own_[row]), panels_.squares() + column, dots,
                                             both ? theirs : none_.data(), n, bound, keys_.data(), places_.data());
  for (std::size_t i = 0; i < hits; ++i) {
    const std::size_t other = column + places_[i];
    if (other == row) continue;
    offer(row, other, keys_[i]);
    if (both) offer(other, row, keys_[i]);
  }
}

void Leaves::Comparison::offer(std::size_t to, std::size_t other, std::int32_t key) {
  const std::uint64_t candidate = packed_candidate(key, own_[other], own_[to]);
  if (key < all_.bounds[to]) all_.add(to, candidate);
  if (other < sample_ && key < near_sample_.bounds[to]) near_sample_.add(to, candidate);
}

void Leaves::Comparison::hand_over(std::size_t asking, const std::vector<std::uint32_t>& members) {
  const LeafPlan& plan = leaves_.plan_;
  const auto hand = [&](Held& held, std::size_t row, std::uint64_t* list, std::size_t keep, std::uint32_t& size,
                        std::int32_t& bound) {
    if (held.picked[row] != 0 || held.counts[row] > 2 * held.near) held.pick(row);
    std::uint64_t worst = UINT64_MAX;
    size = static_cast<std::uint32_t>(
        leaves_.fns_.keep(list, size, keep, held.candidates.data() + row * held.room, held.counts[row], &worst));
    bound = size == keep ? key_of(worst) : INT32_MAX;
  };
  const auto fetch = [&](std::size_t row) {
    const std::size_t place = members[row] - first_;
    const auto* list = leaves_.candidates_.data() + place * (plan.all.keep + plan.sample.keep);
    prefetch_line(&leaves_.found_[place]);
    prefetch_bytes(list, (plan.all.keep + plan.sample.keep) * sizeof(*list));
  };
  constexpr std::size_t ahead = 4;
  for (std::size_t row = asking; row < n_; ++row) {
    if (row + ahead < n_) fetch(row + ahead);
    const std::size_t place = members[row] - first_;
    std::uint64_t* list = leaves_.candidates_.data() + place * (plan.all.keep + plan.sample.keep);
    Found& found = leaves_.found_[place];
    const RowLocks::Guard guard(leaves_.locks_, static_cast<std::uint32_t>(place));
    hand(all_, row, list, plan.all.keep, found.all, found.all_bound);
    hand(near_sample_, row, list + plan.all.keep, plan.sample.keep, found.sample, found.sample_bound);
  }
}

}  // namespace vicinal::graph
