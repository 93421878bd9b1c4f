#include "graph/rows.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "base/error.hpp"
#include "base/reservation.hpp"
#include "distance/rows.hpp"

namespace vicinal::graph {
namespace {

Kernel kernel_of(Metric metric) {
  switch (metric) {
    case Metric::l2:
      return Kernel::l2;
    case Metric::ip:
    case Metric::cosine:
      return Kernel::dot;
    case Metric::hamming:
      return Kernel::hamming;
    case Metric::manhattan:
      return Kernel::l1;
  }
  throw Error(ErrorCode::internal, "metric without a kernel");
}

float half_to_float(std::uint16_t h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(h & 0x7FFFU) << 13;
  // The exponent's bias grows from 15 to 127 by a multiplication, which also normalises subnormal numbers.
  float value = 0;
  std::memcpy(&value, &magnitude, sizeof(value));
  value *= 0x1p112F;
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  bits |= sign;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void raise_bad_row(const RowCheck& found, Metric metric, const char* what) {
  if (found.first_non_finite >= 0) {
    throw Error(ErrorCode::vector_value, std::string(what) + " " + std::to_string(found.first_non_finite) +
                                             " holds NaN or infinity; every element must be finite");
  }
  if (metric == Metric::cosine && found.first_zero >= 0) {
    throw Error(ErrorCode::vector_value, std::string(what) + " " + std::to_string(found.first_zero) +
                                             " is zero and has no direction; cosine needs a length");
  }
}

}  // namespace

Rows::Rows(std::size_t dim, Metric metric, DType dtype)
    : dim_(dim),
      metric_(metric),
      dtype_(dtype),
      row_bytes_(vicinal::row_bytes(dtype, dim)),
      kernel_(distance(dtype, kernel_of(metric), best_isa())),
      own_(reservation_bytes()) {
  if (metric == Metric::cosine) inverse_norms_ = ReservedBuffer(reservation_bytes() / 4);
}

void Rows::check(const std::byte* rows, std::size_t n) const {
  raise_bad_row(check_rows(rows, row_bytes_, n, dim_, dtype_), metric_, "vector");
}

bool Rows::sound_queries(const std::byte* queries, std::size_t n) const noexcept {
  const DType type = dtype_ == DType::f16 ? DType::f32 : dtype_;
  if (type == DType::f32 && usual_squares(queries, n, dim_)) return true;
  const RowCheck found = check_rows(queries, vicinal::row_bytes(type, dim_), n, dim_, type);
  if (found.first_non_finite >= 0) return false;
  return metric_ != Metric::cosine || (type != DType::f32 && found.first_zero < 0);
}

void Rows::check_queries(const std::byte* queries, std::size_t n) const {
  if (sound_queries(queries, n)) return;
  const DType type = dtype_ == DType::f16 ? DType::f32 : dtype_;
  raise_bad_row(check_rows(queries, vicinal::row_bytes(type, dim_), n, dim_, type), metric_, "query");
}

void Rows::note_norms(const std::byte* rows, std::size_t n, std::size_t at) {
  if (metric_ != Metric::cosine) return;
  inverse_norms_.grow((at + n) * sizeof(float));
  inverse_norms(rows, row_bytes_, n, dim_, dtype_, best_isa(), inverse_norms_.as<float>() + at);
}

void Rows::append(const std::byte* rows, std::size_t n, std::size_t at) {
  own_.grow((at - n_external_ + n) * row_bytes_);
  note_norms(rows, n, at);
  std::memcpy(own_.data() + (at - n_external_) * row_bytes_, rows, n * row_bytes_);
}

void Rows::attach(const std::byte* rows, std::size_t n, bool with_norms) {
  if (with_norms) note_norms(rows, n, 0);
  external_ = rows;
  n_external_ = n;
}

void Rows::clear() noexcept {
  external_ = nullptr;
  n_external_ = 0;
}

ExactQuery Rows::query(const void* data) const noexcept {
  ExactQuery q{data, 1.0F};
  if (metric_ == Metric::cosine) {
    const DType type = dtype_ == DType::f16 ? DType::f32 : dtype_;
    inverse_norms(static_cast<const std::byte*>(data), 0, 1, dim_, type, best_isa(), &q.inverse_norm);
  }
  return q;
}

void Rows::distances(const ExactQuery& q, const std::uint32_t* rows, std::size_t first, std::size_t n,
                     float* out) const noexcept {
  bool all_own = n_external_ == 0 || (rows == nullptr && first >= n_external_);
  bool all_external = n_external_ != 0 && (rows != nullptr || first + n <= n_external_);
  if (n_external_ != 0 && rows != nullptr) {
    for (std::size_t i = 0; i < n; ++i) all_external &= rows[i] < n_external_;
  }
  if (rows == nullptr && (all_own || all_external)) {
    kernel_.batch(q.data, row(first), row_bytes_, nullptr, n, dim_, out);
  } else if (all_own || all_external) {
    kernel_.batch(q.data, all_own ? own_.data() : external_, row_bytes_, rows, n, dim_, out);
  } else {
    for (std::size_t i = 0; i < n; ++i) out[i] = kernel_.pair(q.data, row(rows != nullptr ? rows[i] : first + i), dim_);
  }
  if (metric_ == Metric::ip) {
    for (std::size_t i = 0; i < n; ++i) out[i] = -out[i];
  } else if (metric_ == Metric::cosine) {
    const auto* norms = inverse_norms_.as<float>();
    for (std::size_t i = 0; i < n; ++i) {
      out[i] = 1.0F - out[i] * q.inverse_norm * norms[rows != nullptr ? rows[i] : first + i];
    }
  }
}

void Rows::prefetch(std::uint32_t r) const noexcept {
  const auto* p = reinterpret_cast<const char*>(row(r));
  for (std::size_t i = 0; i < row_bytes_; i += kCacheLine) {
    __builtin_prefetch(p + i, 0, 2);
    std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC 12 keeps only the first prefetch of a loop otherwise
  }
  prefetch_norm(r);
}

void Rows::to_float(const std::byte* row, float* out) const noexcept {
  if (dtype_ == DType::f32) {
    std::memcpy(out, row, dim_ * sizeof(float));
  } else if (dtype_ == DType::f16) {
    for (std::size_t i = 0; i < dim_; ++i) {
      std::uint16_t h = 0;
      std::memcpy(&h, row + 2 * i, 2);
      out[i] = half_to_float(h);
    }
  } else {
    for (std::size_t i = 0; i < dim_; ++i) out[i] = static_cast<float>(reinterpret_cast<const std::int8_t*>(row)[i]);
  }
}

void Rows::query_to_float(const void* query, float* out) const noexcept {
  if (dtype_ == DType::i8) return to_float(static_cast<const std::byte*>(query), out);
  std::memcpy(out, query, dim_ * sizeof(float));
}

std::size_t Rows::memory_bytes() const noexcept { return own_.committed() + inverse_norms_.committed(); }

std::size_t Rows::mapped_bytes() const noexcept { return own_.from_file() + inverse_norms_.from_file(); }

}  // namespace vicinal::graph
