// Measuring recall with queries that the graph does not hold.
//
// Rows that the graph holds, or has held, find their neighbours too easily: the edges around them were made for them.
// So link() keeps some rows back until all others are linked, and takes them as queries before it links them too.
#include <algorithm>
#include <array>
#include <limits>
#include <random>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/calibration.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"
#include "graph/keys.hpp"
#include "graph/matches.hpp"
#include "graph/probe.hpp"
#include "graph/walks.hpp"

namespace vicinal::graph {
namespace {

// Rows kept back: one of kHeldShare, whose linking one by one costs about a tenth of a load of so few, and a hundredth
// of a load of a million.
constexpr std::size_t kHeldMax = 1000;
constexpr std::size_t kHeldShare = 20;
constexpr std::size_t kHeldMin = 25;

// Walks of all queries are recorded up to this beam where a first few find almost everything with it, else up to the
// second: the longer a walk, the more it costs to record. Wider beams miss less, and with less spread, so that a part
// of the queries tells as much.
constexpr std::uint32_t kEfEasy = 400;
constexpr std::uint32_t kEfHard = 900;
constexpr std::size_t kQueriesFirst = 100;
constexpr std::size_t kWideShare = 8;

// Filters that have nothing to do with the query: the shares of rows that match. Few queries: half of all that these
// walks could take are enough to tell their recall to a hundredth.
constexpr std::array<double, 3> kFilterShares{0.5, 0.1, 0.01};
constexpr std::size_t kFilterQueries = 500;
// A recorded walk ends with so many times its widest beam, however few matches it has met by then.
constexpr std::size_t kRecordedBeams = 2;

// As many as a walk of codes may expand before it is cut off.
std::size_t hops_for(std::size_t ef) { return 2 * ef + 256; }

std::size_t rerank_codes(std::size_t k) { return rerank_for(k, SIZE_MAX); }
std::size_t rerank_packed(std::size_t k) { return qgraph::rerank_for(k); }

// Of the set, a share by chance, always the same.
std::vector<std::uint64_t> random_rows(const std::uint64_t* among, std::size_t rows, double share) {
  std::vector<std::uint64_t> chosen(among, among + (rows + 63) / 64);
  std::mt19937_64 random(static_cast<std::uint64_t>(share * 1e6));
  const auto limit = static_cast<std::uint64_t>(share * 0x1p64);
  for (std::size_t row = 0; row < rows; ++row) {
    if (random() >= limit) chosen[row / 64] &= ~(std::uint64_t{1} << (row % 64));
  }
  return chosen;
}

}  // namespace

// One kind of walk over rows [0, rows).
struct GraphIndex::Kind {
  std::size_t rows;
  const qgraph::QGraph* form;  // null: codes
  const std::uint64_t* pass;   // null: every row may be returned
  bool two_hop = false;
  double share = 1.0;  // of rows that may be returned
};

WalkRules GraphIndex::rules_of(const Kind& kind) const {
  WalkRules rules;
  if (kind.form != nullptr) {
    rules.beam_scale = packed_scale_.load();
    rules.rerank = &rerank_packed;
    rules.hops_per_beam = 1.5;  // qgraph::Sizes::of
    rules.hops_besides = 32.0;
  } else {
    rules.ends_early = ends_early(codec_.query_kind());
    rules.ties_count = true;
    rules.rerank = &rerank_codes;
  }
  if (kind.share < 1.0 && !kind.two_hop) rules.kept_share = kind.share;
  return rules;
}

std::vector<Ends> GraphIndex::record_packed(const Probe& probe, const Kind& kind, std::size_t n, std::size_t first,
                                            std::size_t last, unsigned threads) const {
  const std::vector<std::uint32_t> entries = entry_points();
  std::vector<Ends> ends(n);
  struct Recorder {
    const Probe& probe;
    WalkRules rules;
    std::size_t from;
    std::size_t first;
    std::size_t last;
    Ends* ends;
    static void rerank(const void*, std::size_t, const std::uint32_t*, std::size_t) noexcept {}
    static void visited(const void* context, std::size_t i, const std::uint32_t* rows, const float* estimates,
                        const float* own, std::size_t count) noexcept {
      const auto& to = *static_cast<const Recorder*>(context);
      const Walk walk{rows, estimates, estimates, own, count};
      to.ends[to.from + i] = ends_of(walk, to.probe.truth[to.from + i], to.rules, to.first, to.last);
    }
  };
  ThreadPool::instance().parallel_for(n, threads, kChunk, [&](std::size_t begin, std::size_t end, unsigned) {
    const Recorder recorder{probe, rules_of(kind), begin, first, last, ends.data()};
    qgraph::SearchOptions options;
    options.k = kCalibratedMax;
    options.ef = packed_beam_for(kEfs[last - 1], packed_scale_.load(), 1, 1);
    if (kind.share < 1.0) {
      options.enough = packed_beam_for(matches_for(kCalibratedMax, kEfs[last - 1]), packed_scale_.load(), 1, 1);
      options.nodes_max = std::min(nodes_for(options.ef, options.enough, kind.share), kRecordedBeams * options.ef);
      options.rows_per_match = static_cast<float>(1.0 / kind.share);
    }
    options.entries = entries.data();
    options.n_entries = entries.size();
    options.pass = kind.pass;
    options.limit = static_cast<std::uint32_t>(kind.rows);
    kind.form->search(reinterpret_cast<const float*>(probe.queries + begin * query_bytes()), end - begin, options,
                      {&recorder, nullptr, 0, &Recorder::rerank, &Recorder::visited});
  });
  return ends;
}

std::vector<Ends> GraphIndex::record(const Probe& probe, const Kind& kind, std::size_t n, std::size_t first,
                                     std::size_t last, unsigned threads) const {
  if (kind.form != nullptr) return record_packed(probe, kind, n, first, last, threads);
  std::vector<std::uint32_t> entries = entry_points();
  if (kind.two_hop) sample_matches(kind.pass, kind.rows, kMatchEntries, entries);
  const std::size_t ef = kEfs[last - 1];
  const std::size_t hops = hops_for(ef);
  std::vector<Ends> ends(n);
  ThreadPool::instance().parallel_for(n, threads, kChunk, [&](std::size_t begin, std::size_t end, unsigned) {
    const auto lease = scratches_.lease();
    Scratch& s = *lease;
    s.prepare(kInFlight, kind.rows, ef);
    std::vector<std::int32_t> keys(kChunk * hops);
    std::vector<std::uint32_t> rows(kChunk * hops);
    std::vector<float> chosen_at(hops);
    std::vector<float> own(hops);
    std::int32_t kept_key = 0;
    std::uint32_t kept_row = 0;
    BeamRequest request;
    request.entries = entries.data();
    request.n_entries = entries.size();
    request.ef = ef;
    request.keep = 1;
    request.pass = kind.pass;
    request.two_hop = kind.two_hop;
    if (kind.share < 1.0 && !kind.two_hop) request.enough = matches_for(kCalibratedMax, ef);
    request.hops_max = hops;
    GraphView g = view(static_cast<std::uint32_t>(kind.rows));
    for (std::size_t at = begin; at < end;) {
      const std::size_t stop = std::min(end, (at / kChunk + 1) * kChunk);
      g.kind = probe.kinds[at / kChunk];
      s.tasks.assign(stop - at, {});
      for (std::size_t i = at; i < stop; ++i) {
        BeamTask& task = s.tasks[i - at];
        task.code = probe.code(i);
        task.rows = &kept_row;
        task.keys = &kept_key;
        task.visited_keys = keys.data() + (i - at) * hops;
        task.visited_rows = rows.data() + (i - at) * hops;
      }
      beam_fns(best_isa()).beam(g, request, s.tasks.data(), stop - at, s.slots(), kInFlight);
      WalkRules rules = rules_of(kind);
      rules.ends_early = ends_early(g.kind);
      for (std::size_t i = at; i < stop; ++i) {
        const BeamTask& task = s.tasks[i - at];
        for (std::size_t h = 0; h < task.hops; ++h) {
          chosen_at[h] = key_value(g.kind, task.visited_keys[h]);
          const bool may = kind.pass == nullptr || test_bit(kind.pass, task.visited_rows[h]);
          own[h] = may ? chosen_at[h] : std::numeric_limits<float>::infinity();
        }
        const float* counted = request.enough == 0 ? own.data() : chosen_at.data();
        const Walk walk{task.visited_rows, chosen_at.data(), counted, own.data(), task.hops};
        ends[i] = ends_of(walk, probe.truth[i], rules, first, last);
      }
      at = stop;
    }
  });
  return ends;
}

RecallTable GraphIndex::measure_kind(const Probe& probe, const Kind& kind, unsigned threads) const {
  const auto widths_to = [](auto&& fits) {
    return static_cast<std::size_t>(std::find_if_not(kEfs.begin(), kEfs.end(), fits) - kEfs.begin());
  };
  const float scale = packed_scale_.load();
  const auto fits_packed = [&](std::uint32_t ef) { return packed_beam_for(ef, scale, 1, 1) <= kPackedBeamMax; };
  const std::size_t packed = kind.form == nullptr ? kEfs.size() : widths_to(fits_packed);
  const std::size_t easy = std::min(packed, widths_to([](std::uint32_t ef) { return ef <= kEfEasy; }));
  const std::size_t hard = std::min(packed, widths_to([](std::uint32_t ef) { return ef <= kEfHard; }));
  const WalkRules rules = rules_of(kind);
  const auto measured = [&](const Kind& walk, std::size_t n, std::size_t first, std::size_t last, RuleGrid& grid) {
    if (grid.enough() || first >= last) return;
    grid.add(record(probe, walk, std::min(n, probe.n), first, last, threads), rules, first, last);
  };
  RuleGrid grid;
  if (kind.share < 1.0) {  // where a walk would be wider, few matches are compared instead
    measured(kind, probe.n, 0, easy, grid);
    return std::move(grid).table();
  }
  RuleGrid first_look;
  measured(kind, kQueriesFirst, 0, easy, first_look);
  const std::size_t wide = first_look.enough() ? easy : hard;
  measured(kind, probe.n, 0, wide, grid);
  const std::size_t some = std::max(kQueriesFirst, probe.n / kWideShare);
  measured(kind, some, wide, packed, grid);
  Kind codes = kind;
  codes.form = nullptr;
  measured(codes, some, packed, kEfs.size(), grid);
  return std::move(grid).table();
}

std::shared_ptr<const Calibration> GraphIndex::measure(const std::byte* queries, std::size_t n,
                                                       const std::uint64_t* among, std::size_t rows, bool given,
                                                       unsigned threads) const {
  const std::shared_ptr<qgraph::QGraph> form = packed();
  const std::uint64_t* pass = live() < size() ? live_words() : nullptr;
  RecallTable plain = measure_kind(make_probe(queries, n, among, rows, threads), {rows, form.get(), pass}, threads);
  std::vector<FilteredTable> filtered;
  for (const double share : kFilterShares) {
    if (static_cast<double>(rows) * share <= static_cast<double>(scan_matches_for(1))) continue;
    const bool two_hop = share < (form != nullptr ? kPackedGateShareMin : kGateShareMin);
    const std::vector<std::uint64_t> matches = random_rows(among, rows, share);
    const std::size_t some = std::min(n, kFilterQueries);
    const Probe probe = make_probe(queries, some, matches.data(), rows, threads);
    const Kind kind{rows, two_hop ? nullptr : form.get(), matches.data(), two_hop, share};
    filtered.push_back({two_hop, static_cast<float>(share), measure_kind(probe, kind, threads)});
  }
  return std::make_shared<const Calibration>(rows, given, std::move(plain), std::move(filtered));
}

std::size_t GraphIndex::rows_to_hold(std::size_t first, std::size_t last) const {
  const std::shared_ptr<const Calibration> table = calibration();
  if (table != nullptr && last < 2 * table->rows()) return 0;
  const std::size_t held = std::min((last - first) / kHeldShare, kHeldMax);
  return held < kHeldMin ? 0 : held;
}

void GraphIndex::calibrate_with(const std::uint32_t* held, std::size_t n, std::size_t rows, unsigned threads) {
  std::vector<std::uint64_t> among(live_words(), live_words() + (rows + 63) / 64);
  if (rows % 64 != 0) among.back() &= (std::uint64_t{1} << (rows % 64)) - 1;
  std::vector<std::byte> queries;
  queries.reserve(n * query_bytes());
  std::vector<float> floats(config_.dim);
  for (std::size_t i = 0; i < n; ++i) {
    if (!is_live(held[i])) continue;
    among[held[i] / 64] &= ~(std::uint64_t{1} << (held[i] % 64));
    const std::byte* row = rows_.row(held[i]);
    if (config_.dtype == DType::f16) {
      rows_.to_float(row, floats.data());
      row = reinterpret_cast<const std::byte*>(floats.data());
    }
    queries.insert(queries.end(), row, row + query_bytes());
  }
  const std::size_t found = queries.size() / query_bytes();
  if (found < kHeldMin) return;
  set_calibration(measure(queries.data(), found, among.data(), rows, false, threads));
}

void GraphIndex::calibrate(const std::byte* queries, std::size_t n, unsigned threads) {
  rows_.check_queries(queries, n);
  if (n == 0) throw Error(ErrorCode::invalid_argument, "there are no queries to calibrate with; give at least one");
  const std::lock_guard lock(link_mutex_);
  const std::size_t rows = linked();
  if (rows == 0) return;
  std::vector<std::uint64_t> among(live_words(), live_words() + (rows + 63) / 64);
  if (rows % 64 != 0) among.back() &= (std::uint64_t{1} << (rows % 64)) - 1;
  set_calibration(measure(queries, n, among.data(), rows, true, threads));
}

const FilteredTable* GraphIndex::table_for(const Calibration& calibration, double share) const {
  return calibration.filtered(share < (packed() != nullptr ? kPackedGateShareMin : kGateShareMin), share);
}

std::optional<Beam> GraphIndex::same_work(std::size_t k, std::size_t ef, double share) const {
  const std::shared_ptr<const Calibration> table = calibration();
  if (table == nullptr || k > kCalibratedMax) return std::nullopt;
  const FilteredTable* filtered = table_for(*table, share);
  if (filtered == nullptr) return std::nullopt;
  const double wider = filtered->wider(share);
  const auto narrow = [&](double width) { return static_cast<std::size_t>(width / wider); };
  const std::size_t as_wide = std::max(narrow(static_cast<double>(ef)), std::size_t{1});
  const Beam plain{ef, filtered->table.expected(k, as_wide)};
  const std::optional<double> nodes = packed_nodes(k, ef, share);
  if (filtered->two_hop || !nodes.has_value() || as_wide < k) return plain;
  const double widest = static_cast<double>(kPackedBeamMax) / std::max(nodes_per_ef(), 1.0);
  Beam beam = filtered->table.same_work(k, as_wide, *nodes / wider,
                                        std::min(narrow(widest), std::size_t{table->rows() / kScanPerEf}));
  if (!(beam.near_part > 0.0F)) return plain;
  beam.ef = static_cast<std::size_t>(std::ceil(static_cast<double>(beam.ef) * wider));
  return beam;
}

float GraphIndex::near_part_all(std::size_t k, float near_part, double share) const {
  const std::shared_ptr<const Calibration> table = calibration();
  const FilteredTable* filtered = table == nullptr ? nullptr : table_for(*table, share);
  if (filtered == nullptr || filtered->two_hop) return near_part;
  const std::optional<double> hops = filtered->table.hops_of(k, near_part);
  if (!hops.has_value()) return near_part;
  return std::min(near_part, table->plain().near_part_of(k, *hops * filtered->wider(share)).value_or(near_part));
}

std::optional<Beam> GraphIndex::choose_filtered(std::size_t k, double recall, double share) const {
  const std::shared_ptr<const Calibration> table = calibration();
  const FilteredTable* filtered = table == nullptr ? nullptr : table_for(*table, share);
  if (filtered == nullptr) return std::nullopt;
  return table->choose_filtered(*filtered, share, k, recall);
}

std::optional<double> GraphIndex::expected_filtered(std::size_t k, std::size_t ef, double share) const {
  const std::shared_ptr<const Calibration> table = calibration();
  const FilteredTable* filtered = table == nullptr ? nullptr : table_for(*table, share);
  if (filtered == nullptr) return std::nullopt;
  const double narrow = static_cast<double>(ef) / filtered->wider(share);
  return filtered->table.expected(k, std::max(static_cast<std::size_t>(narrow), std::size_t{1}));
}

std::shared_ptr<const Calibration> GraphIndex::calibration() const {
  const std::lock_guard lock(packed_mutex_);
  return calibration_;
}

void GraphIndex::set_calibration(std::shared_ptr<const Calibration> table) {
  const std::lock_guard lock(packed_mutex_);
  calibration_ = std::move(table);
}

}  // namespace vicinal::graph
