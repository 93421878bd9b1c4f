// Exact search: every row, every row of a filter, or a given list of rows, against one or many queries.
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/distance.hpp"

namespace vicinal {

// Rows as they lie in memory; row i starts at base + i * stride.
struct RowsView {
  const std::byte* base = nullptr;
  std::size_t stride = 0;  // bytes
  std::size_t n = 0;       // at most 2^32 - 1
  std::size_t dim = 0;     // elements; bits for bit rows
  DType dtype = DType::f32;
};

// What to scan and how. Bitsets have bit r of word r / 64 for row r; `removed` may gain bits while a scan runs.
struct ScanSpec {
  RowsView rows;
  Metric metric = Metric::l2;
  const float* inverse_norms = nullptr;  // of every row; required for cosine

  std::size_t begin = 0;                   // rows [begin, end) are scanned ...
  std::size_t end = 0;                     // (end is cut to rows.n)
  const std::uint32_t* list = nullptr;     // ... or, where set, list[begin .. end), distinct rows in any order
  const std::uint64_t* filter = nullptr;   // rows to take; null takes all
  std::size_t filter_rows = 0;             // rows that the filter speaks of; rows from here on do not pass
  const std::uint64_t* removed = nullptr;  // rows to leave out, as many bits as rows; null leaves out none
  unsigned threads = 1;                    // 0: all of the pool
};

// Writes the k nearest rows of each of nq queries: out_rows and out_distances are (nq, k), ascending by distance with
// ties by row, padded with -1 and +infinity. Query i is queries + i * query_stride bytes, unaligned allowed, of
// float32 (f32 and f16 rows), int8 (i8) or packed bits (bit). Under cosine queries need not be normalised.
// Errors: invalid_argument (k = 0, a metric that does not fit the dtype, cosine without norms), capacity (too many
// rows). Thread-safe. May be called from inside a pool job, where it runs on one thread.
void scan(const ScanSpec& spec, const void* queries, std::size_t query_stride, std::size_t nq, std::size_t k,
          std::int64_t* out_rows, float* out_distances);

// Rows of [begin, end) that pass `filter` and are not in `removed`; counts what scan() without a list would visit.
[[nodiscard]] std::size_t count_matches(const ScanSpec& spec) noexcept;

}  // namespace vicinal
