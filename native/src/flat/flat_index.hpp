// The exact index: rows in order of appending, tombstones, and the scan. It is also what other indexes are tested
// against.
//
// Searches take no lock and see every row appended before they began. Appends, removals and save() exclude each other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/aligned_buffer.hpp"
#include "distance/distance.hpp"

namespace vicinal {

class FlatIndex {
 public:
  // Error{invalid_argument} for a dimension of 0 or above 65536, bits that are no multiple of 8, or a metric that does
  // not apply to the dtype.
  FlatIndex(std::size_t dim, Metric metric, DType dtype);

  // Copies n rows and returns the first one's number. All or nothing; Error{vector_value} names the first row with NaN,
  // infinity or (cosine) zero length.
  std::size_t append(const std::byte* rows, std::size_t n);

  // Tombstones rows and returns how many were live. Error{invalid_argument} names an unknown row; then none is removed.
  std::size_t remove(const std::int64_t* rows, std::size_t n);

  // See scan() in flat_scan.hpp. `filter` has filter_words words, or is null; rows past its end do not pass.
  // Error{vector_value} for a query that append() would refuse.
  void search(const void* queries, std::size_t nq, std::size_t k, unsigned threads, const std::uint64_t* filter,
              std::size_t filter_words, std::int64_t* out_rows, float* out_distances) const;

  // Copies the bytes of the listed rows, removed ones included. Error{invalid_argument} names an unknown row.
  void copy_rows(const std::int64_t* rows, std::size_t n, std::byte* out) const;

  // Writes the index atomically; load() verifies magic, version, size and a CRC-32C of each block (Error{corrupt}).
  void save(const std::string& path) const;
  [[nodiscard]] static std::unique_ptr<FlatIndex> load(const std::string& path);

  [[nodiscard]] std::size_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  [[nodiscard]] std::size_t live() const noexcept { return size() - removed_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] Metric metric() const noexcept { return metric_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] std::size_t row_size() const noexcept { return row_size_; }  // bytes
  [[nodiscard]] std::size_t memory_bytes() const noexcept;

 private:
  void grow(std::size_t n);                        // room for n rows in every block; writer's lock held
  void publish(std::size_t begin, std::size_t n);  // norms of new rows, then the new size

  std::size_t dim_;
  Metric metric_;
  DType dtype_;
  std::size_t row_size_;
  ReservedBuffer rows_;
  ReservedBuffer inverse_norms_;  // float each; cosine only
  ReservedBuffer tombstones_;     // bit r of word r / 64
  std::atomic<std::size_t> size_{0};
  std::atomic<std::size_t> removed_{0};
  std::atomic<std::size_t> memory_bytes_{0};
  mutable std::mutex writer_;
};

// Error{vector_value} naming the first of n rows that is not finite or, under cosine, zero; `what` is "row" or "query".
void check_vectors(const std::byte* rows, std::size_t stride, std::size_t n, std::size_t dim, DType dtype,
                   Metric metric, const char* what);

}  // namespace vicinal
