// What recall a beam width gives on the index's own data: a table measured with queries that the graph has never held,
// and the choice of a beam by it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
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

// A beam width, and the recall to expect from it.
struct Beam {
  std::size_t ef = 0;  // 0: no beam is known to reach what was asked; scan
  double recall = 1.0;
};

class Calibration {
 public:
  Calibration() = default;
  // points: ascending ef, at least one.
  Calibration(std::uint64_t rows, bool given, std::vector<CalibrationPoint> points);

  // The narrowest beam that reaches `recall` by a lower confidence bound, 0 < recall < 1, 1 <= k <= kCalibratedMax.
  [[nodiscard]] Beam choose(std::size_t k, double recall) const;
  // The recall to expect; k past the table counts as its last.
  [[nodiscard]] double expected(std::size_t k, std::size_t ef) const;

  [[nodiscard]] const std::vector<CalibrationPoint>& points() const noexcept { return points_; }
  [[nodiscard]] std::uint64_t rows() const noexcept { return rows_; }  // in the graph when it was measured
  [[nodiscard]] bool given() const noexcept { return given_; }         // by queries of the caller

  // As bytes, and back; parse() throws std::invalid_argument for bytes that are no table.
  [[nodiscard]] std::vector<std::byte> bytes() const;
  [[nodiscard]] static Calibration parse(const std::byte* data, std::size_t n);

 private:
  [[nodiscard]] double log_ef_for(std::size_t bucket, double recall) const;  // infinity: none
  [[nodiscard]] double log_miss_at(std::size_t bucket, double log_ef) const;

  std::uint64_t rows_ = 0;
  bool given_ = false;
  std::vector<CalibrationPoint> points_;
};

}  // namespace vicinal::graph
