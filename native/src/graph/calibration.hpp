// What recall a search gives on the index's own data: tables measured with queries that the graph has never held, and
// the choice of a beam, and of an early end, by them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace vicinal::graph {

// Numbers of results for which recall is measured; between them it is interpolated over log k.
inline constexpr std::array<std::size_t, 7> kCalibratedKs{1, 2, 5, 10, 20, 50, 100};
inline constexpr std::size_t kCalibratedMax = kCalibratedKs.back();

// Recall at one beam width, for each of kCalibratedKs.
struct CalibrationPoint {
  std::uint32_t ef = 0;
  std::uint32_t queries = 0;
  std::array<float, kCalibratedKs.size()> recall{};  // mean over the queries
  std::array<float, kCalibratedKs.size()> error{};   // its standard error
};

// How walks may end, and what it gives for one of kCalibratedKs.
struct Rule {
  float near_part = 0.0F;  // as in SearchParameters; 0: by the beam alone
  std::uint32_t ef = 0;
  std::uint32_t queries = 0;
  float recall = 0.0F;
  float error = 0.0F;
  float hops = 0.0F;  // nodes expanded, on average

  [[nodiscard]] double bound() const noexcept;  // a recall that is reached with some confidence
};

// How to search, and the recall to expect.
struct Beam {
  std::size_t ef = 0;  // 0: no beam is known to reach what was asked; scan
  double recall = 1.0;
  float near_part = 0.0F;
};

// What was measured of one kind of walk.
class RecallTable {
 public:
  RecallTable() = default;
  // points: ascending ef, at least one. rules: for each of kCalibratedKs, ascending bound; any may be empty.
  RecallTable(std::vector<CalibrationPoint> points, std::array<std::vector<Rule>, kCalibratedKs.size()> rules);

  // The cheapest search measured that reaches `recall` by a lower confidence bound, 0 < recall < 1, 1 <= k <=
  // kCalibratedMax. No wider than `widest`.
  [[nodiscard]] Beam choose(std::size_t k, double recall, std::size_t widest) const;
  // A search with an early end that expands about `hops` nodes, as a beam of width ef does, where it finds so much more
  // that it is worth its own cost; else, and where it would be wider than `widest`, that beam.
  [[nodiscard]] Beam same_work(std::size_t k, std::size_t ef, double hops, std::size_t widest) const;
  // Nodes expanded with such an early end, and the end for so many, as far as rules tell; none where there are none.
  [[nodiscard]] std::optional<double> hops_of(std::size_t k, float near_part) const;
  [[nodiscard]] std::optional<float> near_part_of(std::size_t k, double hops) const;
  // The recall to expect of a beam with no early end; k past the table counts as its last.
  [[nodiscard]] double expected(std::size_t k, std::size_t ef) const;

  [[nodiscard]] const std::vector<CalibrationPoint>& points() const noexcept { return points_; }
  [[nodiscard]] const std::vector<Rule>& rules(std::size_t bucket) const noexcept { return rules_[bucket]; }

 private:
  struct Choice {
    double log_ef;  // infinity: none
    double near_part;
    double log_miss;  // expected
  };
  [[nodiscard]] Choice choice(std::size_t bucket, double recall) const;
  [[nodiscard]] std::optional<Choice> by_hops(std::size_t bucket, double hops) const;
  [[nodiscard]] double log_ef_missing(std::size_t bucket, double log_miss) const;  // the beam that is expected to
  [[nodiscard]] Choice by_beam(std::size_t bucket, double recall) const;
  [[nodiscard]] double log_ef_for(std::size_t bucket, double recall) const;  // by the points
  [[nodiscard]] double log_miss_at(std::size_t bucket, double log_ef) const;

  std::vector<CalibrationPoint> points_;
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules_;
};

// Walks among the rows of a filter that has nothing to do with the query.
struct FilteredTable {
  bool two_hop = false;
  float share = 0.0F;  // of the rows that match
  RecallTable table;

  // Of a share: how many times as wide a beam holds as many matches. A walk that steps over all others holds no others.
  [[nodiscard]] double wider(double of) const noexcept {
    return two_hop || of >= static_cast<double>(share) ? 1.0 : static_cast<double>(share) / of;
  }
};

class Calibration {
 public:
  Calibration() = default;
  Calibration(std::uint64_t rows, bool given, RecallTable plain, std::vector<FilteredTable> filtered = {});

  [[nodiscard]] Beam choose(std::size_t k, double recall) const;
  [[nodiscard]] double expected(std::size_t k, std::size_t ef) const { return plain_.expected(k, ef); }
  // What is asked for by a beam's width: RecallTable::same_work. nodes_per_ef: that a beam expands.
  [[nodiscard]] Beam same_work(std::size_t k, std::size_t ef, double nodes_per_ef) const;
  // The table of the share nearest to this one that was walked in this way; null: none was measured.
  [[nodiscard]] const FilteredTable* filtered(bool two_hop, double share) const noexcept;
  // As choose(), by such a table, where that share of the rows match.
  [[nodiscard]] Beam choose_filtered(const FilteredTable& table, double share, std::size_t k, double recall) const;

  [[nodiscard]] const std::vector<CalibrationPoint>& points() const noexcept { return plain_.points(); }
  [[nodiscard]] const RecallTable& plain() const noexcept { return plain_; }
  [[nodiscard]] const std::vector<FilteredTable>& filtered() const noexcept { return filtered_; }
  [[nodiscard]] std::uint64_t rows() const noexcept { return rows_; }  // in the graph when it was measured
  [[nodiscard]] bool given() const noexcept { return given_; }         // by queries of the caller

  // As bytes, and back; parse() throws std::invalid_argument for bytes that are no table. Tables of older releases, of
  // beams alone, are read too.
  [[nodiscard]] std::vector<std::byte> bytes() const;
  [[nodiscard]] static Calibration parse(const std::byte* data, std::size_t n);

 private:
  std::uint64_t rows_ = 0;
  bool given_ = false;
  RecallTable plain_;
  std::vector<FilteredTable> filtered_;
};

}  // namespace vicinal::graph
