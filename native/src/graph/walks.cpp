#include "graph/walks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Past this recall of every k nothing more is measured.
constexpr double kEnough = 0.996;

// A family of rules: for each early end the beam that is so many times as wide as walks are long on average without
// one. Within a family recall grows steadily, so that one may interpolate; the cheapest family is kept.
constexpr std::array<double, 7> kSpares{1.15, 1.35, 1.6, 2.0, 2.6, 3.5, 5.0};
// Judged at these recalls.
constexpr std::array<double, 3> kJudgedAt{0.9, 0.95, 0.99};
constexpr double kNotReached = 1e9;
// A hop reads the list of candidates, which is longer for a wider beam: of so many it costs twice as much.
constexpr double kBeamOfTwice = 1200.0;
// Watching for an early end costs about so much of every hop, and of a beam at least so much has to be saved.
constexpr double kWatching = 1.08;

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
  std::array<std::size_t, kBuckets> next_ef{};
  next_ef.fill(first);
  std::array<std::size_t, kBuckets> next_part{};
  const auto nodes_of = [&](std::size_t ef) {
    return static_cast<std::size_t>(static_cast<double>(ef) * rules.beam_scale);
  };
  // Whether the matches among the nodes so far, `kept` of them nearer than the next one, end a walk for k results.
  const auto has_enough = [&](std::size_t b, std::size_t ef, std::size_t kept, std::size_t hops) {
    if (!(rules.kept_share > 0.0)) return true;
    const std::size_t enough = nodes_of(matches_for(kCalibratedKs[b], ef));
    return kept >= enough || hops >= nodes_for(nodes_of(ef), enough, rules.kept_share);
  };
  const auto end_at = [&](std::size_t hops, bool over) {
    // By the beam: enough nodes that were nearer when they were chosen.
    std::size_t nearer = 0;
    std::size_t kept = 0;  // of these, may be returned
    const std::size_t lowest = *std::min_element(next_ef.begin(), next_ef.end());
    if (!over && lowest < last && hops + 1 > nodes_of(kEfs[lowest])) {
      const float key = walk.chosen_at[hops];
      const float limit = rules.ties_count ? std::nextafter(key, kInfinity) : key;
      for (std::size_t i = 0; i < hops; ++i) nearer += walk.counted[i] < limit ? 1U : 0U;
      for (std::size_t i = 0; rules.kept_share > 0.0 && i < hops; ++i) {
        kept += walk.own[i] < kInfinity && walk.chosen_at[i] < limit ? 1U : 0U;
      }
    }
    for (std::size_t b = 0; b < kBuckets; ++b) {
      float reached = -1.0F;
      for (; next_ef[b] < last; ++next_ef[b]) {
        const std::size_t beam = nodes_of(kEfs[next_ef[b]]);
        const double hops_max = rules.hops_per_beam * static_cast<double>(beam) + rules.hops_besides;
        const bool spent = rules.hops_per_beam > 0.0 && static_cast<double>(hops) >= hops_max;
        if (!over && !((spent || nearer >= beam) && has_enough(b, kEfs[next_ef[b]], kept, hops))) break;
        if (reached < 0.0F) reached = recall(b);
        ends.of_ef[next_ef[b]][b] = {static_cast<std::uint32_t>(hops), reached};
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

namespace {

// Recall and cost of one pair; p past the last of kNearParts is no early end.
Rule measure(const std::vector<Ends>& ends, std::size_t e, std::size_t p, std::size_t b) {
  const auto n = static_cast<double>(ends.size());
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
  return {p < kNearParts.size() ? kNearParts[p] : 0.0F, kEfs[e],
          static_cast<std::uint32_t>(ends.size()),      static_cast<float>(std::min(mean, 1.0)),
          static_cast<float>(std::sqrt(variance / n)),  static_cast<float>(hops / n)};
}

// Logarithm of what it costs to reach a recall by rules of ascending bound.
double cost_at(const std::vector<Rule>& rules, double recall, double scale) {
  const auto cost = [&](const Rule& rule) {
    const double watching = rule.near_part > 0.0F ? kWatching : 1.0;
    return std::log(watching * static_cast<double>(rule.hops) *
                    (1.0 + static_cast<double>(rule.ef) * scale / kBeamOfTwice));
  };
  const auto above = std::lower_bound(rules.begin(), rules.end(), recall,
                                      [](const Rule& rule, double asked) { return rule.bound() < asked; });
  if (above == rules.end()) return kNotReached;
  if (above == rules.begin()) return cost(*above);
  const Rule& below = *(above - 1);
  const double part = (recall - below.bound()) / (above->bound() - below.bound());
  return cost(below) + part * (cost(*above) - cost(below));
}

double cost_of(const std::vector<Rule>& rules, double scale) {
  double total = 0.0;
  for (const double recall : kJudgedAt) total += cost_at(rules, recall, scale);
  return total;
}

// In the order of their bounds, without those that reach no more than one before them.
void append_rising(std::vector<Rule>& rules, const Rule& rule) {
  if (rules.empty() || rule.bound() > rules.back().bound()) rules.push_back(rule);
}

}  // namespace

void RuleGrid::add(const std::vector<Ends>& ends, const WalkRules& rules, std::size_t first, std::size_t last) {
  const bool make_rules = points_.empty();
  std::array<std::vector<Rule>, kBuckets> beams;
  for (std::size_t e = first; e < last && !enough(); ++e) {
    CalibrationPoint point;
    point.ef = kEfs[e];
    point.queries = static_cast<std::uint32_t>(ends.size());
    for (std::size_t b = 0; b < kBuckets; ++b) {
      const Rule beam = measure(ends, e, kNearParts.size(), b);
      point.recall[b] = beam.recall;
      point.error[b] = beam.error;
      if (kEfs[e] >= kCalibratedKs[b]) append_rising(beams[b], beam);
    }
    points_.push_back(point);
  }
  if (!make_rules || !rules.ends_early || last == first) return;
  for (std::size_t b = 0; b < kBuckets; ++b) {
    double least = cost_of(beams[b], rules.beam_scale);
    for (const double spare : kSpares) {
      std::vector<Rule> family;
      for (std::size_t p = 0; p < kNearParts.size(); ++p) {
        const double length = measure(ends, last - 1, p, b).hops / rules.beam_scale;
        const double width = std::max(spare * length, static_cast<double>(kCalibratedKs[b]));
        std::size_t e = first;
        while (e + 1 < last && kEfs[e] < width) ++e;
        append_rising(family, measure(ends, e, p, b));
      }
      const double cost = cost_of(family, rules.beam_scale);
      if (cost >= least) continue;
      least = cost;
      rules_[b] = std::move(family);
    }
    // Where little is asked for, a beam may still be cheaper: without the rules up to there, but for the last of them.
    const auto cheaper = std::find_if(rules_[b].begin(), rules_[b].end(), [&](const Rule& rule) {
      return cost_at(rules_[b], rule.bound(), rules.beam_scale) < cost_at(beams[b], rule.bound(), rules.beam_scale);
    });
    rules_[b].erase(rules_[b].begin(), cheaper == rules_[b].begin() ? cheaper : cheaper - 1);
  }
}

bool RuleGrid::enough() const noexcept {
  return !points_.empty() && *std::min_element(points_.back().recall.begin(), points_.back().recall.end()) >= kEnough;
}

RecallTable RuleGrid::table() && { return {std::move(points_), std::move(rules_)}; }

}  // namespace vicinal::graph
