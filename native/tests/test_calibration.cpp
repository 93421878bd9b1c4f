// The table of recall over the beam width: choosing by it, its bytes, and that what it says of the index is true.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "graph/calibration.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace {

using namespace vicinal;
using namespace vicinal::graph;

constexpr std::size_t kDim = 32;

std::vector<float> random_rows(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n * kDim);
  for (float& x : rows) x = normal(random);
  return rows;
}

// Every other row lies in few dimensions, where its neighbours are easier to find.
std::vector<float> uneven_rows(std::size_t n, std::uint64_t seed) {
  std::vector<float> rows = random_rows(n, seed);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i / kDim % 2 == 0 && i % kDim >= 6) rows[i] *= 0.3F;
  }
  return rows;
}

const std::byte* bytes(const std::vector<float>& rows) { return reinterpret_cast<const std::byte*>(rows.data()); }

// Misses of 8 / ef at every k, known to within a thousandth.
Calibration halving(std::uint64_t rows = 100000) {
  std::vector<CalibrationPoint> points;
  for (const std::uint32_t ef : {16U, 32U, 64U, 128U}) {
    CalibrationPoint p;
    p.ef = ef;
    p.queries = 1000;
    p.recall.fill(1.0F - 8.0F / static_cast<float>(ef));
    p.error.fill(0.001F);
    points.push_back(p);
  }
  return {rows, false, RecallTable(points, {})};
}

void a_beam_is_chosen_by_a_lower_bound_between_the_points() {
  const Calibration table = halving();
  const Beam beam = table.choose(10, 0.8);
  CHECK(beam.ef >= 40 && beam.ef <= 42, beam.ef);  // 40 misses 0.2; the bound asks for a little more
  CHECK(beam.recall >= 0.8 && beam.recall < 0.81, beam.recall);
  std::size_t before = 0;
  for (const double recall : {0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.93}) {
    const std::size_t ef = table.choose(10, recall).ef;
    CHECK(ef >= before, recall, ef);
    before = ef;
  }
  CHECK(table.choose(100, 0.5).ef == 100);  // never below k
  CHECK(table.choose(1, 0.1).ef == 16);     // never below what was measured
}

void past_the_table_it_reaches_a_little_and_then_says_no() {
  const Calibration table = halving();
  const Beam further = table.choose(10, 0.96);
  CHECK(further.ef > 128 && further.ef < 260, further.ef);
  CHECK(table.choose(10, 0.9999).ef == 0);
  CHECK(further.near_part == 0.0F);
  CHECK(halving(1000).choose(10, 0.95).ef == 0);  // a beam wider than an eighth of the rows: a scan is faster
}

void the_expected_recall_lies_between_those_measured() {
  const Calibration table = halving();
  CHECK(std::abs(table.expected(10, 64) - 0.875) < 1e-6);
  CHECK(std::abs(table.expected(30, 90) - (1.0 - 8.0 / 90)) < 1e-3, table.expected(30, 90));
  CHECK(table.expected(10, 4) == table.expected(10, 16));
  CHECK(table.expected(10, 256) > table.expected(10, 128));
  CHECK(table.expected(10, 256) < 1.0);
}

// Rules at misses of 20 % and 5 %, for k of 10.
std::vector<Rule> two_rules() {
  return {{1.0F, 20, 1000, 0.801F, 0.001F, 30.0F}, {0.8F, 80, 1000, 0.951F, 0.001F, 60.0F}};
}

void rules_are_preferred_and_interpolated() {
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules;
  rules[3] = two_rules();
  const Calibration table(100000, false, RecallTable(halving().points(), rules));
  const Beam low = table.choose(10, 0.7);  // before the first, by the beams
  CHECK(low.ef == halving().choose(10, 0.7).ef && low.near_part == 0.0F, low.ef, low.near_part);
  const Beam between = table.choose(10, 0.9);  // half way over the logarithm of the misses
  CHECK(between.ef == 80 && std::abs(between.near_part - 0.9F) < 1e-3F, between.ef, between.near_part);
  CHECK(between.recall > 0.9 && between.recall < 0.902, between.recall);
  const Beam past = table.choose(10, 0.96);  // by the beams
  CHECK(past.ef > 128 && past.near_part == 0.0F, past.ef, past.near_part);
  CHECK(table.choose(1, 0.8).near_part == 0.0F);
}

void the_work_of_a_beam_is_spent_on_an_early_end_where_that_finds_more() {
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules;
  rules[3] = two_rules();
  const Calibration table(100000, false, RecallTable(halving().points(), rules));
  const Beam between = table.same_work(10, 45, 1.0);  // 45 nodes lie at 0.58 of the way from 30 to 60
  CHECK(between.ef == 80 && std::abs(between.near_part - 0.883F) < 1e-3F, between.ef, between.near_part);
  CHECK(std::abs(between.recall - 0.912) < 1e-3, between.recall);
  CHECK(table.same_work(10, 60, 0.75).near_part == between.near_part);
  for (const std::size_t ef : {std::size_t{20}, std::size_t{100}}) {  // fewer and more nodes than the rules tell of
    const Beam plain = table.same_work(10, ef, 1.0);
    CHECK(plain.ef == ef && plain.near_part == 0.0F && plain.recall == table.expected(10, ef), ef);
  }
  CHECK(table.same_work(15, 45, 1.0).near_part == 0.0F);  // no rules for 20 results
  CHECK(Calibration(500, false, RecallTable(halving().points(), rules)).same_work(10, 45, 1.0).ef == 45);
  rules[3][1].recall = 0.83F;  // no more than a beam of 47 finds
  CHECK(Calibration(100000, false, RecallTable(halving().points(), rules)).same_work(10, 45, 1.0).near_part == 0.0F);
}

void walks_with_a_filter_have_tables_of_their_own() {
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules;
  rules[3] = two_rules();
  const RecallTable plain = RecallTable(halving().points(), {});
  const Calibration table(100000, true, plain,
                          {{false, 0.5F, {halving().points(), rules}}, {true, 0.1F, plain}, {true, 0.01F, plain}});
  CHECK(table.filtered(false, 0.9)->share == 0.5F);
  CHECK(table.filtered(true, 0.05)->share == 0.1F);
  CHECK(table.filtered(true, 0.02)->share == 0.01F);
  const FilteredTable& half = *table.filtered(false, 0.5);
  const Beam beam = table.choose_filtered(half, 0.5, 10, 0.9);
  CHECK(beam.near_part > 0.89F);
  CHECK(table.choose_filtered(half, 0.25, 10, 0.9).ef == 2 * beam.ef);  // to hold as many matches
  CHECK(table.choose_filtered(half, 0.75, 10, 0.9).ef == beam.ef);
  CHECK(table.choose_filtered(*table.filtered(true, 0.1), 0.05, 10, 0.7).ef == plain.choose(10, 0.7, 10000).ef);
  const std::vector<std::byte> good = table.bytes();
  const Calibration again = Calibration::parse(good.data(), good.size());
  CHECK(again.bytes() == good);
  CHECK(again.given() && again.filtered().size() == 3 && again.filtered()[0].table.rules(3).size() == 2);
  CHECK(halving().filtered(false, 0.5) == nullptr);
}

// Before beams counted rows, a beam of 80 matches held 160 rows where half of them match.
void beams_of_matches_in_older_tables_become_beams_of_rows() {
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules;
  rules[3] = two_rules();
  const RecallTable plain = RecallTable(halving().points(), {});
  const Calibration table(100000, true, plain, {{false, 0.5F, {halving().points(), rules}}, {true, 0.1F, plain}});
  std::vector<std::byte> old = table.bytes();
  CHECK(old[8] == std::byte{7});
  old[8] = std::byte{3};
  const Calibration read = Calibration::parse(old.data(), old.size());
  CHECK(read.filtered(false, 0.5)->table.rules(3).back().ef == 160);
  CHECK(read.filtered(false, 0.5)->table.points()[0].ef == 2 * plain.points()[0].ef);
  CHECK(read.filtered(true, 0.1)->table.points()[0].ef == plain.points()[0].ef);
  CHECK(read.plain().points()[0].ef == plain.points()[0].ef);
}

void an_early_end_tells_how_many_nodes_it_takes_and_the_other_way_round() {
  std::array<std::vector<Rule>, kCalibratedKs.size()> rules;
  rules[3] = two_rules();
  const RecallTable table(halving().points(), rules);
  CHECK(std::abs(*table.hops_of(10, 0.9F) - std::sqrt(30.0 * 60.0)) < 0.01, *table.hops_of(10, 0.9F));
  CHECK(std::abs(*table.near_part_of(10, std::sqrt(30.0 * 60.0)) - 0.9F) < 1e-4F);
  CHECK(std::abs(*table.hops_of(10, 1.2F) - 30.0) < 0.01);  // as far as rules tell
  CHECK(std::abs(*table.near_part_of(10, 500.0) - 0.8F) < 1e-4F);
  CHECK(!table.hops_of(1, 0.9F).has_value() && !table.near_part_of(50, 40.0).has_value());
}

// What releases before the early end wrote: a head and the points, nothing else.
void tables_of_beams_alone_are_read() {
  const Calibration table = halving();
  std::vector<std::byte> old = table.bytes();
  old.resize(16 + 4 * sizeof(CalibrationPoint));
  old[8] = std::byte{1};  // "given", without the bit of what follows
  const Calibration read = Calibration::parse(old.data(), old.size());
  CHECK(read.given() && read.rows() == 100000 && read.points().size() == 4);
  CHECK(read.choose(10, 0.8).ef == table.choose(10, 0.8).ef && read.choose(10, 0.8).near_part == 0.0F);
}

void bytes_come_back_and_lies_are_refused() {
  const Calibration table = halving();
  const std::vector<std::byte> good = table.bytes();
  CHECK(Calibration::parse(good.data(), good.size()).bytes() == good);
  const auto refused = [](const std::vector<std::byte>& b) {
    return test::throws<std::invalid_argument>([&] { static_cast<void>(Calibration::parse(b.data(), b.size())); },
                                               [](const std::invalid_argument&) { return true; });
  };
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(refused(std::vector<std::byte>(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))), size);
  }
  const float nan = std::nanf("");
  const float above = 1.5F;
  for (const float* value : {&nan, &above}) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + 16 + 8, value, sizeof(float));  // the first recall of the first point
    CHECK(refused(bad));
  }
  std::vector<std::byte> bad = good;
  std::memset(bad.data() + 16, 0, 4);  // the first beam width
  CHECK(refused(bad));
}

// Share of the k true neighbours of unseen queries that a search at ef finds.
double measured(const GraphIndex& index, const std::vector<float>& queries, std::size_t k, std::size_t ef,
                float near_part = 0.0F) {
  const std::size_t n = queries.size() / kDim;
  std::vector<std::int64_t> truth(n * k);
  std::vector<std::int64_t> found(n * k);
  std::vector<float> distances(n * k);
  SearchParameters p;
  p.k = k;
  p.ef_search = ef;
  p.near_part = near_part;
  index.search(bytes(queries), n, p, found.data(), distances.data());
  p.exact = true;
  index.search(bytes(queries), n, p, truth.data(), distances.data());
  std::size_t hits = 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      for (std::size_t l = 0; l < k; ++l) hits += found[i * k + j] == truth[i * k + l] ? 1U : 0U;
    }
  }
  return static_cast<double>(hits) / static_cast<double>(n * k);
}

void what_an_index_measured_of_itself_holds_for_unseen_queries() {
  const std::vector<float> queries = uneven_rows(300, 9);
  for (const Format format : {Format::sq8, Format::rabitq}) {
    GraphConfig config;
    config.dim = kDim;
    config.format = format;
    GraphIndex index(config);
    index.build(bytes(uneven_rows(8000, 3)), 8000, 1, true, {});
    const auto table = index.calibration();
    CHECK(table != nullptr && table->rows() == 8000 && !table->given());
    CHECK(index.linked() == 8000);
    if (table == nullptr) continue;
    for (const std::size_t k : {std::size_t{1}, std::size_t{10}, std::size_t{50}}) {
      for (const double asked : {0.9, 0.97}) {
        const Beam beam = table->choose(k, asked);
        CHECK(beam.ef >= k, k, asked);
        CHECK(beam.near_part >= 0.0F && beam.near_part <= kNearPartMax, k, asked, beam.near_part);
        const double got = measured(index, queries, k, beam.ef, beam.near_part);
        CHECK(got > asked - 0.04, k, asked, beam.ef, got);
        CHECK(std::abs(got - beam.recall) < 0.05, k, asked, beam.recall, got);
      }
    }
    // The queries themselves as calibration: what they then find is what the table says, to the last of them.
    index.calibrate(bytes(queries), 300, 1);
    const auto given = index.calibration();
    CHECK(given->given());
    for (const CalibrationPoint& p : given->points()) {
      if (p.ef < 10 || p.queries < 300) continue;
      // A beam hardly wider than the results has less room for copies than the walks that are recorded.
      const double got = measured(index, queries, 10, p.ef);
      CHECK(std::abs(got - static_cast<double>(p.recall[3])) < (p.ef < 20 ? 0.008 : 0.004), p.ef, p.recall[3], got);
    }
    for (const std::size_t b : {std::size_t{0}, std::size_t{3}, std::size_t{5}}) {
      const std::vector<Rule>& rules = given->plain().rules(b);
      CHECK(b > 0 || rules.size() > 5, rules.size());  // where queries differ an early end pays
      for (const Rule& rule : rules) {
        if (rule.queries < 300) continue;
        const std::size_t k = kCalibratedKs[b];
        const double got = measured(index, queries, k, rule.ef, rule.near_part);
        // Of rows as near as codes can tell, three queries of the 300 may get the other one.
        CHECK(std::abs(got - static_cast<double>(rule.recall)) < 0.012, k, rule.ef, rule.near_part, rule.recall, got);
      }
    }
  }
}

void rows_held_back_end_in_the_graph_like_all_others() {
  const std::vector<float> rows = random_rows(4000, 5);
  for (const Format format : {Format::sq8, Format::rabitq}) {
    GraphConfig config;
    config.dim = kDim;
    config.format = format;
    GraphIndex index(config);
    index.build(bytes(rows), 4000, 2, true, {});
    std::vector<std::int64_t> found(4000);
    std::vector<float> distances(4000);
    SearchParameters p;
    p.k = 1;
    p.ef_search = 64;
    index.search(bytes(rows), 4000, p, found.data(), distances.data());
    std::size_t itself = 0;
    for (std::size_t i = 0; i < 4000; ++i) itself += found[i] == static_cast<std::int64_t>(i) ? 1U : 0U;
    CHECK(itself >= 3990, itself);
  }
}

void a_grown_graph_is_measured_anew_when_it_has_doubled() {
  const std::vector<float> rows = random_rows(9000, 7);
  GraphConfig config;
  config.dim = kDim;
  GraphIndex index(config);
  index.append(bytes(rows), 9000);
  index.link(400, 1, {});
  CHECK(index.calibration() == nullptr);  // of so few rows none can be spared
  std::vector<std::uint64_t> measured_at;
  while (index.linked() < 9000) {
    index.link(1000, 1, {});
    CHECK(index.calibration() != nullptr);
    if (measured_at.empty() || measured_at.back() != index.calibration()->rows()) {
      measured_at.push_back(index.calibration()->rows());
    }
  }
  CHECK(measured_at == (std::vector<std::uint64_t>{1400, 3400, 7400}), measured_at.size());
}

void the_table_is_in_the_file_and_a_file_without_one_opens() {
  const std::string path = "/tmp/vicinal_test_calibration_" + std::to_string(::getpid());
  GraphConfig config;
  config.dim = kDim;
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(2000, 5);
  index.build(bytes(rows), 2000, 1, true, {});
  index.save(path, true);
  CHECK(GraphIndex::load(path, true, nullptr, 0)->calibration()->bytes() == index.calibration()->bytes());
  index.set_calibration(nullptr);
  index.save(path, true);
  const auto bare = GraphIndex::load(path, true, nullptr, 0);
  CHECK(bare->calibration() == nullptr);
  CHECK(bare->linked() == 2000);
  ::unlink(path.c_str());
}

}  // namespace

int main() {
  a_beam_is_chosen_by_a_lower_bound_between_the_points();
  past_the_table_it_reaches_a_little_and_then_says_no();
  the_expected_recall_lies_between_those_measured();
  rules_are_preferred_and_interpolated();
  the_work_of_a_beam_is_spent_on_an_early_end_where_that_finds_more();
  walks_with_a_filter_have_tables_of_their_own();
  beams_of_matches_in_older_tables_become_beams_of_rows();
  an_early_end_tells_how_many_nodes_it_takes_and_the_other_way_round();
  tables_of_beams_alone_are_read();
  bytes_come_back_and_lies_are_refused();
  what_an_index_measured_of_itself_holds_for_unseen_queries();
  rows_held_back_end_in_the_graph_like_all_others();
  a_grown_graph_is_measured_anew_when_it_has_doubled();
  the_table_is_in_the_file_and_a_file_without_one_opens();
  return test::failures();
}
