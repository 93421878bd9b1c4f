// Every threshold of the graph index, in one place.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace vicinal::graph {

inline constexpr std::size_t kRowsMax = UINT32_MAX - 1;

// The bounds of vicinal.model.limits (K_MAX, EF_MAX, THREADS_MAX, BATCH_QUERIES_MAX).
inline constexpr std::size_t kResultsMax = 10000;
inline constexpr std::size_t kBeamMax = 100000;
inline constexpr unsigned kThreadsMax = 256;
inline constexpr std::size_t kQueriesMax = 1'000'000;
// Of SearchParameters::near_part: more would end walks before they have begun.
inline constexpr float kNearPartMax = 4.0F;

// Below so many rows an exact scan answers as fast as a graph does.
inline constexpr std::size_t kGraphRowsMin = 1000;

// Queries of one batch call that take turns on a thread.
inline constexpr std::size_t kInFlight = 4;
// Queries that are encoded, traversed and reranked together.
inline constexpr std::size_t kChunk = 32;

// Rows whose exact distance is taken for k results, at most ef: k * 3 / 2 + 6 loses no recall that a longer list keeps.
[[nodiscard]] constexpr std::size_t rerank_for(std::size_t k, std::size_t ef) noexcept {
  const std::size_t wanted = k + k / 2 + 6;
  return wanted < ef ? wanted : ef;
}

// Nodes that the packed form expands for ef_search: `scale` times as many as the codes for equal recall, and more with
// the share of removed rows, which count here.
[[nodiscard]] constexpr std::size_t packed_beam_for(std::size_t ef, float scale, std::size_t matches,
                                                    std::size_t rows) noexcept {
  if (matches == 0) return SIZE_MAX;
  return static_cast<std::size_t>(static_cast<double>(ef) * static_cast<double>(scale) * static_cast<double>(rows) /
                                  static_cast<double>(matches));
}
// Past it the codes are searched: the packed form's candidate list grows with the beam, and with it every hop.
inline constexpr std::size_t kPackedBeamMax = 4096;

// With a filter, few matches are compared one by one: their codes, then the exact distances of the best. It costs less
// than a walk of codes up to about this many, and than one of packed rows while it is less than so many a node.
[[nodiscard]] constexpr std::size_t scan_matches_for(std::size_t ef) noexcept { return 2000 + 120 * ef; }
inline constexpr std::size_t kScanPerNode = 12;
// These best are compared exactly in two rounds. Where the second still brings something nearer, the codes tell the
// matches apart too coarsely, as they do far from the query. What the rounding of the codes amounts to is then found by
// some of all matches, and every match is compared that may be among the nearest by so many standard deviations.
[[nodiscard]] constexpr std::size_t scan_round_for(std::size_t k) noexcept { return 2 * k + 32; }
inline constexpr std::size_t kScanSample = 128;
inline constexpr double kScanMargin = 2.5;
// A smaller share than this is walked over bridges, a larger one as if there were no filter. Bridges are walked by
// codes only; packed rows are so much cheaper that they pay for more of them.
inline constexpr double kGateShareMin = 0.3;
inline constexpr double kPackedGateShareMin = 0.05;
inline constexpr std::size_t kMatchEntries = 16;
// A walk among matches far from the query ends in the wrong place (they lie on all sides of it). So a first look, a
// walk without the filter, expects this many matches; where it meets less than a quarter of them, all matches are
// compared.
inline constexpr double kLookMatches = 4.0;
inline constexpr std::size_t kLookMin = 32;
inline constexpr std::size_t kLookMax = 512;
inline constexpr double kLostPart = 0.25;
[[nodiscard]] constexpr std::size_t look_for(double share) noexcept {
  const double wanted = kLookMatches / share;
  if (wanted < static_cast<double>(kLookMin)) return kLookMin;
  return wanted < static_cast<double>(kLookMax) ? static_cast<std::size_t>(wanted) : kLookMax;
}
// A walk that keeps matches ends as one without a filter does, with as many rows as its beam is wide, and goes on only
// while it has settled fewer matches than two and a half times the results: with twice as many, recall was hardly 0.95
// where one row in ten matches.
[[nodiscard]] constexpr std::size_t matches_for(std::size_t k, std::size_t beam) noexcept {
  const std::size_t wanted = k * 5 / 2;
  return wanted < beam ? wanted : beam;
}
// Rows that such a walk expands where matches are everywhere.
[[nodiscard]] constexpr double rows_for(double beam, double enough, double share) noexcept {
  return beam > enough / share ? beam : enough / share;
}
// And at most: as many as hold enough where matches are as few as they may be, see kLostPart.
[[nodiscard]] constexpr std::size_t nodes_for(std::size_t beam, std::size_t enough, double share) noexcept {
  const std::size_t rows = beam + beam / 2 + 32;
  const auto few = static_cast<std::size_t>(static_cast<double>(enough) / (share * kLostPart));
  return rows > few ? rows : few;
}
// A walk has failed when comparing all matches would be done by now; a hop costs about as much as 32 of them.
[[nodiscard]] constexpr std::size_t hops_max_for(std::size_t ef, std::size_t matches) noexcept {
  return 2 * ef + matches / 32;
}

// From so many queries a batch is answered region by region, where a packed row has so many bytes: shorter ones gain
// less than choosing the regions costs. A region is what is nearest to one of some rows by the first dimensions.
inline constexpr std::size_t kOrderedMin = 256;
inline constexpr std::size_t kOrderedRowBytes = 4096;
inline constexpr std::size_t kRegions = 16;
inline constexpr std::size_t kRegionDims = 128;

// A beam of more than a share of 1 / this of the rows costs more than a scan of all of them.
inline constexpr std::size_t kScanPerEf = 8;

// An inserted row chooses its neighbours among so many of the nearest rows its search found.
inline constexpr std::size_t kPruneCandidates = 256;
// A neighbour is left out where a chosen one is nearer to it by this factor (of real, not squared, distance). Where
// that leaves room, the factor grows to the second one: sparse neighbourhoods (gist) need the edges, dense ones (text)
// must not spend theirs on near rows.
inline constexpr float kAlpha = 1.02F;
inline constexpr float kAlphaMax = 1.2F;
inline constexpr float kAlphaStep = 1.1F;
// Edges to a row that no other row's pruning takes away: with fewer, a row is hard to find or cannot be.
inline constexpr std::uint16_t kInDegreeKept = 8;
// For each inserted row so many old ones are looked for, whether the graph still leads to them.
inline constexpr std::size_t kFindOld = 2;
// Rows inserted side by side, as a share of those already there: they do not see one another.
inline constexpr std::size_t kBatchShare = 50;
inline constexpr std::size_t kBatchMax = 4096;

// A bulk load begins row by row; from so many on, rows come many at once and find one another in leaves: several times
// as many as are there, at most so many.
inline constexpr std::size_t kLeavesFrom = 512;
inline constexpr std::size_t kLeavesGrowth = 4;
inline constexpr std::size_t kLeavesMax = std::size_t{1} << 20;
// Leaves that a row is in, and leaders that leaves form around. Rows with their nearest ones in another leaf are what
// recall suffers from: where fewer leaves bring so many of near rows together, fewer will do.
inline constexpr std::size_t kLeafOverlap = 16;
inline constexpr std::size_t kLeafOverlapMin = 8;
inline constexpr double kLeafTogether = 0.98;
inline constexpr std::size_t kLeadersMax = 8192;
// The more rows, the larger the leaves, up to a bound: else too many rows have their nearest in another one.
inline constexpr std::size_t kLeavesSpan = 24;
// One row in so many is in the sample whose nearest rows become long edges.
inline constexpr std::size_t kLeafSample = 8;

}  // namespace vicinal::graph
