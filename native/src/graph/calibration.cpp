#include "graph/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
// A bound that holds with about this many standard errors.
constexpr double kConfidence = 1.0;
// Misses that a sample without any may still stand for.
constexpr double kUnseen = 0.25;
// Past the table misses are taken to fall as 1 / ef, which is slower than measured; further than this it is not known.
constexpr double kReach = 4.0;
constexpr double kMissMin = 1e-5;
// An early end costs some per cent of every hop; it has to save more of them.
constexpr double kWorthwhile = 1.1;

struct Between {
  std::size_t low;
  std::size_t high;
  double part;  // of the way from low to high
};

// Buckets around k, and its place between them over log k.
Between around(std::size_t k) {
  const auto* above = std::lower_bound(kCalibratedKs.begin(), kCalibratedKs.end(), k);
  if (above == kCalibratedKs.end()) return {kBuckets - 1, kBuckets - 1, 0.0};
  const auto high = static_cast<std::size_t>(above - kCalibratedKs.begin());
  if (*above == k) return {high, high, 0.0};
  const double low_k = std::log(static_cast<double>(kCalibratedKs[high - 1]));
  const double high_k = std::log(static_cast<double>(kCalibratedKs[high]));
  return {high - 1, high, (std::log(static_cast<double>(k)) - low_k) / (high_k - low_k)};
}

double miss_of(double recall) { return std::max(1.0 - recall, kMissMin); }

}  // namespace

double Rule::bound() const noexcept {
  return recall - kConfidence * std::max<double>(error, kUnseen / static_cast<double>(std::max(queries, 1U)));
}

RecallTable::RecallTable(std::vector<CalibrationPoint> points,
                         std::array<std::vector<Rule>, kCalibratedKs.size()> rules)
    : points_(std::move(points)), rules_(std::move(rules)) {}

// Where the lower bound of the bucket's recall reaches what is asked. Bounds are made to ascend, as recall does.
double RecallTable::log_ef_for(std::size_t bucket, double recall) const {
  const double wanted = std::log(1.0 - recall);
  double miss_before = 0.0;
  double ef_before = 0.0;
  double miss = std::numeric_limits<double>::infinity();
  double log_ef = 0.0;
  for (const CalibrationPoint& p : points_) {
    const double error = std::max<double>(p.error[bucket], kUnseen / static_cast<double>(p.queries));
    const double here = std::log(miss_of(p.recall[bucket] - kConfidence * error));
    log_ef = std::log(static_cast<double>(p.ef));
    if (here <= wanted) {
      if (!std::isfinite(miss) || miss <= here) return log_ef;
      return ef_before + (miss_before - wanted) / (miss_before - here) * (log_ef - ef_before);
    }
    miss = std::min(miss, here);
    miss_before = miss;
    ef_before = log_ef;
  }
  const double further = log_ef + (miss - wanted);
  return further - log_ef <= std::log(kReach) ? further : std::numeric_limits<double>::infinity();
}

double RecallTable::log_miss_at(std::size_t bucket, double log_ef) const {
  const CalibrationPoint* before = nullptr;
  for (const CalibrationPoint& p : points_) {
    const double at = std::log(static_cast<double>(p.ef));
    if (at >= log_ef) {
      const double miss = std::log(miss_of(p.recall[bucket]));
      if (before == nullptr || at == log_ef) return miss;
      const double low = std::log(static_cast<double>(before->ef));
      const double low_miss = std::log(miss_of(before->recall[bucket]));
      return low_miss + (log_ef - low) / (at - low) * (miss - low_miss);
    }
    before = &p;
  }
  const double last = std::log(static_cast<double>(points_.back().ef));
  return std::max(std::log(miss_of(points_.back().recall[bucket])) - (log_ef - last), std::log(kMissMin));
}

// By the beam alone.
RecallTable::Choice RecallTable::by_beam(std::size_t bucket, double recall) const {
  const double log_ef = log_ef_for(bucket, recall);
  return {log_ef, 0.0, std::isfinite(log_ef) ? log_miss_at(bucket, log_ef) : 0.0};
}

// Between the two rules whose bounds lie about what is asked, with the wider beam of both: where recall rises steeply,
// one half way might cut off what it takes. Before the first and past the last rule by the beam alone.
RecallTable::Choice RecallTable::choice(std::size_t bucket, double recall) const {
  const std::vector<Rule>& rules = rules_[bucket];
  const auto above = std::lower_bound(rules.begin(), rules.end(), recall,
                                      [](const Rule& rule, double asked) { return rule.bound() < asked; });
  if (above == rules.end() || (above == rules.begin() && above->bound() > recall)) return by_beam(bucket, recall);
  const double log_ef = std::log(static_cast<double>(above->ef));
  const double log_miss = std::log(miss_of(above->recall));
  if (above == rules.begin()) return {log_ef, above->near_part, log_miss};
  const Rule& below = *(above - 1);
  const double low = std::log(miss_of(below.bound()));
  const double high = std::log(miss_of(above->bound()));
  const double part = low > high ? (low - std::log(1.0 - recall)) / (low - high) : 1.0;
  const double low_miss = std::log(miss_of(below.recall));
  return {log_ef, below.near_part + part * (above->near_part - below.near_part),
          low_miss + part * (log_miss - low_miss)};
}

Beam RecallTable::choose(std::size_t k, double recall, std::size_t widest) const {
  const Between b = around(k);
  Choice low = choice(b.low, recall);
  Choice high = b.high == b.low ? low : choice(b.high, recall);
  if ((low.near_part > 0.0) != (high.near_part > 0.0)) {  // nothing lies between an early end and none
    low = by_beam(b.low, recall);
    high = by_beam(b.high, recall);
  }
  const double log_ef = low.log_ef + b.part * (high.log_ef - low.log_ef);
  if (!std::isfinite(log_ef)) return {};
  const auto ef = std::max(k, static_cast<std::size_t>(std::ceil(std::exp(log_ef) - 1e-6)));
  if (ef > widest) return {};
  const auto near_part = static_cast<float>(low.near_part + b.part * (high.near_part - low.near_part));
  if (!(near_part > 0.0F)) return {ef, expected(k, ef)};
  const double miss = std::exp(low.log_miss + b.part * (high.log_miss - low.log_miss));
  return {ef, miss <= kMissMin ? 1.0 : 1.0 - miss, near_part};
}

std::optional<RecallTable::Choice> RecallTable::by_hops(std::size_t bucket, double hops) const {
  const std::vector<Rule>& rules = rules_[bucket];
  const auto above = std::find_if(rules.begin(), rules.end(), [&](const Rule& rule) { return rule.hops >= hops; });
  if (above == rules.end() || above == rules.begin()) return std::nullopt;
  const Rule& below = *(above - 1);
  const double low = std::log(static_cast<double>(below.hops));
  const double high = std::log(static_cast<double>(above->hops));
  const double part = high > low ? (std::log(hops) - low) / (high - low) : 1.0;
  const double low_miss = std::log(miss_of(below.recall));
  return Choice{std::log(static_cast<double>(above->ef)), below.near_part + part * (above->near_part - below.near_part),
                low_miss + part * (std::log(miss_of(above->recall)) - low_miss)};
}

double RecallTable::log_ef_missing(std::size_t bucket, double log_miss) const {
  const auto above = std::find_if(points_.begin(), points_.end(), [&](const CalibrationPoint& p) {
    return std::log(miss_of(p.recall[bucket])) <= log_miss;
  });
  if (above == points_.end()) return std::numeric_limits<double>::infinity();
  const double high = std::log(static_cast<double>(above->ef));
  if (above == points_.begin()) return high;
  const double low = std::log(static_cast<double>((above - 1)->ef));
  const double low_miss = std::log(miss_of((above - 1)->recall[bucket]));
  const double high_miss = std::log(miss_of(above->recall[bucket]));
  return low + (low_miss - log_miss) / (low_miss - high_miss) * (high - low);
}

Beam RecallTable::same_work(std::size_t k, std::size_t ef, double hops, std::size_t widest) const {
  const Beam plain{ef, expected(k, ef)};
  const Between b = around(k);
  const std::optional<Choice> low = by_hops(b.low, hops);
  const std::optional<Choice> high = b.high == b.low ? low : by_hops(b.high, hops);
  if (!low || !high || !(low->near_part > 0.0) || !(high->near_part > 0.0)) return plain;
  const double gain = std::min(log_ef_missing(b.low, low->log_miss), log_ef_missing(b.high, high->log_miss)) -
                      std::log(static_cast<double>(ef));
  if (!(gain >= std::log(kWorthwhile))) return plain;
  const double log_ef = low->log_ef + b.part * (high->log_ef - low->log_ef);
  const auto width = std::max({k, ef, static_cast<std::size_t>(std::ceil(std::exp(log_ef) - 1e-6))});
  if (width > widest) return plain;
  const double miss = std::exp(low->log_miss + b.part * (high->log_miss - low->log_miss));
  return {width, miss <= kMissMin ? 1.0 : 1.0 - miss,
          static_cast<float>(low->near_part + b.part * (high->near_part - low->near_part))};
}

namespace {

// y at x by rules of ascending x, between two of them in a straight line.
template <class X, class Y>
double along(const std::vector<Rule>& rules, double x, const X& x_of, const Y& y_of) {
  const auto above = std::find_if(rules.begin(), rules.end(), [&](const Rule& rule) { return x_of(rule) >= x; });
  if (above == rules.end()) return y_of(rules.back());
  if (above == rules.begin()) return y_of(rules.front());
  const Rule& below = *(above - 1);
  const double gap = x_of(*above) - x_of(below);
  const double part = gap > 0.0 ? (x - x_of(below)) / gap : 1.0;
  return y_of(below) + part * (y_of(*above) - y_of(below));
}

double log_hops(const Rule& rule) { return std::log(std::max(static_cast<double>(rule.hops), 1.0)); }

}  // namespace

std::optional<double> RecallTable::hops_of(std::size_t k, float near_part) const {
  const Between b = around(k);
  if (rules_[b.low].empty() || rules_[b.high].empty()) return std::nullopt;
  const auto at = [&](std::size_t bucket) {
    return along(
        rules_[bucket], -static_cast<double>(near_part),
        [](const Rule& r) { return -static_cast<double>(r.near_part); }, log_hops);
  };
  return std::exp(at(b.low) + b.part * (at(b.high) - at(b.low)));
}

std::optional<float> RecallTable::near_part_of(std::size_t k, double hops) const {
  const Between b = around(k);
  if (rules_[b.low].empty() || rules_[b.high].empty()) return std::nullopt;
  const auto at = [&](std::size_t bucket) {
    return along(rules_[bucket], std::log(hops), log_hops,
                 [](const Rule& r) { return static_cast<double>(r.near_part); });
  };
  return static_cast<float>(at(b.low) + b.part * (at(b.high) - at(b.low)));
}

double RecallTable::expected(std::size_t k, std::size_t ef) const {
  const Between b = around(k);
  const double log_ef = std::log(static_cast<double>(ef));
  const double low = log_miss_at(b.low, log_ef);
  const double high = b.high == b.low ? low : log_miss_at(b.high, log_ef);
  const double miss = std::exp(low + b.part * (high - low));
  return miss <= kMissMin ? 1.0 : 1.0 - miss;
}

Calibration::Calibration(std::uint64_t rows, bool given, RecallTable plain, std::vector<FilteredTable> filtered)
    : rows_(rows), given_(given), plain_(std::move(plain)), filtered_(std::move(filtered)) {}

Beam Calibration::choose(std::size_t k, double recall) const {
  // A walk so wide meets most rows, one by one and in no order: a scan is faster.
  return plain_.choose(k, recall, std::min<std::size_t>(kBeamMax, rows_ / kScanPerEf));
}

Beam Calibration::same_work(std::size_t k, std::size_t ef, double nodes_per_ef) const {
  const std::size_t widest = std::min<std::size_t>(
      rows_ / kScanPerEf, static_cast<std::size_t>(static_cast<double>(kPackedBeamMax) / std::max(nodes_per_ef, 1.0)));
  return plain_.same_work(k, ef, static_cast<double>(ef) * nodes_per_ef, widest);
}

const FilteredTable* Calibration::filtered(bool two_hop, double share) const noexcept {
  const FilteredTable* best = nullptr;
  const auto apart = [&](const FilteredTable& t) { return std::fabs(std::log(static_cast<double>(t.share) / share)); };
  for (const FilteredTable& t : filtered_) {
    if (t.two_hop == two_hop && (best == nullptr || apart(t) < apart(*best))) best = &t;
  }
  return best;
}

Beam Calibration::choose_filtered(const FilteredTable& table, double share, std::size_t k, double recall) const {
  const auto widest = static_cast<double>(std::min<std::size_t>(kBeamMax, rows_ / kScanPerEf));
  const double wider = table.wider(share);
  Beam beam = table.table.choose(k, recall, static_cast<std::size_t>(widest / wider));
  beam.ef = static_cast<std::size_t>(std::ceil(static_cast<double>(beam.ef) * wider));
  return beam;
}

}  // namespace vicinal::graph
