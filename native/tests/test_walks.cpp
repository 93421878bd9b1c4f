// Where a recorded walk would have ended: by its beam, early, and with what recall.
#include <limits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "graph/constants.hpp"
#include "graph/walks.hpp"

namespace {

using namespace vicinal::graph;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::size_t with_room(std::size_t k) { return k + 2; }
std::size_t without_room(std::size_t k) { return k; }

std::size_t width(std::uint32_t ef) {
  std::size_t i = 0;
  while (kEfs[i] != ef) ++i;
  return i;
}
std::size_t place(float part) {
  std::size_t i = 0;
  while (kNearParts[i] != part) ++i;
  return i;
}

// Rows 0 to n - 1 are expanded in order, at distances 10, 11, and so on; the first `true_rows` are the true neighbours.
struct Straight {
  std::vector<std::uint32_t> rows;
  std::vector<float> distances;
  Truth truth;

  explicit Straight(std::uint32_t n, std::uint32_t true_rows = 100) {
    for (std::uint32_t row = 0; row < n; ++row) {
      rows.push_back(row);
      distances.push_back(10.0F + static_cast<float>(row));
    }
    for (std::uint32_t row = 0; row < true_rows; ++row) truth.ranks.emplace_back(row, row);
    for (std::size_t b = 0; b < kCalibratedKs.size(); ++b) {
      truth.wanted[b] = truth.within[b] = static_cast<std::uint32_t>(kCalibratedKs[b]);
    }
  }
  [[nodiscard]] Ends ends(const WalkRules& rules) const {
    return ends_of({rows.data(), distances.data(), distances.data(), distances.data(), rows.size()}, truth, rules, 0,
                   kEfs.size());
  }
};

WalkRules plain() {
  WalkRules rules;
  rules.rerank = &with_room;
  return rules;
}

constexpr std::size_t kTen = 3;  // the bucket of k = 10

void a_beam_ends_when_so_many_nodes_were_nearer() {
  const Ends ends = Straight(300).ends(plain());
  CHECK(ends.of_ef[width(4)][kTen].hops == 4);
  CHECK(ends.of_ef[width(4)][kTen].recall == 0.4F);
  CHECK(ends.of_ef[width(25)][kTen].hops == 25);
  CHECK(ends.of_ef[width(25)][kTen].recall == 1.0F);
  CHECK(ends.of_ef[width(25)][6].recall == 0.25F);  // of a hundred
  CHECK(ends.of_ef[width(400)][kTen].hops == 300);  // the walk ran out of nodes
  WalkRules twice = plain();
  twice.beam_scale = 2.0;
  CHECK(Straight(300).ends(twice).of_ef[width(25)][kTen].hops == 50);
  WalkRules cut = plain();
  cut.hops_per_beam = 0.5;
  cut.hops_besides = 1.0;
  CHECK(Straight(300).ends(cut).of_ef[width(20)][kTen].hops == 11);
}

void an_early_end_comes_where_k_nodes_are_near_enough() {
  const Ends ends = Straight(300).ends(plain());
  // The tenth is at 19; the first candidate of more than 19 / 0.76 = 25 is row 16 at 26, found after 16 hops.
  CHECK(ends.of_part[place(0.76F)][kTen].hops == 16, ends.of_part[place(0.76F)][kTen].hops);
  CHECK(ends.of_part[place(0.76F)][kTen].recall == 1.0F);
  CHECK(ends.of_part[place(0.76F)][0].hops == 4);      // the first is at 10: past 13.2
  CHECK(ends.of_part[place(1.40F)][kTen].hops == 10);  // not before there are ten
  WalkRules never = plain();
  never.ends_early = false;
  CHECK(Straight(300).ends(never).of_part[place(0.76F)][kTen].hops == 300);
}

void what_may_not_be_returned_does_not_count() {
  const Straight walk(300);
  std::vector<float> own = walk.distances;
  for (std::size_t i = 0; i < 20; ++i) own[i] = kInfinity;
  const Ends ends = ends_of({walk.rows.data(), walk.distances.data(), own.data(), own.data(), 300}, walk.truth, plain(),
                            0, kEfs.size());
  CHECK(ends.of_ef[width(4)][kTen].hops == 24, ends.of_ef[width(4)][kTen].hops);
  CHECK(ends.of_ef[width(4)][kTen].recall == 0.0F);
  CHECK(ends.of_part[place(1.00F)][kTen].hops == 30, ends.of_part[place(1.00F)][kTen].hops);
}

void a_walk_that_keeps_matches_ends_with_its_rows_once_it_has_enough_of_them() {
  const Straight walk(300);
  std::vector<float> own = walk.distances;
  WalkRules rules = plain();
  rules.kept_share = 0.5;
  const auto ends = [&] {
    return ends_of({walk.rows.data(), walk.distances.data(), walk.distances.data(), own.data(), 300}, walk.truth, rules,
                   0, kEfs.size());
  };
  CHECK(ends().of_ef[width(66)][kTen].hops == 66);  // all match
  for (std::size_t i = 0; i < 300; i += 2) own[i] = kInfinity;
  const Ends half = ends();
  CHECK(half.of_ef[width(66)][kTen].hops == 66);
  CHECK(half.of_ef[width(30)][kTen].hops == 50, half.of_ef[width(30)][kTen].hops);  // 25 matches for ten results
  CHECK(half.of_ef[width(30)][0].hops == 30);                                       // and 2 for one
  CHECK(half.of_ef[width(16)][kTen].hops == 32);                                    // but no more than the beam is wide
  own.assign(300, kInfinity);
  CHECK(ends().of_ef[width(30)][kTen].hops == nodes_for(30, 25, 0.5));  // it gives up
}

void what_is_not_compared_exactly_is_not_found() {
  // Row 0, the nearest, has an own distance that quantisation spoilt: it comes eleventh.
  Straight walk(300);
  walk.distances[0] = 20.5F;
  WalkRules rules = plain();
  CHECK(walk.ends(rules).of_ef[width(25)][kTen].recall == 1.0F);
  rules.rerank = &without_room;
  CHECK(walk.ends(rules).of_ef[width(25)][kTen].recall == 0.9F);
}

void ties_count_where_they_are_said_to() {
  Straight walk(300);
  for (float& d : walk.distances) d = 7.0F;
  WalkRules rules = plain();
  CHECK(walk.ends(rules).of_ef[width(25)][kTen].hops == 300);
  rules.ties_count = true;
  CHECK(walk.ends(rules).of_ef[width(25)][kTen].hops == 25);
}

void the_cheapest_rules_make_the_table() {
  // Easy queries have found all after 10 hops and nothing else is near; hard ones come to their neighbours after 60.
  // An early end tells them apart, a beam cannot.
  std::vector<Ends> all;
  for (int query = 0; query < 200; ++query) {
    Straight walk(300);
    std::vector<float> own = walk.distances;
    if (query % 2 == 0) {
      for (std::size_t i = 10; i < 300; ++i) walk.distances[i] += 50.0F;
    } else {
      walk.truth.ranks.clear();
      for (std::uint32_t i = 0; i < 300; ++i) own[i] = walk.distances[i] = 60.0F + 0.01F * static_cast<float>(i);
      for (std::uint32_t i = 0; i < 100; ++i) {
        walk.truth.ranks.emplace_back(60 + i, i);
        own[60 + i] = 1.0F + 0.01F * static_cast<float>(i);
      }
    }
    all.push_back(ends_of({walk.rows.data(), walk.distances.data(), walk.distances.data(), own.data(), 300}, walk.truth,
                          plain(), 0, kEfs.size()));
  }
  RuleGrid grid;
  grid.add(all, plain(), 0, kEfs.size());
  const RecallTable table = std::move(grid).table();
  const Beam beam = table.choose(10, 0.98, 10000);
  CHECK(beam.near_part > 0.0F);
  CHECK(beam.ef >= 70, beam.ef);
  const std::vector<Rule>& rules = table.rules(kTen);
  CHECK(!rules.empty() && rules.back().hops < 50.0F);  // (10 + 70) / 2 and a little; a beam that finds as much takes 80
  for (std::size_t i = 1; i < rules.size(); ++i) CHECK(rules[i].bound() > rules[i - 1].bound(), i);
}

}  // namespace

int main() {
  a_beam_ends_when_so_many_nodes_were_nearer();
  an_early_end_comes_where_k_nodes_are_near_enough();
  what_may_not_be_returned_does_not_count();
  a_walk_that_keeps_matches_ends_with_its_rows_once_it_has_enough_of_them();
  what_is_not_compared_exactly_is_not_found();
  ties_count_where_they_are_said_to();
  the_cheapest_rules_make_the_table();
  return vicinal::test::failures();
}
