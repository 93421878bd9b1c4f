// The k smallest of a stream of (distance, row), ties by row, without a heap.
//
// Candidates that beat the threshold are appended to a buffer; when it is full, one partial selection keeps the best
// k and lowers the threshold. A candidate thus costs one comparison, and one kept candidate O(1) amortised.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace vicinal {

// Orders like (distance, row): distances ascending, -0 equal to 0, NaN equal to +infinity.
[[nodiscard]] inline std::uint64_t candidate_key(float distance, std::uint32_t row) noexcept {
  if (!(distance < std::numeric_limits<float>::infinity())) distance = std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<std::uint32_t>(distance + 0.0F);
  const std::uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return (std::uint64_t{ordered} << 32) | row;
}

[[nodiscard]] inline float key_distance(std::uint64_t key) noexcept {
  const auto ordered = static_cast<std::uint32_t>(key >> 32);
  return std::bit_cast<float>((ordered >> 31) != 0 ? ordered & 0x7FFFFFFFU : ~ordered);
}

[[nodiscard]] inline std::uint32_t key_row(std::uint64_t key) noexcept { return static_cast<std::uint32_t>(key); }

class TopK {
 public:
  explicit TopK(std::size_t k) : k_(k), capacity_(k + std::max<std::size_t>(k, 64)) { keys_.reserve(capacity_); }

  // Distance beyond which nothing is taken any more; +infinity until k candidates were seen.
  [[nodiscard]] float threshold() const noexcept { return threshold_; }

  void push(float distance, std::uint32_t row) { push_key(candidate_key(distance, row)); }

  void push_key(std::uint64_t key) {
    if (key >= worst_) return;
    keys_.push_back(key);
    if (keys_.size() == capacity_) shrink();
  }

  void clear() noexcept {
    keys_.clear();
    worst_ = std::numeric_limits<std::uint64_t>::max();
    threshold_ = std::numeric_limits<float>::infinity();
  }

  // Makes threshold() exact: the k-th distance so far.
  void settle() {
    if (keys_.size() >= k_) shrink();
  }

  // How many results there are.
  [[nodiscard]] std::size_t size() const noexcept { return std::min(keys_.size(), k_); }

  // Offers n candidates; candidate i is rows[i], or first + i where rows is null.
  void offer(const float* distances, const std::uint32_t* rows, std::uint32_t first, std::size_t n) {
    constexpr std::size_t kGroup = 16;
    std::size_t i = 0;
    for (; i + kGroup <= n; i += kGroup) {
      unsigned promising = 0;
      for (std::size_t j = 0; j < kGroup; ++j) promising |= static_cast<unsigned>(!(distances[i + j] > threshold_));
      if (promising != 0) offer_each(distances, rows, first, i, i + kGroup);
    }
    offer_each(distances, rows, first, i, n);
  }

  // Sorts what was kept and returns it: at most k keys, ascending. Only clear() may follow.
  [[nodiscard]] const std::vector<std::uint64_t>& sorted() {
    if (keys_.size() > k_) shrink();
    std::sort(keys_.begin(), keys_.end());
    return keys_;
  }

 private:
  void offer_each(const float* distances, const std::uint32_t* rows, std::uint32_t first, std::size_t begin,
                  std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (distances[i] > threshold_) continue;
      push(distances[i], rows == nullptr ? first + static_cast<std::uint32_t>(i) : rows[i]);
    }
  }

  void shrink() {
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
    std::nth_element(keys_.begin(), last, keys_.end());
    worst_ = *last;
    threshold_ = key_distance(worst_);
    keys_.resize(k_);
  }

  std::size_t k_;
  std::size_t capacity_;
  std::uint64_t worst_ = std::numeric_limits<std::uint64_t>::max();
  float threshold_ = std::numeric_limits<float>::infinity();
  std::vector<std::uint64_t> keys_;
};

// Writes ascending keys as k results, padded with row -1 at distance +infinity.
inline void write_results(const std::uint64_t* keys, std::size_t n, std::size_t k, std::int64_t* rows,
                          float* distances) noexcept {
  for (std::size_t i = 0; i < k; ++i) {
    rows[i] = i < n ? std::int64_t{key_row(keys[i])} : -1;
    distances[i] = i < n ? key_distance(keys[i]) : std::numeric_limits<float>::infinity();
  }
}

}  // namespace vicinal
