// Walks that were recorded, and where each rule would have ended them.
//
// A walk that ends sooner is the beginning of one that ends later. So one long walk for each query, recorded, tells of
// every beam width and of every early end at once: when each would have stopped, and what would have been found by
// then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "graph/calibration.hpp"

namespace vicinal::graph {

inline constexpr std::array<std::uint32_t, 30> kEfs{4,   6,   8,   10,  13,  16,  20,   25,   30,   36,
                                                    44,  54,  66,  80,  98,  120, 148,  180,  220,  270,
                                                    330, 400, 500, 600, 750, 900, 1100, 1350, 1650, 2000};
inline constexpr std::array<float, 33> kNearParts{1.40F, 1.30F, 1.22F, 1.16F, 1.12F, 1.09F,  1.07F, 1.05F, 1.035F,
                                                  1.02F, 1.01F, 1.00F, 0.99F, 0.98F, 0.965F, 0.95F, 0.93F, 0.91F,
                                                  0.88F, 0.85F, 0.82F, 0.79F, 0.76F, 0.73F,  0.70F, 0.67F, 0.64F,
                                                  0.60F, 0.56F, 0.51F, 0.45F, 0.38F, 0.30F};

// The true neighbours of a query.
struct Truth {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ranks;  // (row, rank), by row
  std::array<std::uint32_t, kCalibratedKs.size()> within{};    // rows at most as far as the k-th
  std::array<std::uint32_t, kCalibratedKs.size()> wanted{};    // k, or as many as there are
};

// The nodes that a walk expanded, in order.
struct Walk {
  const std::uint32_t* rows = nullptr;
  const float* chosen_at = nullptr;  // the distance by which it was the nearest candidate
  const float* counted = nullptr;    // what a beam's width compares with that; infinite: not counted
  const float* own = nullptr;        // its own distance; infinite: may not be returned
  std::size_t n = 0;
};

// What a walk does besides.
struct WalkRules {
  double beam_scale = 1.0;  // nodes of a beam, per unit of ef
  bool ends_early = true;
  bool ties_count = false;  // a counted node as far as the next candidate ends a beam like a nearer one
  std::size_t (*rerank)(std::size_t k) = nullptr;  // rows whose exact distances are taken
  double hops_per_beam = 0.0;                      // most nodes that are expanded, by the beam; 0: no limit
  double hops_besides = 0.0;
  // Of a walk that keeps matches: their share of the rows. It goes on until enough of them are nearer, see
  // matches_for().
  double kept_share = 0.0;
};

// Where one walk would have ended, and the recall by then, for efs [first, last) of kEfs.
struct Ends {
  struct End {
    std::uint32_t hops = 0;
    float recall = 0.0F;
  };
  std::array<std::array<End, kCalibratedKs.size()>, kEfs.size()> of_ef{};
  std::array<std::array<End, kCalibratedKs.size()>, kNearParts.size()> of_part{};
};

[[nodiscard]] Ends ends_of(const Walk& walk, const Truth& truth, const WalkRules& rules, std::size_t first,
                           std::size_t last);

// Recall and cost of every pair of a beam width and an early end, and the pairs to choose from.
class RuleGrid {
 public:
  // Widths [first, last) of kEfs, from these walks, as far as anything is missed. Those of the first call make the
  // rules.
  void add(const std::vector<Ends>& ends, const WalkRules& rules, std::size_t first, std::size_t last);
  [[nodiscard]] bool enough() const noexcept;  // the widest beam so far misses almost nothing
  [[nodiscard]] RecallTable table() &&;

 private:
  std::vector<CalibrationPoint> points_;
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules_;
};

}  // namespace vicinal::graph
