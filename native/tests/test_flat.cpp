// Top-k selection and the exact scan: ties, filters, lists, ranges, threads, rows appended and removed meanwhile.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/topk.hpp"
#include "check.hpp"
#include "flat/flat_index.hpp"
#include "flat/flat_scan.hpp"

namespace {

using namespace vicinal;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void keys_order_as_distance_then_row() {
  const float ascending[] = {-kInfinity, -3e38F, -1.0F, -1e-45F, 0.0F, 1e-45F, 1.0F, 3e38F, kInfinity};
  for (std::size_t i = 0; i + 1 < std::size(ascending); ++i) {
    CHECK(candidate_key(ascending[i], 9) < candidate_key(ascending[i + 1], 0), ascending[i]);
    CHECK(key_distance(candidate_key(ascending[i], 5)) == ascending[i]);
  }
  CHECK(candidate_key(-0.0F, 1) == candidate_key(0.0F, 1));
  CHECK(candidate_key(std::numeric_limits<float>::quiet_NaN(), 3) == candidate_key(kInfinity, 3));
  CHECK(key_row(candidate_key(2.0F, 0xFFFFFFFF)) == 0xFFFFFFFF);
}

void topk_equals_a_full_sort() {
  std::mt19937 rng(1);
  for (const std::size_t n : {0UL, 1UL, 15UL, 16UL, 1000UL, 5000UL}) {
    for (const std::size_t k : {1UL, 7UL, 100UL, 2000UL}) {
      std::vector<float> distances(n);
      for (float& d : distances) d = static_cast<float>(static_cast<int>(rng() % 50)) - 20.0F;  // many ties
      if (n > 3) distances[3] = std::numeric_limits<float>::quiet_NaN();
      std::vector<std::uint32_t> rows(n);
      for (std::uint32_t i = 0; i < n; ++i) rows[i] = i;
      std::shuffle(rows.begin(), rows.end(), rng);
      std::vector<std::uint64_t> want;
      want.reserve(n);
      for (std::size_t i = 0; i < n; ++i) want.push_back(candidate_key(distances[i], rows[i]));
      std::sort(want.begin(), want.end());
      want.resize(std::min(n, k));
      TopK top(k);
      for (std::size_t i = 0; i < n; i += 37)
        top.offer(distances.data() + i, rows.data() + i, 0, std::min<std::size_t>(37, n - i));
      CHECK(top.sorted() == want, n, k);
    }
  }
}

struct Data {
  std::size_t n;
  std::size_t dim;
  std::vector<float> rows;
  std::vector<float> queries;
};

Data make_data(std::size_t n, std::size_t dim, std::size_t nq) {
  std::mt19937 rng(2);
  Data d{n, dim, std::vector<float>(n * dim), std::vector<float>(nq * dim)};
  for (float& v : d.rows) v = static_cast<float>(rng() % 16);
  for (float& v : d.queries) v = static_cast<float>(rng() % 16);
  return d;
}

ScanSpec spec_of(const Data& d) {
  ScanSpec s;
  s.rows = {reinterpret_cast<const std::byte*>(d.rows.data()), d.dim * 4, d.n, d.dim, DType::f32};
  s.end = d.n;
  return s;
}

template <class Allowed>
void check_scan(const Data& d, const ScanSpec& s, std::size_t k, Allowed&& allowed, const char* what) {
  const std::size_t nq = d.queries.size() / d.dim;
  std::vector<std::int64_t> rows(nq * k);
  std::vector<float> distances(nq * k);
  scan(s, d.queries.data(), d.dim * 4, nq, k, rows.data(), distances.data());
  for (std::size_t q = 0; q < nq; ++q) {
    std::vector<std::uint64_t> want;
    for (std::size_t r = 0; r < d.n; ++r) {
      if (!allowed(r)) continue;
      float sum = 0;  // small integers: exact in any order
      for (std::size_t j = 0; j < d.dim; ++j) {
        const float t = d.queries[q * d.dim + j] - d.rows[r * d.dim + j];
        sum += t * t;
      }
      want.push_back(candidate_key(sum, static_cast<std::uint32_t>(r)));
    }
    std::sort(want.begin(), want.end());
    for (std::size_t i = 0; i < k; ++i) {
      const std::int64_t row = i < want.size() ? std::int64_t{key_row(want[i])} : -1;
      const float distance = i < want.size() ? key_distance(want[i]) : kInfinity;
      CHECK(rows[q * k + i] == row && distances[q * k + i] == distance, what, "query", q, "rank", i, rows[q * k + i],
            row);
    }
  }
}

void scan_equals_a_full_sort() {
  const Data d = make_data(10'007, 9, 5);
  std::mt19937 rng(3);
  std::vector<std::uint64_t> filter((d.n + 63) / 64), removed((d.n + 63) / 64);
  for (std::uint64_t& w : filter) w = (std::uint64_t{rng()} << 32 | rng()) & rng();
  for (std::uint64_t& w : removed) w = std::uint64_t{rng()} & rng();
  const auto in = [](const std::vector<std::uint64_t>& bits, std::size_t r) {
    return ((bits[r / 64] >> (r % 64)) & 1) != 0;
  };
  for (const unsigned threads : {1U, 0U}) {
    for (const std::size_t k : {1UL, 10UL, 3000UL}) {
      ScanSpec s = spec_of(d);
      s.threads = threads;
      check_scan(d, s, k, [](std::size_t) { return true; }, "all");
      s.begin = 1001;
      s.end = 9001;
      check_scan(d, s, k, [](std::size_t r) { return r >= 1001 && r < 9001; }, "range");
      s.filter = filter.data();
      s.filter_rows = 8005;
      s.removed = removed.data();
      const auto allowed = [&](std::size_t r) { return r >= 1001 && r < 8005 && in(filter, r) && !in(removed, r); };
      check_scan(d, s, k, allowed, "filter");
      std::size_t count = 0;
      for (std::size_t r = 0; r < d.n; ++r) count += allowed(r) ? 1 : 0;
      CHECK(count_matches(s) == count, count_matches(s), count);

      std::vector<std::uint32_t> list;
      for (std::uint32_t r = 0; r < d.n; r += 3) list.push_back(r);
      std::shuffle(list.begin(), list.end(), rng);
      s.list = list.data();
      s.begin = 0;
      s.end = list.size();
      check_scan(
          d, s, k, [&](std::size_t r) { return r % 3 == 0 && r < 8005 && in(filter, r) && !in(removed, r); },
          "filtered list");
      s.filter = s.removed = nullptr;
      check_scan(d, s, k, [](std::size_t r) { return r % 3 == 0; }, "list");
    }
  }
}

void empty_scans_are_padded() {
  Data d = make_data(0, 4, 2);
  d.queries.assign(8, 1.0F);
  check_scan(d, spec_of(d), 3, [](std::size_t) { return true; }, "no rows");
  const Data some = make_data(100, 4, 2);
  const std::uint64_t none[2] = {0, 0};
  ScanSpec s = spec_of(some);
  s.filter = none;
  s.filter_rows = 100;
  check_scan(some, s, 3, [](std::size_t) { return false; }, "nothing passes");
  CHECK(test::throws<Error>(
      [&] {
        std::int64_t row = 0;
        float distance = 0;
        scan(spec_of(some), some.queries.data(), 16, 1, 0, &row, &distance);
      },
      [](const Error& e) { return e.code() == ErrorCode::invalid_argument; }));
}

// Row r is (r, 0), so its distance to the origin is r * r: a torn row or a removed one that comes back shows.
void searches_run_beside_appends_and_removals() {
  FlatIndex index(2, Metric::l2, DType::f32);
  constexpr std::size_t kRows = 20'000;
  std::atomic<std::size_t> removed_below{0};
  std::atomic<bool> done{false};
  const float zero[2] = {0, 0};
  const auto search = [&] {
    while (!done.load()) {
      const auto floor = static_cast<std::int64_t>(removed_below.load(std::memory_order_acquire));
      const std::size_t before = index.size();
      std::int64_t rows[5];
      float distances[5];
      index.search(zero, 1, 5, 0, nullptr, 0, rows, distances);
      for (std::size_t i = 0; i < 5; ++i) {
        if (rows[i] < 0) continue;
        CHECK(distances[i] == static_cast<float>(rows[i] * rows[i]), rows[i], distances[i]);
        CHECK(rows[i] >= floor, "a removed row came back", rows[i], floor);
      }
      CHECK(before <= index.size());
    }
  };
  std::thread first(search), second(search);
  for (std::size_t r = 0; r < kRows; ++r) {
    const float row[2] = {static_cast<float>(r), 0};
    index.append(reinterpret_cast<const std::byte*>(row), 1);
    if (r % 2 == 1) {
      const auto victim = static_cast<std::int64_t>(r / 2);
      CHECK(index.remove(&victim, 1) == 1);
      removed_below.store(r / 2 + 1, std::memory_order_release);
    }
  }
  done = true;
  first.join();
  second.join();
  CHECK(index.size() == kRows && index.live() == kRows / 2);
}

}  // namespace

int main() {
  keys_order_as_distance_then_row();
  topk_equals_a_full_sort();
  scan_equals_a_full_sort();
  empty_scans_are_padded();
  searches_run_beside_appends_and_removals();
  return vicinal::test::failures();
}
