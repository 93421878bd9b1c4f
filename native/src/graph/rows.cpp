#include "graph/rows.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "base/error.hpp"

namespace vicinal::graph {
namespace {

float half_to_float(std::uint16_t h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1FU;
  const std::uint32_t mantissa = h & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t bits = exponent == 31 ? 0x7F800000U | (mantissa << 13) : ((exponent + 112) << 23) | (mantissa << 13);
  return std::bit_cast<float>(sign | bits);
}

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

template <class T>
double norm2(const T* x, std::size_t dim) noexcept {
  double sum = 0;
  for (std::size_t i = 0; i < dim; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

double row_norm2(const std::byte* row, DType dtype, std::size_t dim) noexcept {
  if (dtype == DType::f32) return norm2(reinterpret_cast<const float*>(row), dim);
  if (dtype == DType::i8) return norm2(reinterpret_cast<const std::int8_t*>(row), dim);
  double sum = 0;
  for (std::size_t i = 0; i < dim; ++i) {
    std::uint16_t h = 0;
    std::memcpy(&h, row + 2 * i, 2);
    const double x = half_to_float(h);
    sum += x * x;
  }
  return sum;
}

// Adding x * 0 keeps NaN: the sum is NaN exactly where an element is NaN or infinite, and the loop vectorises.
bool all_finite(const std::byte* row, DType dtype, std::size_t dim) noexcept {
  if (dtype == DType::f32) {
    const auto* x = reinterpret_cast<const std::uint32_t*>(row);
    std::uint32_t bad = 0;
    for (std::size_t i = 0; i < dim; ++i) bad |= (x[i] & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
    return bad == 0;
  }
  if (dtype == DType::f16) {
    const auto* x = reinterpret_cast<const std::uint16_t*>(row);
    std::uint32_t bad = 0;
    for (std::size_t i = 0; i < dim; ++i) bad |= (x[i] & 0x7C00U) == 0x7C00U ? 1U : 0U;
    return bad == 0;
  }
  return true;
}

float inverse(double squared) noexcept { return static_cast<float>(1.0 / std::sqrt(squared)); }

}  // namespace

std::size_t reservation_bytes() {
  static const std::size_t bytes = [] {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    const long page = ::sysconf(_SC_PAGESIZE);
    const std::size_t memory = pages > 0 && page > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(page)
                                                     : std::size_t{64} << 30;
    return std::max(memory * 2, std::size_t{1} << 30);
  }();
  return bytes;
}

Rows::Rows(std::size_t dim, Metric metric, DType dtype)
    : dim_(dim),
      metric_(metric),
      dtype_(dtype),
      row_bytes_(vicinal::row_bytes(dtype, dim)),
      kernel_(distance(dtype, kernel_of(metric), best_isa())),
      own_(reservation_bytes()) {
  if (metric == Metric::cosine) inverse_norms_ = ReservedBuffer(reservation_bytes() / 4);
}

void Rows::check(const std::byte* rows, std::size_t n, std::size_t first) const {
  if (dtype_ == DType::bit) return;
  for (std::size_t i = 0; i < n; ++i) {
    const std::byte* row = rows + i * row_bytes_;
    if (!all_finite(row, dtype_, dim_)) {
      throw Error(ErrorCode::vector_value,
                  "vector " + std::to_string(first + i) + " holds NaN or infinity; every element must be finite");
    }
    if (metric_ == Metric::cosine) {
      const double squared = row_norm2(row, dtype_, dim_);
      if (!(squared >= std::numeric_limits<float>::min())) {
        throw Error(ErrorCode::vector_value,
                    "vector " + std::to_string(first + i) + " is zero, which has no direction; cosine needs a length");
      }
    }
  }
}

void Rows::note_norms(const std::byte* rows, std::size_t n, std::size_t at) {
  if (metric_ != Metric::cosine) return;
  inverse_norms_.grow((at + n) * sizeof(float));
  auto* out = inverse_norms_.as<float>() + at;
  for (std::size_t i = 0; i < n; ++i) out[i] = inverse(row_norm2(rows + i * row_bytes_, dtype_, dim_));
}

void Rows::append(const std::byte* rows, std::size_t n, std::size_t at) {
  own_.grow((at - n_external_ + n) * row_bytes_);
  note_norms(rows, n, at);
  std::memcpy(own_.data() + (at - n_external_) * row_bytes_, rows, n * row_bytes_);
}

void Rows::attach(const std::byte* rows, std::size_t n) {
  note_norms(rows, n, 0);
  external_ = rows;
  n_external_ = n;
}

ExactQuery Rows::query(const void* data) const {
  ExactQuery q{data, 1.0F};
  if (dtype_ == DType::f32 || dtype_ == DType::f16) {
    if (!all_finite(static_cast<const std::byte*>(data), DType::f32, dim_)) {
      throw Error(ErrorCode::vector_value, "the query holds NaN or infinity; every element must be finite");
    }
  }
  if (metric_ == Metric::cosine) {
    const double squared = row_norm2(static_cast<const std::byte*>(data), dtype_ == DType::i8 ? DType::i8 : DType::f32,
                                     dim_);
    if (!(squared >= std::numeric_limits<float>::min())) {
      throw Error(ErrorCode::vector_value, "the query is zero, which has no direction; cosine needs a length");
    }
    q.inverse_norm = inverse(squared);
  }
  return q;
}

void Rows::distances(const ExactQuery& q, const std::uint32_t* rows, std::size_t first, std::size_t n,
                     float* out) const {
  if (n_external_ == 0 || (rows == nullptr && first >= n_external_)) {
    const std::byte* base = own_.data();
    if (rows == nullptr) base += (first - n_external_) * row_bytes_;
    kernel_.batch(q.data, base, row_bytes_, rows, n, dim_, out);
  } else if (rows == nullptr && first + n <= n_external_) {
    kernel_.batch(q.data, external_ + first * row_bytes_, row_bytes_, nullptr, n, dim_, out);
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
  for (std::size_t i = 0; i < row_bytes_; i += 64) {
    __builtin_prefetch(p + i, 0, 2);
    std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC 12 keeps only the first prefetch of a loop otherwise
  }
  if (metric_ == Metric::cosine) __builtin_prefetch(inverse_norms_.as<float>() + r, 0, 2);
}

void Rows::to_float(const std::byte* row, float* out) const noexcept {
  switch (dtype_) {
    case DType::f32:
      std::memcpy(out, row, dim_ * sizeof(float));
      return;
    case DType::f16:
      for (std::size_t i = 0; i < dim_; ++i) {
        std::uint16_t h = 0;
        std::memcpy(&h, row + 2 * i, 2);
        out[i] = half_to_float(h);
      }
      return;
    default:
      for (std::size_t i = 0; i < dim_; ++i) out[i] = static_cast<float>(reinterpret_cast<const std::int8_t*>(row)[i]);
  }
}

void Rows::query_to_float(const void* query, float* out) const noexcept {
  if (dtype_ == DType::i8) return to_float(static_cast<const std::byte*>(query), out);
  std::memcpy(out, query, dim_ * sizeof(float));
}

std::size_t Rows::memory_bytes() const noexcept { return own_.committed() + inverse_norms_.committed(); }

}  // namespace vicinal::graph
