// Searches that follow one another work in memory that was made for the first: queries' norms, rotations and one-byte
// codes, candidates, visited marks, distances. What a call asks of the allocator does not grow with its queries.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <random>
#include <vector>

#include "check.hpp"
#include "graph/graph_index.hpp"

namespace {

std::atomic<std::size_t> allocations{0};

void* counted(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

using namespace vicinal;
using namespace vicinal::graph;

namespace {

void searches_allocate_the_same_for_one_query_and_for_many(Format format) {
  constexpr std::size_t dim = 64;
  constexpr std::size_t n = 3000;
  constexpr std::size_t many = 64;
  std::mt19937 random(5);
  std::normal_distribution<float> value;
  std::vector<float> rows(n * dim);
  for (float& v : rows) v = value(random);
  GraphConfig config;
  config.dim = dim;
  config.metric = Metric::cosine;
  config.format = format;
  GraphIndex index(config);
  index.build(reinterpret_cast<const std::byte*>(rows.data()), n, 1, true, {});
  SearchParameters p;
  std::vector<std::int64_t> found(many * p.k);
  std::vector<float> distances(many * p.k);
  const auto count = [&](std::size_t queries) {
    const auto* from = reinterpret_cast<const std::byte*>(rows.data());
    index.search(from, queries, p, found.data(), distances.data());
    const std::size_t before = allocations.load();
    index.search(from, queries, p, found.data(), distances.data());
    return allocations.load() - before;
  };
  const std::size_t first = count(1);
  const std::size_t later = count(many);
  CHECK(first <= 8, first);
  CHECK(later == first, later, first);
}

}  // namespace

int main() {
  searches_allocate_the_same_for_one_query_and_for_many(Format::sq8);
  searches_allocate_the_same_for_one_query_and_for_many(Format::rabitq);
  return test::failures();
}
