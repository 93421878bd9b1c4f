#include "graph/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
constexpr std::size_t kPointsMax = 64;

// A bound that holds with about this many standard errors.
constexpr double kConfidence = 1.0;
// Misses that a sample without any may still stand for.
constexpr double kUnseen = 0.25;
// Past the table misses are taken to fall as 1 / ef, which is slower than measured; further than this it is not known.
constexpr double kReach = 4.0;
constexpr double kMissMin = 1e-5;

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

template <class T>
void put(std::vector<std::byte>& out, const T& value) {
  const auto* p = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), p, p + sizeof(value));
}

struct Head {
  std::uint64_t rows = 0;
  std::uint32_t given = 0;
  std::uint32_t points = 0;
};

}  // namespace

Calibration::Calibration(std::uint64_t rows, bool given, std::vector<CalibrationPoint> points)
    : rows_(rows), given_(given), points_(std::move(points)) {}

// Where the lower bound of the bucket's recall reaches what is asked. Bounds are made to ascend, as recall does.
double Calibration::log_ef_for(std::size_t bucket, double recall) const {
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

double Calibration::log_miss_at(std::size_t bucket, double log_ef) const {
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

Beam Calibration::choose(std::size_t k, double recall) const {
  const Between b = around(k);
  const double low = log_ef_for(b.low, recall);
  const double high = b.high == b.low ? low : log_ef_for(b.high, recall);
  const double log_ef = low + b.part * (high - low);
  if (!std::isfinite(log_ef)) return {};
  const auto ef = std::max(k, static_cast<std::size_t>(std::ceil(std::exp(log_ef))));
  // A walk so wide meets most rows, one by one and in no order: a scan is faster.
  if (ef > kBeamMax || ef * kScanPerEf > rows_) return {};
  return {ef, expected(k, ef)};
}

double Calibration::expected(std::size_t k, std::size_t ef) const {
  const Between b = around(k);
  const double log_ef = std::log(static_cast<double>(ef));
  const double low = log_miss_at(b.low, log_ef);
  const double high = b.high == b.low ? low : log_miss_at(b.high, log_ef);
  const double miss = std::exp(low + b.part * (high - low));
  return miss <= kMissMin ? 1.0 : 1.0 - miss;
}

std::vector<std::byte> Calibration::bytes() const {
  std::vector<std::byte> out;
  put(out, Head{rows_, given_ ? 1U : 0U, static_cast<std::uint32_t>(points_.size())});
  for (const CalibrationPoint& p : points_) put(out, p);
  return out;
}

Calibration Calibration::parse(const std::byte* data, std::size_t n) {
  static_assert(sizeof(CalibrationPoint) == 8 + 8 * kBuckets);
  Head head;
  if (n < sizeof(head)) throw std::invalid_argument("the calibration is cut short");
  std::memcpy(&head, data, sizeof(head));
  if (head.given > 1 || head.points == 0 || head.points > kPointsMax ||
      n != sizeof(head) + head.points * sizeof(CalibrationPoint)) {
    throw std::invalid_argument("the calibration's size does not fit its counts");
  }
  std::vector<CalibrationPoint> points(head.points);
  std::memcpy(points.data(), data + sizeof(head), head.points * sizeof(CalibrationPoint));
  std::uint32_t before = 0;
  for (const CalibrationPoint& p : points) {
    bool sound = p.ef > before && p.ef <= kBeamMax && p.queries > 0;
    for (std::size_t b = 0; b < kBuckets; ++b) {
      sound = sound && p.recall[b] >= 0.0F && p.recall[b] <= 1.0F && p.error[b] >= 0.0F && p.error[b] <= 1.0F;
    }
    if (!sound) throw std::invalid_argument("the calibration holds numbers outside their ranges");
    before = p.ef;
  }
  return {head.rows, head.given == 1, std::move(points)};
}

}  // namespace vicinal::graph
