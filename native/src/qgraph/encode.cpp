// Writing nodes: own vectors, and the codes and factors of their neighbours.
//
// A neighbour's code is taken from the one-byte own vectors of both ends, which are here already, instead of the rows:
// no rotation per edge and no second copy of the rotated data. Their rounding (under 1 % of a vector's length) is far
// below the error of one bit a dimension.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "qgraph/half.hpp"
#include "qgraph/qgraph.hpp"

namespace vicinal::qgraph {
namespace {

constexpr std::uint16_t kHalfInfinity = 0x7C00;
constexpr std::uint16_t kHalfLargest = 0x7BFF;
constexpr float kHalfMax = 65504.0F;
constexpr std::size_t kNeighboursMax = 128;
constexpr std::size_t kPaddedMax = (kDimMax + kPad - 1) / kPad * kPad;

// What is summed over the dimensions of r = neighbour - node, p being the node and s the code of r.
struct Sums {
  float square = 0.0F;  // |r|^2
  float along = 0.0F;   // <s, r>
  float across = 0.0F;  // <s, p>
  float dot = 0.0F;     // <p, r>
};

// The four values of two bits, evenly spaced, lie best for normally distributed coordinates when the outer ones are
// this many standard deviations from 0.
constexpr float kOuter = 1.494F;

// Writes the codes of the P coordinates of r, one byte each.
Sums compare(const std::int8_t* own, float own_grain, const std::int8_t* other, float other_grain, std::size_t padded,
             std::uint32_t bits, std::uint8_t* codes) noexcept {
  // Independent lanes, so that the compiler may use vectors without reordering a float sum.
  constexpr std::size_t kLanes = 16;
  float square[kLanes] = {}, along[kLanes] = {}, across[kLanes] = {}, dot[kLanes] = {};
  for (std::size_t i = 0; i < padded; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float p = own_grain * static_cast<float>(own[i + j]);
      const float r = other_grain * static_cast<float>(other[i + j]) - p;
      square[j] += r * r;
      along[j] += std::fabs(r);
      across[j] += r > 0.0F ? p : -p;
      dot[j] += p * r;
      codes[i + j] = r > 0.0F ? 1 : 0;
    }
  }
  Sums sums;
  for (std::size_t j = 0; j < kLanes; ++j) {
    sums.square += square[j];
    sums.along += along[j];
    sums.across += across[j];
    sums.dot += dot[j];
  }
  if (bits == 1 || !(sums.square > 0.0F)) return sums;
  const float scale = 1.5F / (kOuter * std::sqrt(sums.square / static_cast<float>(padded)));
  std::fill_n(along, kLanes, 0.0F);
  std::fill_n(across, kLanes, 0.0F);
  for (std::size_t i = 0; i < padded; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float p = own_grain * static_cast<float>(own[i + j]);
      const float r = other_grain * static_cast<float>(other[i + j]) - p;
      const float at = std::min(std::max(r * scale + 2.0F, 0.0F), 3.0F);
      const auto code = static_cast<std::int32_t>(at);
      const float s = static_cast<float>(2 * code - 3) * (1.0F / 3.0F);
      along[j] += s * r;
      across[j] += s * p;
      codes[i + j] = static_cast<std::uint8_t>(code);
    }
  }
  sums.along = sums.across = 0.0F;
  for (std::size_t j = 0; j < kLanes; ++j) {
    sums.along += along[j];
    sums.across += across[j];
  }
  return sums;
}

template <class T>
T* at(std::byte* row, std::uint32_t offset) noexcept {
  return reinterpret_cast<T*>(row + offset);
}

}  // namespace

void QGraph::encode_own(std::uint32_t row, const float* values, float* work) noexcept {
  std::byte* target = row_at(nodes_.as<std::uint32_t>()[row]);
  for (std::size_t i = 0; i < dim_; ++i) work[i] = values[i] - parameters_.mean[i];
  for (std::size_t i = dim_; i < layout_.padded; ++i) work[i] = 0.0F;
  loops_.rotate(rotation_.view(), work);
  float peak = 0.0F;
  float square = 0.0F;
  for (std::size_t i = 0; i < layout_.padded; ++i) {
    peak = std::max(peak, std::fabs(work[i]));
    square += work[i] * work[i];
  }
  const float inverse = peak > 0.0F ? 127.0F / peak : 0.0F;
  auto* own = at<std::int8_t>(target, layout_.own);
  std::int32_t sum = 0;
  float dot = 0.0F;
  for (std::size_t i = 0; i < layout_.padded; ++i) {
    const long code = std::lround(work[i] * inverse);
    own[i] = static_cast<std::int8_t>(code);
    sum += static_cast<std::int32_t>(code);
    dot += work[i] * static_cast<float>(code);
  }
  auto* header = at<RowHeader>(target, layout_.header);
  // The scale that makes <own, p> exact, not the one that makes each element nearest.
  header->scale = dot > 0.0F ? -2.0F * parameters_.unit * square / dot : 0.0F;
  header->add = metric_ == Metric::ip ? 0.0F : parameters_.unit * square;
  header->sum = sum;
  header->grain = peak / 127.0F;
  header->row = row;
  header->step = 0.0F;
}

void QGraph::encode_edges(std::uint32_t row, const std::uint32_t* neighbours, std::size_t n, bool all) noexcept {
  alignas(64) std::uint8_t codes[kPaddedMax];
  struct Change {
    std::uint32_t slot;
    std::uint32_t to;
    float factor;
    float add;
  };
  Change changes[kNeighboursMax];
  std::size_t n_changes = 0;
  const auto* nodes = nodes_.as<std::uint32_t>();
  const std::uint32_t node = nodes[row];
  std::byte* target = row_at(node);
  auto* header = at<RowHeader>(target, layout_.header);
  auto* ids = at<std::uint32_t>(target, layout_.ids);
  auto* adds = at<std::uint16_t>(target, layout_.add);
  auto* steps = at<std::uint8_t>(target, layout_.step);
  const float unit = parameters_.unit;
  float top = 0.0F;
  for (std::uint32_t slot = 0; slot < layout_.degree; ++slot) {
    const bool used = adds[slot] != kHalfInfinity;
    const std::uint32_t to = slot < n ? nodes[neighbours[slot]] : node;
    if (!all && (slot < n ? used && ids[slot] == to : !used)) continue;
    adds[slot] = kHalfInfinity;  // hidden until it is whole
    if (slot >= n) {
      steps[slot] = 0;
      __atomic_store_n(&ids[slot], node, __ATOMIC_RELAXED);
      continue;
    }
    std::byte* other = row_at(to);
    const Sums sums = compare(at<std::int8_t>(target, layout_.own), header->grain, at<std::int8_t>(other, layout_.own),
                              at<RowHeader>(other, layout_.header)->grain, layout_.padded, layout_.bits, codes);
    const float factor = sums.along > 0.0F ? 2.0F * sums.square / sums.along : 0.0F;
    const float base = metric_ == Metric::ip ? -2.0F * sums.dot : sums.square;
    changes[n_changes++] = {slot, to, factor * unit, (base + factor * sums.across) * unit};
    top = std::max(top, factor * unit);
    std::uint8_t* block = at<std::uint8_t>(target, layout_.codes) + std::size_t{slot / kBlock} * layout_.tables * 16 +
                          nibble_byte(slot % kBlock);
    const unsigned shift = nibble_shift(slot % kBlock);
    const auto keep = static_cast<std::uint8_t>(0xF0U >> shift);
    const std::size_t step = 4 / layout_.bits;  // dimensions of a look-up
    for (std::size_t t = 0; t < layout_.tables; ++t, block += 16) {
      std::uint32_t few = 0;
      std::memcpy(&few, codes + t * step, step);
      // Gathers the lowest bits of four bytes, or two bits of two: bits 24 to 27, or 8 to 11, are where the multiples
      // of each meet no other's.
      const std::uint32_t nibble = (step == 4 ? few * 0x01020408U >> 24 : few * 0x0104U >> 8) & 15U;
      *block = static_cast<std::uint8_t>((*block & keep) | nibble << shift);
    }
  }
  if (top > 255.0F * header->step) {  // the other factors are counted in larger steps from now on
    const float step = top / 255.0F;
    for (std::size_t j = 0; j < layout_.degree; ++j) {
      steps[j] = static_cast<std::uint8_t>(std::lround(static_cast<float>(steps[j]) * header->step / step));
    }
    header->step = step;
  }
  for (std::size_t i = 0; i < n_changes; ++i) {
    const Change& c = changes[i];
    steps[c.slot] =
        header->step > 0.0F ? static_cast<std::uint8_t>(std::min(255L, std::lround(c.factor / header->step))) : 0;
    __atomic_store_n(&ids[c.slot], c.to, __ATOMIC_RELEASE);
    // A row far outside the sample is a neighbour like any other, only farther.
    adds[c.slot] = c.add < kHalfMax ? float_to_half(std::max(c.add, -kHalfMax)) : kHalfLargest;
  }
}

}  // namespace vicinal::qgraph
