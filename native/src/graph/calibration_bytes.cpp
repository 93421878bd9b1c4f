// Tables of calibration as bytes: behind the head the plain walk's points, which is all that older releases wrote, then
// its rules, then the filtered walks. Nothing read is believed before it is checked.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "graph/calibration.hpp"
#include "graph/constants.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
constexpr std::uint32_t kCountMax = 64;  // of points, of rules, of filtered walks
constexpr std::uint32_t kGiven = 1;
constexpr std::uint32_t kRules = 2;  // rules and filtered walks follow
// Beams of walks that keep matches are of rows, not of matches as in older releases.
constexpr std::uint32_t kBeamsOfRows = 4;

struct Head {
  std::uint64_t rows = 0;
  std::uint32_t flags = 0;
  std::uint32_t points = 0;
};

struct FilteredHead {
  std::uint32_t two_hop = 0;
  float share = 0.0F;
};

template <class T>
void put(std::vector<std::byte>& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* p = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), p, p + sizeof(value));
}

template <class T>
void put_all(std::vector<std::byte>& out, const std::vector<T>& values) {
  for (const T& value : values) put(out, value);
}

void put_rules(std::vector<std::byte>& out, const RecallTable& table) {
  for (std::size_t b = 0; b < kBuckets; ++b) {
    put(out, static_cast<std::uint32_t>(table.rules(b).size()));
    put_all(out, table.rules(b));
  }
}

struct Reader {
  const std::byte* data;
  std::size_t left;

  template <class T>
  T take() {
    T value;
    if (left < sizeof(T)) throw std::invalid_argument("the calibration is cut short");
    std::memcpy(&value, data, sizeof(T));
    data += sizeof(T);
    left -= sizeof(T);
    return value;
  }
  std::uint32_t count() {
    const auto n = take<std::uint32_t>();
    if (n > kCountMax) throw std::invalid_argument("the calibration's size does not fit its counts");
    return n;
  }
};

void require(bool sound) {
  if (!sound) throw std::invalid_argument("the calibration holds numbers outside their ranges");
}

bool is_share(float x) noexcept { return x >= 0.0F && x <= 1.0F; }  // false for NaN

std::vector<CalibrationPoint> take_points(Reader& in, std::uint32_t n) {
  if (n == 0 || n > kCountMax) throw std::invalid_argument("the calibration's size does not fit its counts");
  std::vector<CalibrationPoint> points;
  std::uint32_t before = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    const auto p = in.take<CalibrationPoint>();
    require(p.ef > before && p.ef <= kBeamMax && p.queries > 0);
    for (std::size_t b = 0; b < kBuckets; ++b) require(is_share(p.recall[b]) && is_share(p.error[b]));
    before = p.ef;
    points.push_back(p);
  }
  return points;
}

std::array<std::vector<Rule>, kBuckets> take_rules(Reader& in) {
  std::array<std::vector<Rule>, kBuckets> rules;
  for (std::size_t b = 0; b < kBuckets; ++b) {
    const std::uint32_t n = in.count();
    for (std::uint32_t i = 0; i < n; ++i) {
      const auto rule = in.take<Rule>();
      require(rule.ef >= kCalibratedKs[b] && rule.ef <= kBeamMax && rule.queries > 0 && is_share(rule.recall) &&
              is_share(rule.error) && rule.hops >= 0.0F && rule.near_part >= 0.0F && rule.near_part <= kNearPartMax);
      require(rules[b].empty() || rule.bound() > rules[b].back().bound());
      rules[b].push_back(rule);
    }
  }
  return rules;
}

// Beams of so many matches as the beams of rows that hold them.
void hold_as_many(std::vector<CalibrationPoint>& points, std::array<std::vector<Rule>, kBuckets>& rules, float share) {
  const auto rows_of = [&](std::uint32_t matches) {
    return static_cast<std::uint32_t>(
        std::min(static_cast<double>(matches) / static_cast<double>(share), static_cast<double>(kBeamMax)));
  };
  for (CalibrationPoint& point : points) point.ef = rows_of(point.ef);
  for (std::vector<Rule>& of_k : rules) {
    for (Rule& rule : of_k) rule.ef = rows_of(rule.ef);
  }
}

}  // namespace

std::vector<std::byte> Calibration::bytes() const {
  std::vector<std::byte> out;
  put(out, Head{rows_, (given_ ? kGiven : 0U) | kRules | kBeamsOfRows, static_cast<std::uint32_t>(points().size())});
  put_all(out, points());
  put_rules(out, plain_);
  put(out, static_cast<std::uint32_t>(filtered_.size()));
  for (const FilteredTable& filtered : filtered_) {
    put(out, FilteredHead{filtered.two_hop ? 1U : 0U, filtered.share});
    put(out, static_cast<std::uint32_t>(filtered.table.points().size()));
    put_all(out, filtered.table.points());
    put_rules(out, filtered.table);
  }
  return out;
}

Calibration Calibration::parse(const std::byte* data, std::size_t n) {
  static_assert(sizeof(CalibrationPoint) == 8 + 8 * kBuckets && sizeof(Rule) == 24);
  Reader in{data, n};
  const auto head = in.take<Head>();
  require((head.flags & ~(kGiven | kRules | kBeamsOfRows)) == 0);
  std::vector<CalibrationPoint> points = take_points(in, head.points);
  std::array<std::vector<Rule>, kBuckets> rules;
  std::vector<FilteredTable> filtered;
  if ((head.flags & kRules) != 0) {
    rules = take_rules(in);
    const std::uint32_t walks = in.count();
    for (std::uint32_t i = 0; i < walks; ++i) {
      const auto way = in.take<FilteredHead>();
      require(way.two_hop <= 1 && is_share(way.share) && way.share > 0.0F);
      std::vector<CalibrationPoint> walk_points = take_points(in, in.count());
      std::array<std::vector<Rule>, kBuckets> walk_rules = take_rules(in);
      if (way.two_hop == 0 && (head.flags & kBeamsOfRows) == 0) hold_as_many(walk_points, walk_rules, way.share);
      filtered.push_back({way.two_hop == 1, way.share, {std::move(walk_points), std::move(walk_rules)}});
    }
  }
  if (in.left != 0) throw std::invalid_argument("the calibration's size does not fit its counts");
  return {head.rows, (head.flags & kGiven) != 0, {std::move(points), std::move(rules)}, std::move(filtered)};
}

}  // namespace vicinal::graph
