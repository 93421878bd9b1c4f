// Rows, tombstones and search of the exact index; its file is in flat_file.cpp.
#include "flat/flat_index.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.hpp"
#include "base/reservation.hpp"
#include "distance/rows.hpp"
#include "flat/flat_scan.hpp"

namespace vicinal {
namespace {

constexpr std::size_t kDimMax = 65'536;  // byte kernels are exact up to here
constexpr std::size_t kRowsMax = std::numeric_limits<std::uint32_t>::max();

const char* fault(std::size_t dim, Metric metric, DType dtype) noexcept {
  if (dim == 0 || dim > kDimMax) return "choose a dim from 1 to 65536";
  if (dtype == DType::bit && dim % 8 != 0) return "bit rows need a dim that is a multiple of 8";
  if (dtype == DType::u8) return "u8 is for codes; choose f32, f16, i8 or bit";
  if ((metric == Metric::hamming) != (dtype == DType::bit)) {
    return "hamming goes with bit rows, the other metrics with f32, f16 and i8";
  }
  return nullptr;
}

}  // namespace

void check_vectors(const std::byte* rows, std::size_t stride, std::size_t n, std::size_t dim, DType dtype,
                   Metric metric, const char* what) {
  const RowCheck found = check_rows(rows, stride, n, dim, dtype);
  if (found.first_non_finite >= 0) {
    throw Error(ErrorCode::vector_value, std::string(what) + " " + std::to_string(found.first_non_finite) +
                                             " holds NaN or infinity; every element must be finite");
  }
  if (metric == Metric::cosine && found.first_zero >= 0) {
    throw Error(ErrorCode::vector_value, std::string(what) + " " + std::to_string(found.first_zero) +
                                             " is zero, which has no direction; cosine needs a length above zero");
  }
}

FlatIndex::FlatIndex(std::size_t dim, Metric metric, DType dtype)
    : dim_(dim), metric_(metric), dtype_(dtype), row_size_(row_bytes(dtype, dim)) {
  if (const char* remedy = fault(dim, metric, dtype); remedy != nullptr) {
    throw Error(ErrorCode::invalid_argument, "a flat index of dim " + std::to_string(dim) + ": " + remedy);
  }
  const std::size_t most = reservation_bytes();
  rows_ = ReservedBuffer(std::min(most, kRowsMax * row_size_));
  tombstones_ = ReservedBuffer(std::min(most, kRowsMax / 8 + 8));
  if (metric == Metric::cosine) inverse_norms_ = ReservedBuffer(std::min(most, kRowsMax * sizeof(float)));
}

void FlatIndex::grow(std::size_t n) {
  if (n > kRowsMax) {
    throw Error(ErrorCode::capacity, std::to_string(n) + " rows are above the limit of " + std::to_string(kRowsMax) +
                                         " of one index; split them over several");
  }
  if (metric_ == Metric::cosine) inverse_norms_.grow(n * sizeof(float));
  tombstones_.grow((n + 63) / 64 * sizeof(std::uint64_t));
  rows_.grow(n * row_size_);
  memory_bytes_.store(rows_.committed() + tombstones_.committed() + inverse_norms_.committed(),
                      std::memory_order_relaxed);
}

void FlatIndex::publish(std::size_t begin, std::size_t n) {
  if (metric_ == Metric::cosine) {
    inverse_norms(rows_.data() + begin * row_size_, row_size_, n, dim_, dtype_, best_isa(),
                  inverse_norms_.as<float>() + begin);
  }
  size_.store(begin + n, std::memory_order_release);
}

std::size_t FlatIndex::append(const std::byte* rows, std::size_t n) {
  check_vectors(rows, row_size_, n, dim_, dtype_, metric_, "row");
  const std::lock_guard lock(writer_);
  const std::size_t first = size_.load(std::memory_order_relaxed);
  if (n == 0) return first;
  grow(first + n);
  std::memcpy(rows_.data() + first * row_size_, rows, n * row_size_);
  publish(first, n);
  return first;
}

std::size_t FlatIndex::remove(const std::int64_t* rows, std::size_t n) {
  const std::lock_guard lock(writer_);
  const std::size_t size = size_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < n; ++i) {
    if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= size) {
      throw Error(ErrorCode::invalid_argument, "row " + std::to_string(rows[i]) +
                                                   " does not exist; the index has rows 0 to " + std::to_string(size) +
                                                   " (exclusive)");
    }
  }
  std::size_t count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(rows[i]);
    const std::atomic_ref word(tombstones_.as<std::uint64_t>()[row / 64]);
    const std::uint64_t bit = std::uint64_t{1} << (row % 64);
    count += (word.fetch_or(bit, std::memory_order_relaxed) & bit) == 0 ? 1 : 0;
  }
  removed_.fetch_add(count, std::memory_order_relaxed);
  return count;
}

void FlatIndex::search(const void* queries, std::size_t nq, std::size_t k, unsigned threads,
                       const std::uint64_t* filter, std::size_t filter_words, std::int64_t* out_rows,
                       float* out_distances) const {
  const DType query_type = dtype_ == DType::f16 ? DType::f32 : dtype_;
  const std::size_t query_size = row_bytes(query_type, dim_);
  check_vectors(static_cast<const std::byte*>(queries), query_size, nq, dim_, query_type, metric_, "query");
  ScanSpec spec;
  spec.rows = {rows_.data(), row_size_, size(), dim_, dtype_};
  spec.metric = metric_;
  spec.inverse_norms = metric_ == Metric::cosine ? inverse_norms_.as<float>() : nullptr;
  spec.end = spec.rows.n;
  spec.filter = filter;
  spec.filter_rows = filter_words * 64;
  spec.removed = removed_.load(std::memory_order_relaxed) != 0 ? tombstones_.as<std::uint64_t>() : nullptr;
  spec.threads = threads;
  scan(spec, queries, query_size, nq, k, out_rows, out_distances);
}

void FlatIndex::copy_rows(const std::int64_t* rows, std::size_t n, std::byte* out) const {
  const std::size_t size = this->size();
  for (std::size_t i = 0; i < n; ++i) {
    if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= size) {
      throw Error(ErrorCode::invalid_argument, "row " + std::to_string(rows[i]) +
                                                   " does not exist; the index has rows 0 to " + std::to_string(size) +
                                                   " (exclusive)");
    }
    std::memcpy(out + i * row_size_, rows_.data() + static_cast<std::size_t>(rows[i]) * row_size_, row_size_);
  }
}

std::size_t FlatIndex::memory_bytes() const noexcept { return memory_bytes_.load(std::memory_order_relaxed); }

}  // namespace vicinal
