// Tests of bulk loads: codes compared side by side on every instruction set, the candidates that leaves find, and
// graphs built of them.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"
#include "graph/leaves.hpp"
#include "graph/panels.hpp"

using namespace vicinal;
using namespace vicinal::graph;
using vicinal::test::fewer;
using vicinal::test::throws;

namespace {

std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (isa_supported(isa)) all.push_back(isa);
  }
  return all;
}

// One-byte codes, in a view of their own.
struct Codes {
  std::vector<std::byte> bytes;
  GraphView view;

  Codes(std::size_t n, std::size_t dim, const std::function<std::uint8_t(std::size_t, std::size_t)>& value) {
    view.code_bytes = dim;
    view.code_stride = round_up(dim, kCacheLine);
    view.limit = static_cast<std::uint32_t>(n);
    bytes.resize(n * view.code_stride + kCacheLine);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t d = 0; d < dim; ++d) bytes[i * view.code_stride + d] = std::byte{value(i, d)};
    }
    view.codes = bytes.data();
  }
  [[nodiscard]] std::int32_t key(std::uint32_t a, std::uint32_t b) const {
    std::int32_t sum = 0;
    for (std::size_t d = 0; d < view.code_bytes; ++d) {
      const int difference = static_cast<int>(view.code(a)[d]) - static_cast<int>(view.code(b)[d]);
      sum += difference * difference;
    }
    return sum;
  }
};

std::vector<std::uint32_t> numbers(std::size_t n) {
  std::vector<std::uint32_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0U);
  return rows;
}

void panels_give_exact_keys_on_every_instruction_set() {
  std::mt19937 random(1);
  for (const std::size_t dim : {1, 3, 16, 31, 128, 200, 1027}) {
    // Extreme bytes among them: sums of their products are where narrow arithmetic would saturate.
    const Codes codes(
        41, dim, [&](std::size_t i, std::size_t) { return static_cast<std::uint8_t>(i < 2 ? 255 * i : random()); });
    const CodeSums sums(codes.view, 41, 1);
    for (const Isa isa : isas()) {
      Panels panels(codes.view, beam_fns(isa), sums);
      RowKeys row_keys(codes.view, beam_fns(isa), sums);
      const std::vector<std::uint32_t> all = numbers(41);
      for (std::uint32_t row = 0; row < 41; ++row) {
        std::vector<std::int32_t> keys(41);
        row_keys.set(row);
        row_keys.to(all.data(), 41, keys.data());
        for (std::uint32_t i = 0; i < 41; ++i) {
          CHECK(keys[i] == codes.key(row, i), isa_name(isa), dim, row, i, keys[i]);
        }
      }
      for (const std::size_t n : {1, 16, 17, 41}) {
        panels.fill(all.data(), n);
        std::vector<std::int32_t> dots(Panels::kRowsAtOnce * panels.width());
        for (std::size_t count = 1; count <= Panels::kRowsAtOnce; ++count) {
          for (std::size_t first = 0; first < n; first += kPanel) {
            const std::size_t width = panels.width() - first;
            panels.dots(all.data(), count, first, width, dots.data());
            for (std::uint32_t row = 0; row < count; ++row) {
              for (std::size_t i = first; i < n; ++i) {
                const std::int32_t key = panels.key(sums.base(row), i, dots[row * width + i - first]);
                CHECK(key == codes.key(row, static_cast<std::uint32_t>(i)), isa_name(isa), dim, n, count, row, i);
              }
            }
          }
        }
      }
    }
  }
}

void near_finds_what_is_below_a_bound_on_every_instruction_set() {
  std::mt19937 random(2);
  std::vector<std::uint32_t> squares(304);
  std::vector<std::int32_t> dots(304);
  std::vector<std::int32_t> bounds(304, INT32_MIN);
  for (std::size_t i = 0; i < 304; ++i) {
    squares[i] = 5000 + random() % 1000;
    dots[i] = static_cast<std::int32_t>(random() % 2000);
    if (i % 3 == 0) bounds[i] = static_cast<std::int32_t>(random() % 5000);
  }
  for (const Isa isa : isas()) {
    for (const std::int32_t bound : {INT32_MIN, 3000, INT32_MAX}) {
      for (const std::size_t n : {0, 1, 15, 64, 65, 300}) {
        std::vector<std::uint32_t> wanted;
        std::vector<std::int32_t> wanted_keys;
        for (std::uint32_t i = 0; i < n; ++i) {
          const std::int32_t key = static_cast<std::int32_t>(100 + squares[i]) - 2 * dots[i];
          if (key >= bound && key >= bounds[i]) continue;
          wanted.push_back(i);
          wanted_keys.push_back(key);
        }
        std::vector<std::int32_t> keys(304);
        std::vector<std::uint32_t> found(304);
        const std::size_t end =
            beam_fns(isa).near(100, squares.data(), dots.data(), bounds.data(), n, bound, keys.data(), found.data());
        found.resize(end);
        keys.resize(end);
        CHECK(found == wanted && keys == wanted_keys, isa_name(isa), bound, n, end, wanted.size());
      }
    }
    for (const std::size_t n : {16, 32, 304}) {
      std::vector<std::int32_t> wanted(kPanel, INT32_MAX);
      for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t key = static_cast<std::int32_t>(100 + squares[i]) - 2 * dots[i];
        wanted[i % kPanel] = std::min(wanted[i % kPanel], key);
      }
      std::vector<std::int32_t> least(kPanel);
      beam_fns(isa).least(100, squares.data(), dots.data(), n, least.data());
      CHECK(least == wanted, isa_name(isa), n);
    }
  }
}

void keep_has_the_least_each_once_on_every_instruction_set() {
  std::mt19937 random(8);
  for (const Isa isa : isas()) {
    for (const std::size_t capacity : {1, 2, 7, 96, 101}) {
      std::vector<std::uint64_t> list(capacity);
      std::vector<std::uint64_t> offered;
      std::size_t size = 0;
      for (std::size_t round = 0; round < 12; ++round) {
        std::vector<std::uint64_t> more(random() % 40);
        for (auto& candidate : more) candidate = std::uint64_t{random() % 500} << 32 | random() % 3;
        std::uint64_t worst = 0;
        size = beam_fns(isa).keep(list.data(), size, capacity, more.data(), more.size(), &worst);
        offered.insert(offered.end(), more.begin(), more.end());
        std::sort(offered.begin(), offered.end());
        offered.erase(std::unique(offered.begin(), offered.end()), offered.end());
        const std::size_t held = std::min(capacity, offered.size());
        std::vector<std::uint64_t> sorted(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(size));
        std::sort(sorted.begin(), sorted.end());
        CHECK(size == held && std::equal(sorted.begin(), sorted.end(), offered.begin()), isa_name(isa), capacity, round,
              size, held);
        CHECK(worst == (size == capacity ? sorted.back() : UINT64_MAX), isa_name(isa), capacity, round, worst);
      }
    }
  }
}

void leaves_find_the_nearest() {
  const std::size_t n = fewer(6000);
  std::mt19937 random(3);
  std::vector<std::array<std::uint8_t, 24>> centres(40);
  for (auto& centre : centres) {
    for (auto& value : centre) value = static_cast<std::uint8_t>(40 + random() % 170);
  }
  const Codes codes(n, 24, [&](std::size_t i, std::size_t d) {
    return static_cast<std::uint8_t>(centres[i % centres.size()][d] + random() % 40);
  });
  const CodeSums sums(codes.view, n, 2);
  std::vector<std::uint32_t> rows = numbers(n);
  std::shuffle(rows.begin(), rows.end(), random);
  RowLocks locks;
  const std::size_t first = n / 3;
  double share = 0.0;
  for (const unsigned threads : {1U, 2U}) {
    std::mt19937_64 same(4);
    Leaves leaves(codes.view, beam_fns(best_isa()), sums, 64, locks, threads);
    leaves.find(rows, first, same, [&](double done) {
      CHECK(done >= 0.0 && done <= 1.0, done);
      share = done;
    });
    CHECK(share == 1.0, share);
    std::size_t hits = 0;
    std::size_t asked = 0;
    std::vector<Candidate> found;
    for (std::size_t i = 0; i < n - first; i += 13) {
      const std::uint32_t row = rows[first + i];
      leaves.candidates(i, row, found);
      std::vector<std::uint32_t> seen;
      std::int32_t last = 0;
      for (const Candidate& c : found) {
        CHECK(c.row != row && c.row < n && c.key >= last && c.key == codes.key(row, c.row), row, c.row, c.key, last);
        last = c.key;
        seen.push_back(c.row);
      }
      std::sort(seen.begin(), seen.end());
      CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end(), "each row once", row);
      std::vector<std::int32_t> keys;
      for (std::uint32_t other = 0; other < n; ++other) {
        if (other != row) keys.push_back(codes.key(row, other));
      }
      std::nth_element(keys.begin(), keys.begin() + 4, keys.end());
      hits += static_cast<std::size_t>(
          std::count_if(found.begin(), found.end(), [&](const Candidate& c) { return c.key <= keys[4]; }));
      asked += 5;
    }
    CHECK(static_cast<double>(hits) >= 0.9 * static_cast<double>(asked), threads, hits, asked);
  }
}

void equal_rows_choose_different_ones() {
  const std::size_t n = 3000;
  const Codes codes(n, 8, [](std::size_t, std::size_t) { return std::uint8_t{9}; });
  const CodeSums sums(codes.view, n, 1);
  RowLocks locks;
  std::mt19937_64 random(5);
  Leaves leaves(codes.view, beam_fns(best_isa()), sums, 64, locks, 1);
  leaves.find(numbers(n), 0, random, [](double) {});
  std::vector<std::uint32_t> chosen(n, 0);
  std::vector<Candidate> found;
  for (std::uint32_t row = 0; row < n; ++row) {
    leaves.candidates(row, row, found);
    CHECK(found.size() >= 4, row, found.size());
    for (const Candidate& c : found) ++chosen[c.row];
  }
  CHECK(*std::max_element(chosen.begin(), chosen.end()) < n / 2, "no row is everybody's candidate",
        *std::max_element(chosen.begin(), chosen.end()));
}

// Rows of few dimensions share leaves with what is near them, rows of many do not.
void rows_are_in_as_many_leaves_as_their_data_need() {
  const std::size_t n = 6000;
  std::mt19937 random(9);
  for (const std::size_t dim : {4, 96}) {
    const Codes codes(n, dim, [&](std::size_t, std::size_t) { return static_cast<std::uint8_t>(random()); });
    const CodeSums sums(codes.view, n, 2);
    RowLocks locks;
    std::mt19937_64 same(10);
    Leaves leaves(codes.view, beam_fns(best_isa()), sums, 32, locks, 2);
    leaves.find(numbers(n), 0, same, [](double) {});
    CHECK(leaves.overlap() == (dim == 4 ? kLeafOverlapMin : kLeafOverlap), dim, leaves.overlap());
  }
}

// Recall of 10 over clustered rows that came in two loads, the second one the larger.
double recall_of(GraphIndex& index, const std::vector<float>& rows, std::size_t n, std::size_t dim) {
  SearchParameters p;
  std::vector<std::int64_t> found(10), exact(10);
  std::vector<float> distances(10);
  std::size_t hits = 0;
  std::size_t asked = 0;
  for (std::size_t i = 0; i < n; i += n / 50) {
    const auto* query = reinterpret_cast<const std::byte*>(rows.data() + i * dim);
    p.exact = false;
    index.search(query, 1, p, found.data(), distances.data());
    p.exact = true;
    index.search(query, 1, p, exact.data(), distances.data());
    for (const std::int64_t row : exact) hits += static_cast<std::size_t>(std::count(found.begin(), found.end(), row));
    asked += 10;
  }
  return static_cast<double>(hits) / static_cast<double>(asked);
}

void graphs_of_one_load_and_of_two_find_their_rows() {
  const std::size_t n = fewer(6000);
  constexpr std::size_t dim = 32;
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  std::vector<float> centres(30 * dim), rows(n * dim);
  for (float& x : centres) x = 3.0F * normal(random);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t d = 0; d < dim; ++d) rows[i * dim + d] = centres[i * 30 / n * dim + d] + normal(random);
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(rows.data());
  for (const std::size_t in_first : {n, n / 4}) {
    for (const Format format : {Format::sq8, Format::rabitq}) {
      GraphConfig config;
      config.dim = dim;
      config.format = format;
      GraphIndex index(config);
      index.build(bytes, in_first, 2, true, {});
      if (in_first < n) {
        index.append(bytes + in_first * dim * sizeof(float), n - in_first);
        index.link(n, 2, {});
      }
      const double recall = recall_of(index, rows, n, dim);
      CHECK(recall >= 0.95, in_first, n, static_cast<int>(format), recall);
    }
  }
}

void a_cancelled_bulk_load_leaves_nothing() {
  const std::size_t n = 20000;
  std::vector<float> rows(n * 16);
  std::mt19937 random(7);
  for (float& x : rows) x = static_cast<float>(random() % 1000);
  GraphConfig config;
  config.dim = 16;
  config.ef_construction = 512;
  GraphIndex index(config);
  std::size_t told = 0;
  const auto stop = [&](std::size_t done, std::size_t of) {
    CHECK(done <= of && of == n, done, of);
    return ++told < 2;
  };
  const bool cancelled =
      throws<Error>([&] { index.build(reinterpret_cast<const std::byte*>(rows.data()), n, 1, true, stop); },
                    [](const Error& e) { return e.code() == ErrorCode::cancelled; });
  CHECK(cancelled && index.size() == 0 && index.linked() == 0, told, index.size());
}

}  // namespace

int main() {
  panels_give_exact_keys_on_every_instruction_set();
  near_finds_what_is_below_a_bound_on_every_instruction_set();
  keep_has_the_least_each_once_on_every_instruction_set();
  leaves_find_the_nearest();
  equal_rows_choose_different_ones();
  rows_are_in_as_many_leaves_as_their_data_need();
  graphs_of_one_load_and_of_two_find_their_rows();
  a_cancelled_bulk_load_leaves_nothing();
  return vicinal::test::failures();
}
