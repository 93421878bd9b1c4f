// The stored rows: the exact bytes the user gave, their exact distances, and what makes a row acceptable.
//
// One writer appends; readers may look at every row below a size they learnt by an acquire load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "distance/distance.hpp"

namespace vicinal::graph {

// A query made ready for exact distances: `data` is the caller's memory, and the inverse norm is 1 but for cosine.
struct ExactQuery {
  const void* data = nullptr;
  float inverse_norm = 1.0F;
};

class Rows {
 public:
  Rows(std::size_t dim, Metric metric, DType dtype);

  // Throw Error{vector_value} naming the first row or query with NaN, infinity or (cosine) no length.
  void check(const std::byte* rows, std::size_t n) const;
  void check_queries(const std::byte* queries, std::size_t n) const;
  // Whether they pass check_queries() and, under cosine, have a direction that float32 does not round away.
  [[nodiscard]] bool sound_queries(const std::byte* queries, std::size_t n) const noexcept;
  void append(const std::byte* rows, std::size_t n, std::size_t at);
  // Serves rows [0, n) from memory that the caller keeps alive and unchanged; only for an empty store.
  void attach(const std::byte* rows, std::size_t n, bool with_norms = true);
  void clear() noexcept;  // forgets attached rows

  [[nodiscard]] ExactQuery query(const void* data) const noexcept;
  // Exact distance of each listed row (rows == nullptr: first, first + 1, ...).
  void distances(const ExactQuery& q, const std::uint32_t* rows, std::size_t first, std::size_t n,
                 float* out) const noexcept;
  void prefetch(std::uint32_t row) const noexcept;
  // What distances() reads of a row beside the row itself.
  void prefetch_norm(std::uint32_t row) const noexcept {
    if (metric_ == Metric::cosine) __builtin_prefetch(inverse_norms_.as<float>() + row, 0, 2);
  }
  // The row as floats, unscaled; for i8 too. Not for bit.
  void to_float(const std::byte* row, float* out) const noexcept;
  void query_to_float(const void* query, float* out) const noexcept;

  [[nodiscard]] const std::byte* row(std::size_t r) const noexcept {
    return r < n_external_ ? external_ + r * row_bytes_ : own_.data() + (r - n_external_) * row_bytes_;
  }
  [[nodiscard]] float inverse_norm(std::size_t r) const noexcept { return inverse_norms_.as<float>()[r]; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_; }
  [[nodiscard]] Metric metric() const noexcept { return metric_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] std::size_t n_external() const noexcept { return n_external_; }
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
  [[nodiscard]] std::size_t mapped_bytes() const noexcept;
  // The growing blocks, for saving and for filling an empty store from a file.
  [[nodiscard]] ReservedBuffer& row_block() noexcept { return own_; }
  [[nodiscard]] ReservedBuffer& norm_block() noexcept { return inverse_norms_; }
  [[nodiscard]] const ReservedBuffer& norm_block() const noexcept { return inverse_norms_; }

 private:
  void note_norms(const std::byte* rows, std::size_t n, std::size_t at);

  std::size_t dim_;
  Metric metric_;
  DType dtype_;
  std::size_t row_bytes_;
  Distance kernel_;
  const std::byte* external_ = nullptr;
  std::size_t n_external_ = 0;
  ReservedBuffer own_;
  ReservedBuffer inverse_norms_;  // float each, cosine only
};

}  // namespace vicinal::graph
