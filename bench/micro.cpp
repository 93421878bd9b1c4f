// What single building blocks of the core give, each beside the plain way of doing the same: instruction sets, layout
// of rows, memory of searches, selection of the best, counters shared by threads, and the thread pool.
//
// Prints a line for each measurement, its fields parted by tabs: part, what, size or threads, nanoseconds of one
// distance, row, search, addition or job. Every figure is the best of some passes, and both sides of a comparison take
// turns in each pass.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <queue>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/thread_pool.hpp"
#include "base/topk.hpp"
#include "distance/distance.hpp"
#include "distance/rows.hpp"
#include "graph/scratch.hpp"

using namespace vicinal;

namespace {

using Work = std::function<void()>;
volatile float sink;  // keeps results alive

double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The best of the passes of each, in turns; printed as nanoseconds of one of `n` items.
void compare(const char* part, std::size_t size, std::size_t n, int passes,
             const std::vector<std::pair<std::string, Work>>& sides) {
  std::vector<double> best(sides.size(), 1e30);
  for (int pass = 0; pass < passes; ++pass) {
    for (std::size_t i = 0; i < sides.size(); ++i) best[i] = std::min(best[i], seconds(sides[i].second));
  }
  for (std::size_t i = 0; i < sides.size(); ++i) {
    std::printf("%s\t%s\t%zu\t%.3f\n", part, sides[i].first.c_str(), size, 1e9 * best[i] / static_cast<double>(n));
  }
}

std::vector<float> random_floats(std::size_t n) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> value(-1.0F, 1.0F);
  std::vector<float> found(n);
  for (float& v : found) v = value(random);
  return found;
}

const std::byte* bytes(const float* p) { return reinterpret_cast<const std::byte*>(p); }

// Distances and quantisation on every instruction set that this processor has, rows in the cache.
void simd(int passes) {
  for (const std::size_t dim : {2, 4, 8, 16, 32, 128, 960}) {
    const std::size_t n = std::max<std::size_t>(64, 16384 / dim);
    const std::size_t repeats = 4'000'000 / (n * dim) + 1;
    const std::vector<float> rows = random_floats(n * dim);
    std::vector<float> out(n);
    std::vector<float> low(dim, -1.0F);
    std::vector<float> scale(dim, 127.5F);
    std::vector<std::uint8_t> codes(dim);
    std::vector<std::pair<std::string, Work>> l2;
    std::vector<std::pair<std::string, Work>> quantise;
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
      if (!isa_supported(isa)) continue;
      const Distance d = distance(DType::f32, Kernel::l2, isa);
      l2.emplace_back(std::string("l2 ") + isa_name(isa), [&, d] {
        for (std::size_t r = 0; r < repeats; ++r) {
          d.batch(rows.data(), bytes(rows.data()), dim * 4, nullptr, n, dim, out.data());
          sink = out[r % n];
        }
      });
      const QuantiseFn q = quantise_u8(DType::f32, isa);
      quantise.emplace_back(std::string("quantise ") + isa_name(isa), [&, q] {
        for (std::size_t i = 0; i < n * repeats; ++i) {
          q(rows.data() + i % n * dim, dim, low.data(), scale.data(), codes.data());
          sink = static_cast<float>(codes[i % dim]);
        }
      });
    }
    compare("simd", dim, n * repeats, passes, l2);
    compare("simd", dim, n * repeats, passes, quantise);
  }
}

// The same distances over rows that lie in different ways; more rows than the caches hold.
void layout(int passes) {
  constexpr std::size_t n = 200'000;
  constexpr std::size_t dim = 128;
  constexpr std::size_t group = 16;  // rows of a block whose dimensions lie side by side
  const Distance d = distance(DType::f32, Kernel::l2, best_isa());
  const std::vector<float> values = random_floats(n * dim);
  AlignedBuffer<float> aligned(n * dim + group);
  std::copy(values.begin(), values.end(), aligned.begin());
  AlignedBuffer<float> shifted(n * dim + group);
  float* const askew = shifted.data() + 1;
  std::copy(values.begin(), values.end(), askew);
  AlignedBuffer<float> by_dimension(n * dim);
  std::unordered_map<std::uint32_t, std::unique_ptr<float[]>> nodes;
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), std::mt19937(3));
  for (const std::uint32_t row : order) {
    auto& node = nodes[row] = std::make_unique<float[]>(dim);
    std::copy_n(values.data() + row * dim, dim, node.get());
    for (std::size_t j = 0; j < dim; ++j) {
      by_dimension[row / group * group * dim + j * group + row % group] = values[row * dim + j];
    }
  }
  std::vector<float> out(n);
  const float* query = values.data();
  const auto scan = [&](const float* base) {
    d.batch(query, bytes(base), dim * 4, nullptr, n, dim, out.data());
    sink = out[1];
  };
  compare("scan of all rows", n, n, passes,
          {{"rows in one block, 64-byte aligned", [&] { scan(aligned.data()); }},
           {"rows in one block, 4 bytes off", [&] { scan(askew); }},
           {"dimension-wise in groups of 16",
            [&] {
              for (std::size_t first = 0; first < n; first += group) {
                const float* block = by_dimension.data() + first * dim;
                float sums[group] = {};
                for (std::size_t j = 0; j < dim; ++j) {
                  for (std::size_t i = 0; i < group; ++i) {
                    const float difference = block[j * group + i] - query[j];
                    sums[i] += difference * difference;
                  }
                }
                std::copy_n(sums, group, out.data() + first);
              }
              sink = out[1];
            }},
           {"an object for each row", [&] {
              for (std::uint32_t row = 0; row < n; ++row) out[row] = d.pair(query, nodes.find(row)->second.get(), dim);
              sink = out[1];
            }}});
  // As a graph asks for them: a few rows here and there, by number.
  constexpr std::size_t asked = 32;
  compare("32 rows by number", n, n, passes,
          {{"rows in one block",
            [&] {
              for (std::size_t at = 0; at < n; at += asked) {
                d.batch(query, bytes(aligned.data()), dim * 4, order.data() + at, asked, dim, out.data());
              }
              sink = out[1];
            }},
           {"a map of objects", [&] {
              for (std::size_t at = 0; at < n; at += asked) {
                for (std::size_t i = 0; i < asked; ++i) {
                  out[i] = d.pair(query, nodes.find(order[at + i])->second.get(), dim);
                }
              }
              sink = out[1];
            }}});
}

// Rows and working memory: kept and lent, or asked of the allocator each time.
void memory(int passes) {
  constexpr std::size_t n = 100'000;
  constexpr std::size_t dim = 128;
  const std::vector<float> row = random_floats(dim);
  compare("append a row", dim, n, passes,
          {{"reserved buffer",
            [&] {
              ReservedBuffer rows(n * dim * 4);
              for (std::size_t i = 0; i < n; ++i) {
                rows.grow((i + 1) * dim * 4);
                std::copy_n(row.data(), dim, rows.as<float>() + i * dim);
              }
              sink = rows.as<float>()[n];
            }},
           {"allocation of its own", [&] {
              std::vector<std::unique_ptr<float[]>> rows;
              for (std::size_t i = 0; i < n; ++i) {
                rows.push_back(std::make_unique<float[]>(dim));
                std::copy_n(row.data(), dim, rows.back().get());
              }
              sink = rows.back()[1];
            }}});
  constexpr std::size_t searches = 200;
  constexpr std::size_t in_flight = 4;
  graph::ScratchPool pool;
  compare("working memory of a search", n, searches, passes,
          {{"lent by the pool",
            [&] {
              for (std::size_t i = 0; i < searches; ++i) pool.lease()->prepare(in_flight, n, 64);
            }},
           {"made for it", [&] {
              for (std::size_t i = 0; i < searches; ++i) graph::Scratch().prepare(in_flight, n, 64);
            }}});
}

// The k smallest of n distances.
void selection(int passes) {
  constexpr std::size_t n = 100'000;
  const std::vector<float> distances = random_floats(n);
  std::vector<std::uint64_t> keys(n);
  for (const std::size_t k : {10, 100, 1000}) {
    compare("smallest of 100,000", k, n, passes,
            {{"partial selection",
              [&] {
                TopK top(k);
                top.offer(distances.data(), nullptr, 0, n);
                sink = key_distance(top.sorted()[0]);
              }},
             {"heap",
              [&] {
                std::priority_queue<std::uint64_t> heap;
                for (std::size_t i = 0; i < n; ++i) {
                  const std::uint64_t key = candidate_key(distances[i], static_cast<std::uint32_t>(i));
                  if (heap.size() == k && key >= heap.top()) continue;
                  if (heap.size() == k) heap.pop();
                  heap.push(key);
                }
                sink = key_distance(heap.top());
              }},
             {"full sort", [&] {
                for (std::size_t i = 0; i < n; ++i) {
                  keys[i] = candidate_key(distances[i], static_cast<std::uint32_t>(i));
                }
                std::sort(keys.begin(), keys.end());
                sink = key_distance(keys[k]);
              }}});
  }
}

void on_threads(unsigned threads, const std::function<void(unsigned)>& body) {
  std::vector<std::thread> others;
  for (unsigned t = 1; t < threads; ++t) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
}

// A number that all threads add to, and taking chunks of a queue of work.
void counters(int passes) {
  constexpr std::size_t total = 1 << 18;
  for (unsigned threads = 1; threads <= 32; threads *= 2) {
    const std::size_t each = total / threads;
    compare("shared counter", threads, total, passes,
            {{"atomic",
              [&] {
                std::atomic<std::size_t> count{0};
                on_threads(threads, [&](unsigned) {
                  for (std::size_t i = 0; i < each; ++i) count.fetch_add(1, std::memory_order_relaxed);
                });
                sink = static_cast<float>(count.load());
              }},
             {"mutex", [&] {
                std::mutex mutex;
                std::size_t count = 0;
                on_threads(threads, [&](unsigned) {
                  for (std::size_t i = 0; i < each; ++i) {
                    const std::lock_guard lock(mutex);
                    ++count;
                  }
                });
                sink = static_cast<float>(count);
              }}});
  }
}

// What handing work to the pool costs, and what threads give on distances.
void threads(int passes) {
  constexpr std::size_t n = 65'536;
  constexpr std::size_t dim = 128;
  constexpr std::size_t jobs = 500;
  const Distance d = distance(DType::f32, Kernel::l2, best_isa());
  const std::vector<float> rows = random_floats(n * dim);
  std::vector<float> out(n);
  for (unsigned count = 1; count <= 32; count *= 2) {
    ThreadPool pool(count);
    // Each chunk waits for all others to have begun, so that every thread must have come.
    const auto meet = [&] {
      std::atomic<unsigned> begun{0};
      pool.parallel_for(count, count, 1, [&](std::size_t, std::size_t, unsigned) {
        begun.fetch_add(1);
        while (begun.load() < count) std::this_thread::yield();
      });
    };
    compare("handing over a job", count, jobs, passes, {{"pool", [&] {
                                                           for (std::size_t i = 0; i < jobs; ++i) meet();
                                                         }}});
    compare("distances in parallel", count, n, passes,
            {{"pool", [&] {
                pool.parallel_for(n, count, 1024, [&](std::size_t first, std::size_t last, unsigned) {
                  d.batch(rows.data(), bytes(rows.data() + first * dim), dim * 4, nullptr, last - first, dim,
                          out.data() + first);
                });
                sink = out[1];
              }}});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int passes = argc > 1 ? std::atoi(argv[1]) : 5;
  const std::string only = argc > 2 ? argv[2] : "";
  const std::pair<const char*, void (*)(int)> parts[] = {{"simd", simd},         {"layout", layout},
                                                         {"memory", memory},     {"selection", selection},
                                                         {"counters", counters}, {"threads", threads}};
  for (const auto& [name, part] : parts) {
    if (only.empty() || only == name) part(passes);
  }
  return 0;
}
