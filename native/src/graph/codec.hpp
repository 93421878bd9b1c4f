// Scalar quantisation of rows to one byte a dimension, for traversal only: distances are always reranked. Data whose
// neighbours lie closer together than the bytes' rounding (far clusters, huge outliers) gets float codes instead.
//
// One step for all dimensions, so that the integer L2 (or L1) of two codes orders pairs as the real distance does.
// cosine: codes of normalised rows compared by L2. ip: rows are compared by L2 after extra dimensions lengthened them
// to one common norm (Bachrach et al., "Speeding up the Xbox recommender", RecSys 2014), and queries, which would hold
// zero there, by their dot product, which the rounding of the extra dimensions cannot blur.
// i8 under l2 and manhattan is shifted to unsigned and stays exact; bit rows are their own codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph/rows.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

// The trained numbers, as they are saved.
struct CodecParameters {
  float low = 0.0F;              // value of code 0
  float step = 1.0F;             // value between codes
  float norm2_max = 0.0F;        // ip: squared norm to which rows are lengthened
  std::uint32_t extra = 0;       // ip: dimensions that share the lengthening
  std::uint32_t code_max = 255;  // 0: codes are floats, for data that bytes cannot tell apart
  std::vector<float> center;     // subtracted first; empty: none
};

class Codec {
 public:
  explicit Codec(const Rows& rows);

  // Learns from rows [0, n), n >= 1; deterministic.
  void train(const Rows& rows, std::size_t n);
  void set_parameters(const Rows& rows, CodecParameters parameters);

  // `scratch` holds scratch_floats() floats. out holds stride() bytes, all of them are written.
  void encode_row(const Rows& rows, std::size_t row, std::byte* out, float* scratch) const noexcept;
  // False where the query lies far enough outside the codes' range to need encode_query_wide().
  bool encode_query(const Rows& rows, const ExactQuery& query, std::byte* out, float* scratch) const noexcept;
  // The query as l2_u8_wide; for codecs of kind l2_u8. out holds query_stride() bytes, as for encode_query().
  void encode_query_wide(const Rows& rows, const ExactQuery& query, std::byte* out, float* scratch) const noexcept;

  [[nodiscard]] bool trained() const noexcept { return trained_; }
  [[nodiscard]] CodeKind kind() const noexcept { return kind_; }  // of two rows
  [[nodiscard]] CodeKind query_kind() const noexcept {
    return metric_ == Metric::ip && kind_ == CodeKind::l2_u8 ? CodeKind::dot_u8 : kind_;
  }
  [[nodiscard]] std::size_t code_bytes() const noexcept { return code_bytes_; }
  [[nodiscard]] std::size_t stride() const noexcept { return stride_; }
  [[nodiscard]] std::size_t query_stride() const noexcept { return 2 * stride_ + kCacheLine; }
  [[nodiscard]] std::size_t scratch_floats() const noexcept { return dim_ + kDegreeMax + parameters_.extra; }
  [[nodiscard]] const CodecParameters& parameters() const noexcept { return parameters_; }

 private:
  void prepare(const Rows& rows, const std::byte* row, float inverse_norm, float* out) const noexcept;
  void quantise(const float* values, std::byte* out) const noexcept;
  // What is left of value i in steps of the code after clamping; 0 inside the range.
  [[nodiscard]] float overflow(const float* values, std::size_t i) const noexcept;
  void lay_out();
  [[nodiscard]] bool use_floats() const noexcept { return !copies_ && parameters_.code_max == 0; }

  std::size_t dim_;
  Metric metric_;
  bool copies_;  // codes are the rows' own bytes (i8 shifted by 128, bit)
  bool trained_ = false;
  CodeKind kind_;
  std::size_t code_bytes_ = 0;
  std::size_t stride_ = 0;
  CodecParameters parameters_;
};

}  // namespace vicinal::graph
