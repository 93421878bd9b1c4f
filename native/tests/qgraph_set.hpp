// Rows and queries for tests of packed graphs, their exact answers, and what a graph answers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "distance/rows.hpp"
#include "qgraph/half.hpp"
#include "qgraph/qgraph.hpp"

namespace vicinal::qgraph::test {

inline constexpr std::size_t kDegree = 32;
inline constexpr double kRecallFloor = 0.95;  // measured 0.98 to 1.00 on these sets

inline std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (isa_supported(isa)) all.push_back(isa);
  }
  return all;
}

// Clustered vectors, of varied length, away from the origin.
inline std::vector<float> vectors(std::size_t n, std::size_t dim, unsigned seed) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> centres(20 * dim);
  for (float& x : centres) x = 2.0F + normal(random);
  random.seed(seed);
  std::vector<float> rows(n * dim);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t centre = random() % 20;
    const float size = 0.5F + static_cast<float>(random() % 1000) / 1000.0F;
    for (std::size_t d = 0; d < dim; ++d) rows[i * dim + d] = size * (centres[centre * dim + d] + normal(random));
  }
  return rows;
}

inline float exact(const float* a, const float* b, std::size_t dim, Metric metric) {
  double dot = 0, aa = 0, bb = 0, l2 = 0;
  for (std::size_t d = 0; d < dim; ++d) {
    dot += static_cast<double>(a[d]) * b[d];
    aa += static_cast<double>(a[d]) * a[d];
    bb += static_cast<double>(b[d]) * b[d];
    l2 += (static_cast<double>(a[d]) - b[d]) * (static_cast<double>(a[d]) - b[d]);
  }
  if (metric == Metric::l2) return static_cast<float>(l2);
  if (metric == Metric::ip) return static_cast<float>(-dot);
  const double norms = std::sqrt(aa * bb);
  return static_cast<float>(norms > 0 ? 1.0 - dot / norms : 1.0);
}

struct Set {
  std::size_t n, dim;
  Metric metric;
  std::vector<float> rows, queries, norms;
  std::vector<std::uint32_t> ids, counts;

  Set(std::size_t rows_n, std::size_t dimension, Metric m, std::size_t nq = 40)
      : n(rows_n), dim(dimension), metric(m), rows(vectors(n, dim, 1)), queries(vectors(nq, dim, 2)) {
    link();
  }

  // Nearest rows, and some at random so that clusters are connected.
  void link() {
    std::mt19937 random(3);
    ids.assign(n * kDegree, 0);
    counts.assign(n, 0);
    const std::size_t all = std::min(kDegree, n - 1), near = std::min(all, kDegree * 3 / 4);
    std::vector<std::pair<float, std::uint32_t>> order(n);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        order[j] = {i == j ? -1e30F : exact(&rows[i * dim], &rows[j * dim], dim, metric),
                    static_cast<std::uint32_t>(j)};
      }
      std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(near) + 1, order.end());
      for (std::size_t j = 0; j < near; ++j) ids[i * kDegree + j] = order[j + 1].second;
      for (std::size_t j = near; j < all; ++j) ids[i * kDegree + j] = static_cast<std::uint32_t>(random() % n);
      counts[i] = static_cast<std::uint32_t>(all);
    }
    norms.resize(n);
    inverse_norms(reinterpret_cast<const std::byte*>(rows.data()), dim * 4, n, dim, DType::f32, best_isa(),
                  norms.data());
  }

  void read(std::size_t row, float* out) const {
    for (std::size_t d = 0; d < dim; ++d) {
      out[d] = rows[row * dim + d] * (metric == Metric::cosine ? norms[row] : 1.0F);
    }
  }

  // Rows at nodes in reversed order, so that the two numberings are never mixed up unseen.
  [[nodiscard]] std::unique_ptr<QGraph> pack(std::size_t degree = kDegree, std::uint32_t bits = 0) const {
    auto graph = std::make_unique<QGraph>(dim, metric, degree, 1, bits != 0 ? bits : bits_for(dim));
    graph->train(n, [&](std::size_t row, float* out) { read(row, out); });
    graph->grow(n);
    std::vector<float> values(dim);
    AlignedBuffer<float> aligned(graph->padded());
    for (std::size_t i = 0; i < n; ++i)
      graph->place(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(n - 1 - i));
    for (std::size_t i = 0; i < n; ++i) {
      read(i, values.data());
      graph->encode_own(static_cast<std::uint32_t>(i), values.data(), aligned.data());
    }
    for (std::size_t i = 0; i < n; ++i) {
      graph->encode_edges(static_cast<std::uint32_t>(i), &ids[i * kDegree], counts[i], true);
    }
    return graph;
  }
  [[nodiscard]] std::size_t nq() const { return queries.size() / dim; }

  [[nodiscard]] std::vector<std::uint32_t> truth(std::size_t q, std::size_t k,
                                                 const std::vector<std::uint64_t>* allow = nullptr) const {
    std::vector<std::pair<float, std::uint32_t>> order;
    for (std::size_t j = 0; j < n; ++j) {
      if (allow != nullptr && ((*allow)[j / 64] >> (j % 64) & 1) == 0) continue;
      order.emplace_back(exact(&queries[q * dim], &rows[j * dim], dim, metric), static_cast<std::uint32_t>(j));
    }
    std::sort(order.begin(), order.end());
    std::vector<std::uint32_t> best;
    for (std::size_t j = 0; j < std::min(k, order.size()); ++j) best.push_back(order[j].second);
    return best;
  }
};

struct Answer {
  std::vector<std::int64_t> rows;
  std::vector<float> distances;
};

// Exact distances of what the graph proposes, as the index computes them.
struct Exact {
  const Set& set;
  std::size_t k;
  Answer answer;

  static const std::byte* where(const void* context, std::uint32_t row) noexcept {
    const Set& of = static_cast<const Exact*>(context)->set;
    return reinterpret_cast<const std::byte*>(&of.rows[row * of.dim]);
  }
  static void rerank(const void* context, std::size_t query, const std::uint32_t* rows, std::size_t n) noexcept {
    auto& self = *const_cast<Exact*>(static_cast<const Exact*>(context));
    std::vector<std::pair<float, std::uint32_t>> order;
    for (std::size_t i = 0; i < n; ++i) {
      order.emplace_back(exact(&self.set.queries[query * self.set.dim], &self.set.rows[rows[i] * self.set.dim],
                               self.set.dim, self.set.metric),
                         rows[i]);
    }
    std::sort(order.begin(), order.end());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    for (std::size_t i = 0; i < std::min(self.k, order.size()); ++i) {
      self.answer.rows[query * self.k + i] = order[i].second;
      self.answer.distances[query * self.k + i] = order[i].first;
    }
  }
};

inline Answer ask(const QGraph& graph, const Set& set, SearchOptions options) {
  Exact exact{set,
              options.k,
              {std::vector<std::int64_t>(set.nq() * options.k, -1),
               std::vector<float>(set.nq() * options.k, __builtin_inff())}};
  const std::uint32_t entry = 0;
  options.entries = &entry;
  options.n_entries = 1;
  options.limit = static_cast<std::uint32_t>(set.n);
  options.ef = std::max(options.ef, options.k);
  graph.search(set.queries.data(), set.nq(), options, {&exact, &Exact::where, set.dim * sizeof(float), &Exact::rerank});
  return exact.answer;
}

inline Answer ask(const std::unique_ptr<QGraph>& graph, const Set& set, const SearchOptions& options) {
  return ask(*graph, set, options);
}

inline double recall(const Set& set, const Answer& a, std::size_t k,
                     const std::vector<std::uint64_t>* allow = nullptr) {
  std::size_t found = 0, wanted = 0;
  for (std::size_t q = 0; q < set.nq(); ++q) {
    for (const std::uint32_t row : set.truth(q, k, allow)) {
      ++wanted;
      found += static_cast<std::size_t>(std::count(&a.rows[q * k], &a.rows[q * k] + k, std::int64_t{row}));
    }
  }
  return static_cast<double>(found) / static_cast<double>(wanted);
}

// Distances are those of the stored rows, ascending, ties by row, no row twice, padding at the end.
inline void check_answer(const Set& set, const Answer& a, std::size_t k) {
  for (std::size_t q = 0; q < set.nq(); ++q) {
    for (std::size_t i = 0; i < k; ++i) {
      const std::int64_t row = a.rows[q * k + i];
      const float d = a.distances[q * k + i];
      if (row < 0) {
        CHECK(row == -1 && std::isinf(d), row, d);
        continue;
      }
      const float e =
          exact(&set.queries[q * set.dim], &set.rows[static_cast<std::size_t>(row) * set.dim], set.dim, set.metric);
      CHECK(std::fabs(d - e) <= 1e-4F * (1.0F + std::fabs(e)), q, i, d, e);
      if (i == 0) continue;
      const std::int64_t before = a.rows[q * k + i - 1];
      CHECK(before >= 0, q, i);
      CHECK(d > a.distances[q * k + i - 1] || (d == a.distances[q * k + i - 1] && row > before), q, i, row, before);
    }
  }
}

}  // namespace vicinal::qgraph::test
