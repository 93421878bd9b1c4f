#include "graph/codec.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.hpp"

namespace vicinal::graph {
namespace {

// Squared steps a dimension by which a query may leave the codes' range before its keys are corrected: a hundredth of
// the range's own variance.
constexpr float kOverflowMax = 54.0F;
constexpr std::size_t kSampleRows = 4096;
constexpr std::size_t kSampleValues = std::size_t{1} << 20;
// Shares of the values that a candidate range leaves out on each side.
constexpr double kClips[] = {0.0, 1e-5, 1e-4, 5e-4, 2e-3};
constexpr std::size_t kExtraMax = 64;
// Rounding error of a distance, relative to that of a near pair, past which bytes are too coarse.
constexpr double kRoundingMax = 0.1;

CodeKind kind_of(Metric metric) {
  if (metric == Metric::hamming) return CodeKind::hamming;
  return metric == Metric::manhattan ? CodeKind::l1_u8 : CodeKind::l2_u8;
}

// The largest code value whose worst-case key still fits 31 bits.
std::uint32_t code_max_for(CodeKind kind, std::size_t dim) {
  if (kind != CodeKind::l2_u8) return 255;
  const double room = std::floor(std::sqrt(2147483647.0 / static_cast<double>(dim)));
  return static_cast<std::uint32_t>(std::min(255.0, room));
}

// A power of two up to 32 bytes, whole cache lines above.
std::size_t stride_for(std::size_t bytes) {
  if (bytes > 32) return round_up(bytes, kCacheLine);
  std::size_t stride = 8;
  while (stride < bytes) stride *= 2;
  return stride;
}

struct Range {
  float low = 0.0F;
  float step = 1.0F;
  double error = std::numeric_limits<double>::infinity();  // mean squared
};

double squared_error(const std::vector<float>& values, float low, float step, std::uint32_t code_max) {
  const float inverse = 1.0F / step;
  double sum = 0;
  for (const float x : values) {
    const float code = std::clamp(std::nearbyint((x - low) * inverse), 0.0F, static_cast<float>(code_max));
    const double d = static_cast<double>(x) - (static_cast<double>(low) + static_cast<double>(code) * step);
    sum += d * d;
  }
  return sum / static_cast<double>(values.size());
}

// The range of least squared error; `values` is reordered.
Range fit(std::vector<float>& values, std::uint32_t code_max) {
  std::sort(values.begin(), values.end());
  Range best;
  const auto consider = [&](float low, float high) {
    float step = (high - low) / static_cast<float>(code_max);
    if (!(step > std::numeric_limits<float>::min())) step = 1.0F;
    const double error = squared_error(values, low, step, code_max);
    if (error < best.error) best = {low, step, error};
  };
  const std::size_t last = values.size() - 1;
  // Small integers (pixels, counts, byte descriptors) are kept exactly.
  if (values[last] - values[0] <= static_cast<float>(code_max)) {
    const float low = std::floor(values[0]);
    const double error = squared_error(values, low, 1.0F, code_max);
    if (error == 0.0) return {low, 1.0F, 0.0};
  }
  for (const double clip : kClips) {
    const auto cut = static_cast<std::size_t>(clip * static_cast<double>(last));
    consider(values[cut], values[last - cut]);
  }
  return best;
}

// Median distance (not squared) from a sampled row to its nearest other one in the sample, equal ones aside; 0: none.
double near_distance(const std::vector<float>& values, std::size_t n, std::size_t dim, CodeKind kind) {
  constexpr std::size_t tried = 48;
  constexpr std::size_t seen = 2048;
  std::vector<double> nearest;
  const std::size_t step = std::max<std::size_t>(1, n / seen);
  for (std::size_t t = 0; t < std::min(n, tried); ++t) {
    const float* a = values.data() + (t * n / std::min(n, tried)) * dim;
    float best = std::numeric_limits<float>::infinity();
    for (std::size_t s = 0; s < n; s += step) {
      const float* b = values.data() + s * dim;
      float sum[8] = {};
      for (std::size_t i = 0; i < dim; ++i) {
        const float d = a[i] - b[i];
        sum[i % 8] += kind == CodeKind::l2_u8 ? d * d : std::fabs(d);
      }
      float total = 0;
      for (const float x : sum) total += x;
      if (total > 0 && total < best) best = total;
    }
    if (std::isfinite(best)) nearest.push_back(kind == CodeKind::l2_u8 ? std::sqrt(best) : best);
  }
  if (nearest.empty()) return 0;
  std::nth_element(nearest.begin(), nearest.begin() + static_cast<std::ptrdiff_t>(nearest.size() / 2), nearest.end());
  return nearest[nearest.size() / 2];
}

}  // namespace

Codec::Codec(const Rows& rows)
    : dim_(rows.dim()),
      metric_(rows.metric()),
      copies_(rows.dtype() == DType::bit ||
              (rows.dtype() == DType::i8 &&
               (rows.metric() == Metric::manhattan ||
                (rows.metric() == Metric::l2 && code_max_for(CodeKind::l2_u8, rows.dim()) == 255)))),
      trained_(copies_),
      kind_(kind_of(rows.metric())) {
  lay_out();
}

void Codec::lay_out() {
  kind_ = kind_of(metric_);
  if (use_floats()) {
    kind_ = metric_ == Metric::manhattan ? CodeKind::l1_f32 : CodeKind::l2_f32;
    stride_ = round_up((dim_ + parameters_.extra) * sizeof(float), kCacheLine);
    code_bytes_ = stride_;
  } else if (kind_ == CodeKind::hamming) {
    code_bytes_ = dim_ / 8;
    stride_ = stride_for(code_bytes_);
  } else {
    stride_ = stride_for(dim_ + parameters_.extra);
    // Padding is zero in every code: comparing whole lines is as right as comparing the dimensions, and faster.
    code_bytes_ = stride_;
  }
}

void Codec::set_parameters(const Rows& rows, CodecParameters parameters) {
  if (copies_) return;
  const std::uint32_t code_max = code_max_for(kind_, rows.dim() + kExtraMax);
  const bool sane = std::isfinite(parameters.low) && std::isfinite(parameters.step) && parameters.step > 0 &&
                    std::isfinite(parameters.norm2_max) && parameters.extra <= kExtraMax &&
                    parameters.code_max <= code_max && (parameters.center.empty() || parameters.center.size() == dim_);
  if (!sane) throw Error(ErrorCode::corrupt, "the quantiser's parameters are outside their ranges; rebuild the index");
  parameters_ = std::move(parameters);
  trained_ = true;
  lay_out();
}

void Codec::prepare(const Rows& rows, const std::byte* row, float inverse_norm, float* out) const noexcept {
  rows.to_float(row, out);
  if (metric_ == Metric::cosine) {
    for (std::size_t i = 0; i < dim_; ++i) out[i] *= inverse_norm;
  }
  if (parameters_.extra != 0) {
    float squared = 0;
    for (std::size_t i = 0; i < dim_; ++i) squared += out[i] * out[i];
    const float missing = std::max(0.0F, parameters_.norm2_max - squared);
    const float each = std::sqrt(missing / static_cast<float>(parameters_.extra));
    for (std::size_t i = 0; i < parameters_.extra; ++i) out[dim_ + i] = each;
  }
}

void Codec::quantise(const float* values, std::byte* out) const noexcept {
  if (use_floats()) {
    auto* floats = reinterpret_cast<float*>(out);
    const std::size_t used = dim_ + parameters_.extra;
    for (std::size_t i = 0; i < dim_; ++i) {
      floats[i] = values[i] - (parameters_.center.empty() ? 0.0F : parameters_.center[i]);
    }
    for (std::size_t i = dim_; i < used; ++i) floats[i] = values[i];
    std::memset(floats + used, 0, stride_ - used * sizeof(float));
    return;
  }
  auto* codes = reinterpret_cast<std::uint8_t*>(out);
  const float inverse = 1.0F / parameters_.step;
  const float low = parameters_.low;
  const auto top = static_cast<float>(parameters_.code_max);
  const float* center = parameters_.center.empty() ? nullptr : parameters_.center.data();
  const auto one = [&](float x) {
    float v = (x - low) * inverse + 0.5F;
    v = v > 0.0F ? v : 0.0F;
    v = v < top + 0.5F ? v : top;
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(v));
  };
  if (center != nullptr) {
    for (std::size_t i = 0; i < dim_; ++i) codes[i] = one(values[i] - center[i]);
  } else {
    for (std::size_t i = 0; i < dim_; ++i) codes[i] = one(values[i]);
  }
  const std::size_t end = dim_ + parameters_.extra;
  for (std::size_t i = dim_; i < end; ++i) codes[i] = one(values[i]);
  std::memset(codes + end, 0, stride_ - end);
}

void Codec::encode_row(const Rows& rows, std::size_t row, std::byte* out, float* scratch) const noexcept {
  if (copies_) {
    std::memcpy(out, rows.row(row), rows.row_bytes());
    if (kind_ != CodeKind::hamming) {
      for (std::size_t i = 0; i < dim_; ++i) out[i] ^= std::byte{0x80};
    }
    std::memset(out + rows.row_bytes(), 0, stride_ - rows.row_bytes());
    return;
  }
  prepare(rows, rows.row(row), metric_ == Metric::cosine ? rows.inverse_norm(row) : 1.0F, scratch);
  quantise(scratch, out);
}

bool Codec::encode_query(const Rows& rows, const ExactQuery& query, std::byte* out, float* scratch) const noexcept {
  if (copies_) {
    std::memcpy(out, query.data, rows.row_bytes());
    if (kind_ != CodeKind::hamming) {
      for (std::size_t i = 0; i < dim_; ++i) out[i] ^= std::byte{0x80};
    }
    std::memset(out + rows.row_bytes(), 0, stride_ - rows.row_bytes());
    return true;
  }
  rows.query_to_float(query.data, scratch);
  if (metric_ == Metric::cosine) {
    for (std::size_t i = 0; i < dim_; ++i) scratch[i] *= query.inverse_norm;
  }
  if (query_kind() != CodeKind::dot_u8) {
    for (std::size_t i = 0; i < parameters_.extra; ++i) scratch[dim_ + i] = 0.0F;
    quantise(scratch, out);
    if (kind_ != CodeKind::l2_u8) return true;  // floats are not clamped, and clamping shifts all l1 keys alike
    float squared = 0.0F;
    for (std::size_t i = 0; i < dim_; ++i) {
      const float over = overflow(scratch, i);
      squared += over * over;
    }
    return squared <= kOverflowMax * static_cast<float>(dim_);
  }
  float largest = 0.0F;
  for (std::size_t i = 0; i < dim_; ++i) largest = std::max(largest, std::fabs(scratch[i]));
  const double room = static_cast<double>(kDotBase) / (255.0 * static_cast<double>(dim_));
  const auto top = static_cast<float>(std::min(127.0, std::floor(room)));
  const float scale = largest > 0.0F ? top / largest : 0.0F;
  for (std::size_t i = 0; i < dim_; ++i) {
    out[i] = static_cast<std::byte>(static_cast<std::int8_t>(std::nearbyint(scratch[i] * scale)));
  }
  std::memset(out + dim_, 0, stride_ - dim_);
  return true;
}

float Codec::overflow(const float* values, std::size_t i) const noexcept {
  const float x = parameters_.center.empty() ? values[i] : values[i] - parameters_.center[i];
  const float v = (x - parameters_.low) / parameters_.step;
  const auto top = static_cast<float>(parameters_.code_max);
  return v < 0.0F ? v : (v > top ? v - top : 0.0F);
}

void Codec::encode_query_wide(const Rows& rows, const ExactQuery& query, std::byte* out,
                              float* scratch) const noexcept {
  static_cast<void>(encode_query(rows, query, out, scratch));
  float largest = 0.0F;
  for (std::size_t i = 0; i < dim_; ++i) largest = std::max(largest, std::fabs(overflow(scratch, i)));
  const double room = static_cast<double>(kDotBase) / (255.0 * static_cast<double>(dim_));
  const auto top = static_cast<float>(std::min(127.0, std::floor(room)));
  const float scale = largest > 0.0F ? top / largest : 0.0F;
  std::byte* over = out + stride_;
  std::memset(over, 0, stride_);
  double least = 0;
  double most = 0;
  for (std::size_t i = 0; i < dim_; ++i) {
    const auto code = static_cast<std::int8_t>(std::nearbyint(overflow(scratch, i) * scale));
    over[i] = static_cast<std::byte>(code);
    (code < 0 ? least : most) += static_cast<double>(code) * 255.0;
  }
  WideFactors factors;
  // dots arrive as -<code, c>, so this is -2 <q - q', c> in squared steps.
  factors.dot = scale > 0.0F ? 2.0F / scale : 0.0F;
  factors.shift = static_cast<float>(factors.dot * most);
  const double top_key = 255.0 * 255.0 * static_cast<double>(dim_) + factors.dot * (most - least);
  factors.shrink = static_cast<float>(std::min(1.0, 2.0e9 / top_key));
  std::memcpy(out + 2 * stride_, &factors, sizeof(factors));
}

void Codec::train(const Rows& rows, std::size_t n) {
  if (copies_) return;
  const std::size_t wanted = std::clamp(kSampleValues / dim_, std::size_t{64}, kSampleRows);
  const std::size_t m = std::min(n, wanted);
  parameters_ = {};
  parameters_.code_max = code_max_for(kind_, dim_ + kExtraMax);
  std::vector<float> values(m * dim_);
  std::vector<double> mean(dim_, 0.0);
  double norm2_max = 0;
  for (std::size_t s = 0; s < m; ++s) {
    const std::size_t row = s * n / m;
    float* out = values.data() + s * dim_;
    prepare(rows, rows.row(row), metric_ == Metric::cosine ? rows.inverse_norm(row) : 1.0F, out);
    for (std::size_t i = 0; i < dim_; ++i) mean[i] += out[i];
  }
  std::vector<float> plain = values;
  const double near = near_distance(values, m, dim_, kind_);
  Range without;
  if (metric_ == Metric::ip) {
    // Long rows are what inner products find: the range spans every row, and nothing is clipped.
    float low = plain[0];
    float high = plain[0];
    for (std::size_t row = 0; row < n; ++row) {
      double squared = 0;
      rows.to_float(rows.row(row), values.data());
      for (std::size_t i = 0; i < dim_; ++i) {
        low = std::min(low, values[i]);
        high = std::max(high, values[i]);
        squared += static_cast<double>(values[i]) * values[i];
      }
      norm2_max = std::max(norm2_max, squared);
    }
    const float step = (high - low) / static_cast<float>(parameters_.code_max);
    without = {low, step > std::numeric_limits<float>::min() ? step : 1.0F, static_cast<double>(step) * step / 12};
  } else {
    without = fit(plain, parameters_.code_max);
  }
  Range with;
  if (metric_ != Metric::ip && m >= 256) {
    // Dimensions with means of their own widen the common range; distances do not feel a shift.
    for (double& x : mean) x /= static_cast<double>(m);
    for (std::size_t s = 0; s < m; ++s) {
      for (std::size_t i = 0; i < dim_; ++i) values[s * dim_ + i] -= static_cast<float>(mean[i]);
    }
    with = fit(values, parameters_.code_max);
  }
  const bool centered = with.error < 0.8 * without.error;
  const Range& range = centered ? with : without;
  parameters_.low = range.low;
  parameters_.step = range.step;
  if (centered) parameters_.center.assign(mean.begin(), mean.end());
  if (metric_ == Metric::ip) {
    // The lengthening is spread so that it fits the same range as the other dimensions.
    const double high =
        std::max(1e-30, static_cast<double>(range.low) + static_cast<double>(range.step) * parameters_.code_max);
    const double needed = std::ceil(norm2_max / (high * high));
    const std::size_t padding = stride_for(dim_ + 1) - dim_;
    parameters_.norm2_max = static_cast<float>(norm2_max);
    parameters_.extra = static_cast<std::uint32_t>(
        std::clamp(std::max(needed, static_cast<double>(padding)), 1.0, static_cast<double>(kExtraMax)));
  }
  // Rounding errors of a pair add up like a random walk against a difference of length `near`.
  const double rounding =
      std::sqrt(range.error) *
      (kind_ == CodeKind::l2_u8 ? 2.0 * std::sqrt(2.0) : std::sqrt(2.0 * static_cast<double>(dim_)));
  if (near > 0 && rounding > kRoundingMax * near) {
    parameters_.code_max = 0;
    parameters_.extra = std::min(parameters_.extra, 1U);
  }
  trained_ = true;
  lay_out();
}

}  // namespace vicinal::graph
