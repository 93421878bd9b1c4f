#include "graph/leaves.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <numeric>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kRowsAtOnce = Panels::kRowsAtOnce;
constexpr std::size_t kKeysAtOnce = 128;  // keys looked through in one call
constexpr std::size_t kProbe = 256;       // keys that tell about where the nearest few end
constexpr std::size_t kProbeParts = 16;
constexpr std::size_t kLeavesATick = 32;

// The products of one row with a leaf.
struct Products {
  const Panels& panels;
  std::uint32_t base;
  const std::int32_t* dots;
  std::size_t self;  // its own place
};

// A bound that about `near` of the first n keys are below, by some of them, which are as good as any: of the least keys
// of equal parts of these, so many are below a bound as that bound's share of all keys says.
std::int32_t probe(const Products& p, std::size_t n, std::size_t near) noexcept {
  const std::size_t part = std::min(kProbe, n / 2) / kProbeParts;  // keys in each
  const double share = 1.25 * static_cast<double>(near) / static_cast<double>(n);
  if (part == 0 || share > 0.25) return INT32_MAX;
  std::array<std::int32_t, kProbeParts> least{};
  least.fill(INT32_MAX - 1);
  for (std::size_t i = 0; i < part * kProbeParts; i += kProbeParts) {
    for (std::size_t j = 0; j < kProbeParts; ++j) {
      least[j] = std::min(least[j], p.panels.key(p.base, i + j, p.dots[i + j]));
    }
  }
  const double below = kProbeParts * (1.0 - std::pow(1.0 - share, static_cast<double>(part)));
  const auto wanted = static_cast<std::size_t>(std::lround(below)) + (p.self < part * kProbeParts ? 1 : 0);
  const auto at = least.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, kProbeParts - 1));
  std::nth_element(least.begin(), at, least.end());
  return *at + 1;
}

// A candidate of `self`: its key above its row, so that one comparison orders both. Rows are scrambled, for each row in
// another way: of many equally near ones, as of equal rows, not all choose the same.
std::uint64_t packed(std::int32_t key, std::uint32_t row, std::uint32_t self) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(key)) << 32 | (row ^ self * 2654435761U);
}

Candidate unpacked(std::uint64_t candidate, std::uint32_t self) noexcept {
  return {static_cast<std::int32_t>(candidate >> 32), static_cast<std::uint32_t>(candidate) ^ self * 2654435761U};
}

}  // namespace

LeafPlan::LeafPlan(std::size_t ef, std::size_t n) noexcept
    : members_max(std::clamp(n / kLeavesSpan, 8 * ef, 16 * ef)),
      all{(ef + 15) / 16, 3 * ef / 8},
      sample{(ef + 15) / 16, ef / 4} {}

// Keeps the nearest rows of leaves to one row.
class Leaves::Nearest {
 public:
  explicit Nearest(const BeamFns& fns) : fns_(fns), keys_(kHeldMax + kSlotPad), rows_(kHeldMax + kSlotPad) {}

  // Adds the nearest of the leaf's first n rows to a list, which is sorted and holds each row once; returns its new
  // size.
  std::uint32_t add(const Products& p, const std::vector<std::uint32_t>& rows, std::size_t n, const LeafQuota& quota,
                    std::uint64_t* list, std::uint32_t size) {
    std::int32_t bound = size == quota.keep ? key_of(list[size - 1]) : INT32_MAX;
    bound = std::min(bound, probe(p, n, quota.near));
    const std::uint32_t self = rows[p.self];
    std::size_t held = 0;
    for (std::size_t i = 0; i < n; i += kKeysAtOnce) {
      held = fns_.near(p.base, p.panels.squares() + i, p.dots + i, rows.data() + i, std::min(kKeysAtOnce, n - i), bound,
                       keys_.data(), rows_.data(), held);
      if (held + kKeysAtOnce <= kHeldMax) continue;
      held = pick(held, quota.near, self);
      bound = std::min(bound, *std::max_element(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(held)));
    }
    if (held > 2 * quota.near) held = pick(held, quota.near, self);
    for (std::size_t i = 0; i < held; ++i) {
      if (rows_[i] != self) size = insert(packed(keys_[i], rows_[i], self), quota.keep, list, size);
    }
    return size;
  }

 private:
  static constexpr std::size_t kHeldMax = 384;
  static std::int32_t key_of(std::uint64_t candidate) noexcept { return static_cast<std::int32_t>(candidate >> 32); }

  // Leaves the best `near` of those held, in any order, without the row itself; returns how many.
  std::size_t pick(std::size_t held, std::size_t near, std::uint32_t self) {
    best_.clear();
    for (std::size_t i = 0; i < held; ++i) {
      if (rows_[i] != self) best_.push_back(packed(keys_[i], rows_[i], self));
    }
    if (best_.size() > near) {
      std::nth_element(best_.begin(), best_.begin() + static_cast<std::ptrdiff_t>(near - 1), best_.end());
      best_.resize(near);
    }
    for (std::size_t b = 0; b < best_.size(); ++b) {
      const Candidate candidate = unpacked(best_[b], self);
      keys_[b] = candidate.key;
      rows_[b] = candidate.row;
    }
    return best_.size();
  }

  static std::uint32_t insert(std::uint64_t candidate, std::size_t keep, std::uint64_t* list,
                              std::uint32_t size) noexcept {
    std::uint64_t* at = list;
    for (std::size_t n = size; n > 0;) {
      const std::size_t half = (n + 1) / 2;
      at += at[half - 1] < candidate ? half : 0;
      n -= half;
    }
    std::uint64_t* const end = list + size;
    if (at == list + keep || (at != end && *at == candidate)) return size;
    const bool full = size == keep;
    std::copy_backward(at, full ? end - 1 : end, full ? end : end + 1);
    *at = candidate;
    return full ? size : size + 1;
  }

  const BeamFns& fns_;
  std::vector<std::int32_t> keys_;
  std::vector<std::uint32_t> rows_;
  std::vector<std::uint64_t> best_;
};

Leaves::Leaves(const GraphView& g, const BeamFns& fns, const CodeSums& sums, std::size_t ef, RowLocks& locks,
               unsigned threads)
    : g_(g), fns_(fns), sums_(sums), ef_(ef), plan_(ef, 0), locks_(locks), threads_(threads) {}

void Leaves::find(const std::vector<std::uint32_t>& rows, std::size_t first, std::mt19937_64& random,
                  const Tick& tick) {
  plan_ = LeafPlan(ef_, rows.size());
  candidates_.resize((rows.size() - first) * (plan_.all.keep + plan_.sample.keep));
  found_.assign(rows.size() - first, {});
  std::vector<Group> open(1);
  open[0].members.resize(rows.size());
  std::iota(open[0].members.begin(), open[0].members.end(), 0U);
  open[0].overlap = kLeafOverlap;
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
  for (std::size_t at = 0; at < leaves.size(); at += kLeavesATick) {
    const std::size_t count = std::min(kLeavesATick, leaves.size() - at);
    ThreadPool::instance().parallel_for(count, threads_, 1, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t i = at + begin; i < at + end; ++i) compare(rows, first, leaves[i]);
    });
    tick(static_cast<double>(at + count) / static_cast<double>(leaves.size()));
  }
}

// Each member goes to the leaders nearest to it.
void Leaves::divide(const std::vector<std::uint32_t>& rows, const Group& group, std::mt19937_64& random,
                    std::vector<Group>& parts) const {
  const std::size_t n = group.members.size();
  // Groups turn out uneven: half of the most on average.
  const std::size_t n_leaders =
      std::clamp<std::size_t>(2 * group.overlap * n / plan_.members_max, 2, std::min(n, kLeadersMax));
  const std::size_t overlap = std::min(group.overlap, n_leaders);
  std::vector<std::uint32_t> leaders = group.members;
  for (std::size_t i = 0; i < n_leaders; ++i) {
    std::swap(leaders[i], leaders[i + random() % (n - i)]);
    leaders[i] = rows[leaders[i]];
  }
  Panels panels(g_, fns_, sums_);
  panels.fill(leaders.data(), n_leaders);
  std::vector<std::uint16_t> nearest(n * overlap);
  const std::size_t n_steps = (n + kRowsAtOnce - 1) / kRowsAtOnce;
  constexpr std::size_t grain = 16;
  ThreadPool::instance().parallel_for(n_steps, threads_, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    std::vector<std::int32_t> dots(kRowsAtOnce * panels.width());
    std::array<std::int32_t, kLeafOverlap> keys{};
    for (std::size_t at = begin * kRowsAtOnce; at < std::min(n, end * kRowsAtOnce); at += kRowsAtOnce) {
      std::uint32_t asked[kRowsAtOnce];
      const std::size_t count = std::min(kRowsAtOnce, n - at);
      for (std::size_t r = 0; r < count; ++r) asked[r] = rows[group.members[at + r]];
      panels.dots(asked, count, dots.data());
      for (std::size_t r = 0; r < count; ++r) {
        std::uint16_t* out = nearest.data() + (at + r) * overlap;
        std::size_t held = 0;
        for (std::size_t i = 0; i < n_leaders; ++i) {
          const std::int32_t key = panels.key(sums_.base(asked[r]), i, dots[r * panels.width() + i]);
          if (held == overlap && key >= keys[held - 1]) continue;
          std::size_t place = held < overlap ? held++ : held - 1;
          for (; place > 0 && keys[place - 1] > key; --place) {
            keys[place] = keys[place - 1];
            out[place] = out[place - 1];
          }
          keys[place] = key;
          out[place] = static_cast<std::uint16_t>(i);
        }
      }
    }
  });
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

void Leaves::compare(const std::vector<std::uint32_t>& rows, std::size_t first,
                     const std::vector<std::uint32_t>& members) {
  const std::size_t n = members.size();
  std::vector<std::uint32_t> own(n + kPanel);
  for (std::size_t i = 0; i < n; ++i) own[i] = rows[members[i]];
  Panels panels(g_, fns_, sums_);
  panels.fill(own.data(), n);
  std::vector<std::int32_t> dots(kRowsAtOnce * panels.width());
  Nearest nearest(fns_);
  const auto up_to = [&](std::size_t place) {
    return static_cast<std::size_t>(std::lower_bound(members.begin(), members.end(), place) - members.begin());
  };
  const std::size_t sample = up_to(rows.size() / kLeafSample);
  for (std::size_t at = up_to(first); at < n; at += kRowsAtOnce) {
    const std::size_t count = std::min(kRowsAtOnce, n - at);
    panels.dots(own.data() + at, count, dots.data());
    for (std::size_t r = 0; r < count; ++r) {
      const Products products{panels, sums_.base(own[at + r]), dots.data() + r * panels.width(), at + r};
      const std::size_t place = members[at + r] - first;
      std::uint64_t* list = candidates_.data() + place * (plan_.all.keep + plan_.sample.keep);
      Found& found = found_[place];
      const RowLocks::Guard guard(locks_, static_cast<std::uint32_t>(place));
      found.all = nearest.add(products, own, n, plan_.all, list, found.all);
      found.sample = nearest.add(products, own, sample, plan_.sample, list + plan_.all.keep, found.sample);
    }
  }
}

void Leaves::candidates(std::size_t i, std::uint32_t row, std::vector<Candidate>& out) const {
  const std::uint64_t* all = candidates_.data() + i * (plan_.all.keep + plan_.sample.keep);
  const std::uint64_t* sample = all + plan_.all.keep;
  const std::uint64_t* const all_end = all + found_[i].all;
  const std::uint64_t* const sample_end = sample + found_[i].sample;
  out.clear();
  while (all != all_end || sample != sample_end) {
    const bool from_all = sample == sample_end || (all != all_end && *all <= *sample);
    const std::uint64_t next = from_all ? *all : *sample;
    if (all != all_end && *all == next) ++all;
    if (sample != sample_end && *sample == next) ++sample;
    out.push_back(unpacked(next, row));
  }
}

void Leaves::clear() noexcept {
  candidates_ = {};
  found_ = {};
}

}  // namespace vicinal::graph
