#include "graph/walks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Past this recall of every k nothing more is measured.
constexpr double kEnough = 0.996;

// Misses for which the cheapest rule is kept: each so many times the one before, from a half to two in a thousand.
constexpr double kMissFirst = 0.5;
constexpr double kMissLast = 0.002;
constexpr double kMissStep = 0.8;

struct Hit {
  std::uint32_t rank;
  float own;
};

// The nearest own distances so far, ascending.
class Nearest {
 public:
  explicit Nearest(std::size_t capacity) : capacity_(capacity) { sorted_.reserve(capacity + 1); }

  void add(float own) {
    if (!(own < kInfinity) || (sorted_.size() == capacity_ && own >= sorted_.back())) return;
    sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), own), own);
    if (sorted_.size() > capacity_) sorted_.pop_back();
  }
  [[nodiscard]] float at(std::size_t i) const noexcept { return i < sorted_.size() ? sorted_[i] : kInfinity; }

 private:
  std::size_t capacity_;
  std::vector<float> sorted_;
};

std::uint32_t rank_of(const Truth& truth, std::uint32_t row) {
  const auto at = std::lower_bound(truth.ranks.begin(), truth.ranks.end(), std::pair{row, 0U});
  return at == truth.ranks.end() || at->first != row ? UINT32_MAX : at->second;
}

}  // namespace

Ends ends_of(const Walk& walk, const Truth& truth, const WalkRules& rules, std::size_t first, std::size_t last) {
  Ends ends;
  std::vector<Hit> hits;
  Nearest nearest(std::max(rules.rerank(kCalibratedMax), kCalibratedMax));
  const auto recall = [&](std::size_t b) {
    const float farthest = nearest.at(rules.rerank(kCalibratedKs[b]) - 1);
    std::uint32_t found = 0;
    for (const Hit& hit : hits) found += hit.rank < truth.within[b] && hit.own <= farthest ? 1U : 0U;
    return static_cast<float>(std::min(found, truth.wanted[b])) / static_cast<float>(std::max(truth.wanted[b], 1U));
  };
  std::size_t next_ef = first;
  std::array<std::size_t, kBuckets> next_part{};
  const auto end_at = [&](std::size_t hops, bool over) {
    // By the beam: enough nodes that were nearer when they were chosen.
    std::size_t nearer = 0;
    if (!over) {
      const float key = walk.chosen_at[hops];
      const float limit = rules.ties_count ? std::nextafter(key, kInfinity) : key;
      for (std::size_t i = 0; i < hops; ++i) nearer += walk.counted[i] < limit ? 1U : 0U;
    }
    for (; next_ef < last; ++next_ef) {
      const auto beam = static_cast<std::size_t>(static_cast<double>(kEfs[next_ef]) * rules.beam_scale);
      const double hops_max = rules.hops_per_beam * static_cast<double>(beam) + rules.hops_besides;
      const bool spent = rules.hops_per_beam > 0.0 && static_cast<double>(hops) >= hops_max;
      if (!over && !spent && nearer < beam) break;
      for (std::size_t b = 0; b < kBuckets; ++b) {
        ends.of_ef[next_ef][b] = {static_cast<std::uint32_t>(hops), recall(b)};
      }
    }
    for (std::size_t b = 0; b < kBuckets; ++b) {
      bool near = false;
      float part = 0.0F;
      if (!over && rules.ends_early) {
        const float key = walk.chosen_at[hops];
        const float own = nearest.at(kCalibratedKs[b] - 1);
        near = own < kInfinity && (key > 0.0F || own < key);
        part = near && key > 0.0F ? own / key : 0.0F;
      }
      float reached = -1.0F;
      for (std::size_t& p = next_part[b]; p < kNearParts.size() && (over || (near && part < kNearParts[p])); ++p) {
        if (reached < 0.0F) reached = recall(b);
        ends.of_part[p][b] = {static_cast<std::uint32_t>(hops), reached};
      }
    }
  };
  for (std::size_t hop = 0; hop < walk.n; ++hop) {
    if (hop > 0) end_at(hop, false);
    nearest.add(walk.own[hop]);
    if (walk.own[hop] < kInfinity) {
      const std::uint32_t rank = rank_of(truth, walk.rows[hop]);
      if (rank != UINT32_MAX) hits.push_back({rank, walk.own[hop]});
    }
  }
  end_at(walk.n, true);
  return ends;
}

void RuleGrid::add(const std::vector<Ends>& ends, std::size_t first, std::size_t last) {
  const auto n = static_cast<double>(ends.size());
  const auto rule = [&](std::size_t e, std::size_t p, std::size_t b) {
    double sum = 0.0;
    double squares = 0.0;
    double hops = 0.0;
    for (const Ends& query : ends) {
      Ends::End end = query.of_ef[e][b];
      if (p < kNearParts.size() && query.of_part[p][b].hops < end.hops) end = query.of_part[p][b];
      const auto recall = static_cast<double>(end.recall);
      sum += recall;
      squares += recall * recall;
      hops += end.hops;
    }
    const double mean = sum / n;
    const double variance = std::max(0.0, squares / n - mean * mean);
    return Rule{p < kNearParts.size() ? kNearParts[p] : 0.0F,
                kEfs[e],
                static_cast<std::uint32_t>(ends.size()),
                static_cast<float>(std::min(mean, 1.0)),
                static_cast<float>(std::sqrt(variance / n)),
                static_cast<float>(hops / n)};
  };
  for (std::size_t e = first; e < last; ++e) {
    CalibrationPoint point;
    point.ef = kEfs[e];
    point.queries = static_cast<std::uint32_t>(ends.size());
    for (std::size_t b = 0; b < kBuckets; ++b) {
      const Rule plain = rule(e, kNearParts.size(), b);
      point.recall[b] = plain.recall;
      point.error[b] = plain.error;
      if (kEfs[e] < kCalibratedKs[b]) continue;  // no search is that narrow
      pairs_[b].push_back(plain);
      for (std::size_t p = 0; p < kNearParts.size(); ++p) pairs_[b].push_back(rule(e, p, b));
    }
    points_.push_back(point);
    if (enough()) break;
  }
}

bool RuleGrid::enough() const noexcept {
  return !points_.empty() &&
         *std::min_element(points_.back().recall.begin(), points_.back().recall.end()) >= kEnough;
}

RecallTable RuleGrid::table() const {
  std::array<std::vector<Rule>, kBuckets> cheapest;
  for (std::size_t b = 0; b < kBuckets; ++b) {
    for (double miss = kMissFirst; miss >= kMissLast; miss *= kMissStep) {
      const Rule* best = nullptr;
      for (const Rule& rule : pairs_[b]) {
        if (rule.bound() >= 1.0 - miss && (best == nullptr || rule.hops < best->hops)) best = &rule;
      }
      if (best == nullptr) break;
      if (cheapest[b].empty() || best->bound() > cheapest[b].back().bound()) cheapest[b].push_back(*best);
    }
  }
  return {points_, std::move(cheapest)};
}

}  // namespace vicinal::graph
