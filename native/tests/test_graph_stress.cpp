// Everything at once: threads append, link, remove, repair, save and search with and without filters, and every answer
// is checked against what must hold at any moment. Meant for the thread sanitizer as much as for itself.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "graph/graph_index.hpp"

namespace {

using namespace vicinal;
using namespace vicinal::graph;

constexpr std::size_t kDim = 16;

std::mutex report_mutex;

#define CHECK_HERE(condition, ...)                 \
  do {                                             \
    if (!(condition)) {                            \
      const std::lock_guard lock(report_mutex);    \
      CHECK(condition __VA_OPT__(, ) __VA_ARGS__); \
    }                                              \
  } while (false)

std::vector<float> rows_from(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n * kDim);
  for (float& x : rows) x = normal(random);
  return rows;
}

const std::byte* bytes(const float* rows) { return reinterpret_cast<const std::byte*>(rows); }

void everything_at_once(std::size_t n, Metric metric) {
  const std::vector<float> rows = rows_from(n, 1);
  const std::vector<float> queries = rows_from(64, 2);
  GraphConfig config;
  config.dim = kDim;
  config.metric = metric;
  config.M = 12;
  config.ef_construction = 40;
  GraphIndex index(config);
  const std::size_t begin = n / 4;
  index.append(bytes(rows.data()), begin);
  index.link(SIZE_MAX, 2, {});

  std::atomic<bool> done{false};
  std::atomic<std::size_t> appended{begin};   // rows that a search starting now must see
  std::atomic<std::size_t> removed_below{0};  // rows r < this with r % 5 == 0 are removed
  std::vector<std::thread> threads;

  threads.emplace_back([&] {
    std::mt19937_64 random(3);
    for (std::size_t at = begin; at < n;) {
      const std::size_t count = std::min<std::size_t>(n - at, 1 + random() % 40);
      CHECK_HERE(index.append(bytes(rows.data() + at * kDim), count) == at);
      at += count;
      appended.store(at);
      // Not faster than the others can follow: all of it is to overlap.
      while (index.size() > index.linked() + 400) std::this_thread::yield();
    }
    done.store(true);
  });
  threads.emplace_back([&] {
    while (!done.load() || index.linked() < index.size()) index.link(200, 2, {});
  });
  threads.emplace_back([&] {
    // Once more after all are there: on a machine with other work the first time may be then.
    for (bool last = false; !last;) {
      last = done.load();
      const std::size_t upper = appended.load();
      std::vector<std::int64_t> gone;
      for (std::size_t r = removed_below.load(); r < upper / 2; ++r) {
        if (r % 5 == 0) gone.push_back(static_cast<std::int64_t>(r));
      }
      CHECK_HERE(index.remove(gone.data(), gone.size()) == gone.size());
      removed_below.store(std::max(removed_below.load(), upper / 2));
      index.repair(1);
      std::this_thread::yield();
    }
  });
  threads.emplace_back([&] {
    while (!done.load()) {
      const std::vector<std::int64_t> keep = index.live_rows();
      const auto copy = index.compact(keep, nullptr, 0, 1);
      CHECK_HERE(copy->size() == keep.size());
      CHECK_HERE(copy->live() <= keep.size());
      std::int64_t found = -1;
      float distance = 0.0F;
      SearchParameters exact;
      exact.k = 1;
      exact.exact = true;
      const std::int64_t last = keep.back();
      copy->search(bytes(rows.data() + static_cast<std::size_t>(last) * kDim), 1, exact, &found, &distance);
      CHECK_HERE(metric == Metric::ip || !copy->is_live(static_cast<std::uint32_t>(keep.size()) - 1) ||
                 distance < 1e-4F);
      std::this_thread::yield();
    }
  });
  threads.emplace_back([&] {
    const std::string path = "/tmp/vicinal_stress_" + std::to_string(::getpid());
    while (!done.load()) {
      index.save(path, true);
      const auto copy = GraphIndex::load(path, true, nullptr, 0);
      CHECK_HERE(copy->linked() <= copy->size());
      ::unlink(path.c_str());
      std::this_thread::yield();
    }
  });
  for (unsigned searcher = 0; searcher < 2; ++searcher) {
    threads.emplace_back([&, searcher] {
      std::mt19937_64 random(10 + searcher);
      std::vector<std::int64_t> found(8 * 10);
      std::vector<float> distances(8 * 10);
      for (std::size_t round = 0; !done.load() || round < 20; ++round) {
        const std::size_t visible = appended.load();
        const std::size_t gone_below = removed_below.load();
        SearchParameters p;
        p.ef_search = 10 + random() % 60;
        p.threads = searcher + 1;
        std::vector<std::uint64_t> filter((visible + 63) / 64);
        const bool filtered = random() % 2 == 0;
        if (filtered) {
          const std::uint64_t stride = 1 + random() % 40;
          for (std::size_t r = 0; r < visible; r += stride) filter[r / 64] |= std::uint64_t{1} << (r % 64);
          p.filter = filter.data();
          p.filter_words = filter.size();
          p.strategy = static_cast<Strategy>(random() % 4);
        }
        const std::size_t nq = 1 + random() % 8;
        const std::size_t first = random() % (64 - nq);
        index.search(bytes(queries.data() + first * kDim), nq, p, found.data(), distances.data());
        for (std::size_t q = 0; q < nq; ++q) {
          std::set<std::int64_t> seen;
          for (std::size_t i = 0; i < p.k; ++i) {
            const std::int64_t row = found[q * p.k + i];
            if (filtered && row < 0) continue;
            CHECK_HERE(row >= 0, "fewer than k results");
            if (row < 0) continue;
            CHECK_HERE(seen.insert(row).second, "a row twice", row);
            CHECK_HERE(!(row % 5 == 0 && static_cast<std::size_t>(row) < gone_below), "a removed row", row);
            CHECK_HERE(!filtered || test_bit(filter.data(), static_cast<std::uint32_t>(row)), "a filtered row", row);
          }
        }
        // A row appended before this search began is found by its own vector.
        const std::size_t own = visible - 1;
        if (own % 5 != 0) {
          SearchParameters exact;
          exact.k = 1;
          exact.exact = true;
          index.search(bytes(rows.data() + own * kDim), 1, exact, found.data(), distances.data());
          CHECK_HERE(metric == Metric::ip || found[0] == static_cast<std::int64_t>(own), found[0], own);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  index.repair(2);
  CHECK(index.linked() == n);
  CHECK(index.live() < n - n / 50, index.live());
  const Adjacency edges = index.adjacency();
  for (std::uint32_t r = 0; r < n; ++r) {
    if (!index.is_live(r)) continue;
    for (std::uint32_t i = 0; i < edges.degree; ++i) CHECK(index.is_live(edges.row(r)[i]), r);
  }
  std::size_t lost = 0;
  SearchParameters p;
  p.k = 1;
  p.ef_search = 64;
  for (std::size_t r = 0; r < n; ++r) {
    if (metric == Metric::ip || !index.is_live(static_cast<std::uint32_t>(r))) continue;
    std::int64_t found = -1;
    float distance = 0;
    index.search(bytes(rows.data() + r * kDim), 1, p, &found, &distance);
    lost += found != static_cast<std::int64_t>(r) ? 1U : 0U;
  }
  CHECK(lost * 25 <= n, "rows not found by their own vectors", lost, n, index.live());
}

}  // namespace

int main() {
  const bool slow = test::slow();
  everything_at_once(slow ? 1000 : 12000, Metric::l2);
  everything_at_once(slow ? 800 : 6000, Metric::cosine);
  everything_at_once(slow ? 600 : 4000, Metric::ip);
  return test::failures();
}
