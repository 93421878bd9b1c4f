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
constexpr std::size_t kCodeWordsMax = 2 * kPaddedMax / 64;

// Puts one neighbour's code among those of its block.
void put_code(std::uint8_t* block, std::size_t tables, std::size_t slot, const std::uint64_t* code) noexcept {
  block += nibble_byte(slot);
  const unsigned shift = nibble_shift(slot);
  const auto keep = static_cast<std::uint8_t>(0xF0U >> shift);
  for (std::size_t t = 0; t < tables; t += 16) {
    std::uint64_t nibbles = code[t / 16];
    for (std::size_t i = 0; i < 16; ++i, block += 16, nibbles >>= 4) {
      *block = static_cast<std::uint8_t>((*block & keep) | (nibbles & 15U) << shift);
    }
  }
}

// Puts the codes of all neighbours of a block, which lie `words` apart.
void put_codes(std::uint8_t* block, std::size_t tables, const std::uint64_t* codes, std::size_t words) noexcept {
  for (std::size_t t = 0; t < tables; t += 16) {
    alignas(16) std::uint8_t even[8][16];
    alignas(16) std::uint8_t odd[8][16];
    for (std::size_t slot = 0; slot < kBlock / 2; ++slot) {
      const std::uint64_t low = codes[slot * words + t / 16];
      const std::uint64_t high = codes[(slot + kBlock / 2) * words + t / 16];
      constexpr std::uint64_t first = 0x0F0F0F0F0F0F0F0FU;
      const std::uint64_t evens = (low & first) | (high & first) << 4;
      const std::uint64_t odds = (low >> 4 & first) | (high & ~first);
      for (std::size_t i = 0; i < 8; ++i) {
        even[i][nibble_byte(slot)] = static_cast<std::uint8_t>(evens >> 8 * i);
        odd[i][nibble_byte(slot)] = static_cast<std::uint8_t>(odds >> 8 * i);
      }
    }
    for (std::size_t i = 0; i < 8; ++i, block += 32) {
      std::memcpy(block, even[i], 16);
      std::memcpy(block + 16, odd[i], 16);
    }
  }
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
  std::uint64_t codes[kBlock * kCodeWordsMax];
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
  const std::size_t words = layout_.tables / 16;
  float top = 0.0F;
  for (std::uint32_t first = 0; first < layout_.degree; first += kBlock) {
    const std::size_t before = n_changes;
    std::uint32_t written = 0;
    for (std::uint32_t slot = first; slot < first + kBlock; ++slot) {
      const bool used = adds[slot] != kHalfInfinity;
      const std::uint32_t to = slot < n ? nodes[neighbours[slot]] : node;
      if (!all && (slot < n ? used && ids[slot] == to : !used)) continue;
      adds[slot] = kHalfInfinity;  // hidden until it is whole
      ++written;
      if (slot >= n) {
        steps[slot] = 0;
        std::fill_n(codes + (slot - first) * words, words, std::uint64_t{0});
        __atomic_store_n(&ids[slot], node, __ATOMIC_RELAXED);
        continue;
      }
      std::byte* other = row_at(to);
      const EdgeSums sums = loops_.edge(
          at<std::int8_t>(target, layout_.own), header->grain, at<std::int8_t>(other, layout_.own),
          at<RowHeader>(other, layout_.header)->grain, layout_.padded, layout_.bits, codes + (slot - first) * words);
      const float factor = sums.along > 0.0F ? 2.0F * sums.square / sums.along : 0.0F;
      const float base = metric_ == Metric::ip ? -2.0F * sums.dot : sums.square;
      changes[n_changes++] = {slot, to, factor * unit, (base + factor * sums.across) * unit};
      top = std::max(top, factor * unit);
    }
    std::uint8_t* block = at<std::uint8_t>(target, layout_.codes) + std::size_t{first / kBlock} * layout_.tables * 16;
    if (written == kBlock) {
      put_codes(block, layout_.tables, codes, words);
      continue;
    }
    for (std::size_t i = before; i < n_changes; ++i) {
      const std::uint32_t slot = changes[i].slot - first;
      put_code(block, layout_.tables, slot, codes + slot * words);
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
