// Blocked exact scan. A task is a group of queries over a part of the rows; it walks its rows in blocks that stay in
// the second-level cache while each query of the group is compared with them, so memory is read once per group.
#include "flat/flat_scan.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "base/topk.hpp"
#include "distance/metric.hpp"
#include "distance/rows.hpp"

namespace vicinal {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{128} << 10;  // rows of a block: an eighth of a usual L2 cache
constexpr std::size_t kGroupBytes = std::size_t{128} << 10;  // queries of a group, and their candidates
constexpr std::size_t kGroupMax = 64;
constexpr std::size_t kBlockRowsMin = 16;
constexpr std::size_t kBlockRowsMax = 1024;
constexpr std::size_t kPartRowsMin = 4096;                  // less is not worth a thread's top-k of its own
constexpr std::size_t kSerialBytes = std::size_t{1} << 20;  // bytes compared below which threads cost more than help

std::size_t query_bytes(DType dtype, std::size_t dim) noexcept {
  return dtype == DType::f16 ? dim * sizeof(float) : row_bytes(dtype, dim);
}

// Tombstones may be set while we read, so both sides use atomic words.
std::uint64_t load_word(const std::uint64_t* word) noexcept { return __atomic_load_n(word, __ATOMIC_RELAXED); }

// Bits of the rows that pass in word w, within [0, rows.n).
std::uint64_t passing_word(const ScanSpec& s, std::size_t w) noexcept {
  std::uint64_t word = ~std::uint64_t{0};
  if (s.filter != nullptr) {
    if (w * 64 >= s.filter_rows) return 0;
    word = s.filter[w];
    if (const std::size_t valid = s.filter_rows - w * 64; valid < 64) word &= (std::uint64_t{1} << valid) - 1;
  }
  if (s.removed != nullptr) word &= ~load_word(s.removed + w);
  return word;
}

// The same, cut to [begin, end).
std::uint64_t passing_word(const ScanSpec& s, std::size_t w, std::size_t begin, std::size_t end) noexcept {
  std::uint64_t word = passing_word(s, w);
  if (w * 64 < begin) word &= ~std::uint64_t{0} << (begin - w * 64);
  if (end - w * 64 < 64) word &= (std::uint64_t{1} << (end - w * 64)) - 1;
  return word;
}

bool passes(const ScanSpec& s, std::uint32_t row) noexcept {
  return ((passing_word(s, row / 64) >> (row % 64)) & 1) != 0;
}

// Hands out the rows of [begin, end) that pass, in blocks.
class Blocks {
 public:
  Blocks(const ScanSpec& s, std::size_t begin, std::size_t end, std::size_t block_rows)
      : s_(s), at_(begin), end_(end), block_rows_(block_rows), whole_(s.filter == nullptr && s.removed == nullptr) {
    if (s.list == nullptr && !whole_) ids_.resize(block_rows + 64);
    if (s.list != nullptr && !whole_) ids_.resize(block_rows);
  }

  // The next block has rows() == null and starts at first(), or names its rows. False at the end.
  bool next() {
    if (at_ >= end_) return false;
    if (s_.list != nullptr) {
      next_of_list();
    } else if (whole_) {
      first_ = at_;
      count_ = std::min(block_rows_, end_ - at_);
      at_ += count_;
    } else {
      next_of_bits();
    }
    return true;  // a block may be empty
  }

  [[nodiscard]] const std::uint32_t* rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t first() const noexcept { return first_; }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  void next_of_list() {
    const std::size_t taken = std::min(block_rows_, end_ - at_);
    rows_ = s_.list + at_;
    count_ = taken;
    if (!whole_) {
      count_ = 0;
      for (std::size_t i = 0; i < taken; ++i) {
        ids_[count_] = s_.list[at_ + i];
        count_ += passes(s_, s_.list[at_ + i]) ? 1 : 0;
      }
      rows_ = ids_.data();
    }
    at_ += taken;
  }

  void next_of_bits() {
    count_ = 0;
    while (at_ < end_ && count_ < block_rows_) {
      const std::size_t w = at_ / 64;
      for (std::uint64_t word = passing_word(s_, w, at_, end_); word != 0; word &= word - 1) {
        ids_[count_++] = static_cast<std::uint32_t>(w * 64 + static_cast<std::size_t>(std::countr_zero(word)));
      }
      at_ = std::min(end_, (w + 1) * 64);
    }
    // Rows without a gap are scanned as a range, without the indirection.
    first_ = count_ == 0 ? at_ : ids_[0];
    rows_ = count_ != 0 && ids_[count_ - 1] - ids_[0] + 1 == count_ ? nullptr : ids_.data();
  }

  const ScanSpec& s_;
  std::size_t at_;
  std::size_t end_;
  std::size_t block_rows_;
  bool whole_;
  std::vector<std::uint32_t> ids_;
  const std::uint32_t* rows_ = nullptr;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

// Queries as the kernels want them. Under cosine float queries are normalised into a copy; integer ones keep their
// bytes and carry the inverse norm beside.
class Queries {
 public:
  Queries(const ScanSpec& s, const void* data, std::size_t stride, std::size_t n, Isa isa)
      : data_(static_cast<const std::byte*>(data)), stride_(stride) {
    if (s.metric != Metric::cosine) return;
    const DType type = s.rows.dtype == DType::f16 ? DType::f32 : s.rows.dtype;
    inverse_ = AlignedBuffer<float>(n);
    inverse_norms(data_, stride, n, s.rows.dim, type, isa, inverse_.data());
    if (type != DType::f32) return;
    const std::size_t columns = round_up(s.rows.dim, kCacheLine / sizeof(float));
    copy_ = AlignedBuffer<float>(n * columns);
    for (std::size_t i = 0; i < n; ++i) {
      float* out = copy_.data() + i * columns;
      std::memcpy(out, data_ + i * stride, s.rows.dim * sizeof(float));
      for (std::size_t j = 0; j < s.rows.dim; ++j) out[j] *= inverse_[i];
      inverse_[i] = 1;
    }
    data_ = reinterpret_cast<const std::byte*>(copy_.data());
    stride_ = columns * sizeof(float);
  }

  [[nodiscard]] const void* query(std::size_t i) const noexcept { return data_ + i * stride_; }
  [[nodiscard]] float inverse_norm(std::size_t i) const noexcept { return inverse_.empty() ? 1.0F : inverse_[i]; }

 private:
  const std::byte* data_;
  std::size_t stride_;
  AlignedBuffer<float> copy_;
  AlignedBuffer<float> inverse_;
};

struct Plan {
  std::size_t group;   // queries of a task
  std::size_t groups;  // tasks along the queries
  std::size_t parts;   // tasks along the rows
  std::size_t block_rows;
};

Plan make_plan(const ScanSpec& s, std::size_t nq, std::size_t k, unsigned workers) {
  const std::size_t rows = s.end - s.begin;
  const std::size_t bytes = std::max<std::size_t>(1, row_bytes(s.rows.dtype, s.rows.dim));
  Plan p{};
  p.block_rows = std::clamp(kBlockBytes / bytes, kBlockRowsMin, kBlockRowsMax) / 4 * 4;
  const std::size_t each = query_bytes(s.rows.dtype, s.rows.dim) + 2 * k * sizeof(std::uint64_t);
  p.group = std::clamp<std::size_t>(kGroupBytes / each, 1, kGroupMax);
  if (workers > 1) p.group = std::min(p.group, std::max<std::size_t>(1, (nq + workers - 1) / workers));
  p.groups = (nq + p.group - 1) / p.group;
  // Four tasks a worker even out their ends. Rows are split only where the queries alone give too few.
  const std::size_t wanted = workers > 1 ? std::size_t{workers} * 4 : 1;
  const std::size_t most = std::max<std::size_t>(1, rows / std::max(kPartRowsMin, 4 * k));
  p.parts = p.groups >= wanted ? 1 : std::min(most, (wanted + p.groups - 1) / p.groups);
  return p;
}

void check(const ScanSpec& s, std::size_t k) {
  if (k == 0) throw Error(ErrorCode::invalid_argument, "k is 0; pass at least 1");
  if (s.rows.n > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorCode::capacity, std::to_string(s.rows.n) +
                                         " rows are above the limit of 4294967295 of one index; "
                                         "split them over several");
  }
  if (s.metric == Metric::cosine && s.inverse_norms == nullptr && s.rows.n != 0) {
    throw Error(ErrorCode::internal, "a cosine scan was started without inverse norms");
  }
}

}  // namespace

std::size_t count_matches(const ScanSpec& spec) noexcept {
  const std::size_t end = std::min(spec.end, spec.rows.n);
  if (spec.begin >= end) return 0;
  std::size_t count = 0;
  for (std::size_t w = spec.begin / 64; w * 64 < end; ++w) {
    count += static_cast<std::size_t>(std::popcount(passing_word(spec, w, spec.begin, end)));
  }
  return count;
}

void scan(const ScanSpec& spec, const void* queries, std::size_t query_stride, std::size_t nq, std::size_t k,
          std::int64_t* out_rows, float* out_distances) {
  check(spec, k);
  if (nq == 0) return;
  ScanSpec s = spec;
  if (s.list == nullptr) s.end = std::min(s.end, s.rows.n);
  s.begin = std::min(s.begin, s.end);
  const Isa isa = best_isa();
  const Distance kernel = distance(s.rows.dtype, kernel_of(s.metric), isa);
  const Queries prepared(s, queries, query_stride, nq, isa);

  ThreadPool& pool = ThreadPool::instance();
  const std::size_t row_size = std::max<std::size_t>(1, row_bytes(s.rows.dtype, s.rows.dim));
  const bool small = (s.end - s.begin) * row_size < kSerialBytes / nq;
  const unsigned workers = small ? 1 : pool.workers_for(s.threads);
  const Plan plan = make_plan(s, nq, k, workers);

  // With several parts each task leaves its best keys here; counts tell how many.
  AlignedBuffer<std::uint64_t> partial(plan.parts > 1 ? plan.parts * nq * k : 0);
  AlignedBuffer<std::size_t> counts(plan.parts > 1 ? plan.parts * nq : 0);

  const auto run_task = [&](std::size_t task) {
    const std::size_t part = task % plan.parts;
    const std::size_t q_begin = task / plan.parts * plan.group;
    const std::size_t q_count = std::min(plan.group, nq - q_begin);
    // Part borders at whole words keep the bitset walk simple and fast.
    const std::size_t span = round_up((s.end - s.begin + plan.parts - 1) / plan.parts, 64);
    const std::size_t begin = std::min(s.end, s.begin + part * span);
    const std::size_t end = part + 1 == plan.parts ? s.end : std::min(s.end, begin + span);

    std::vector<TopK> best(q_count, TopK(k));
    std::vector<float> distances(plan.block_rows + 64);
    Blocks blocks(s, begin, end, plan.block_rows);
    while (blocks.next()) {
      if (blocks.count() == 0) continue;
      const std::byte* base = s.rows.base + (blocks.rows() == nullptr ? blocks.first() * s.rows.stride : 0);
      for (std::size_t i = 0; i < q_count; ++i) {
        kernel.batch(prepared.query(q_begin + i), base, s.rows.stride, blocks.rows(), blocks.count(), s.rows.dim,
                     distances.data());
        to_distances(s.metric, distances.data(), blocks.count(), blocks.rows(), blocks.first(), s.inverse_norms,
                     prepared.inverse_norm(q_begin + i));
        best[i].offer(distances.data(), blocks.rows(), static_cast<std::uint32_t>(blocks.first()), blocks.count());
      }
    }
    for (std::size_t i = 0; i < q_count; ++i) {
      const std::size_t q = q_begin + i;
      const std::vector<std::uint64_t>& keys = best[i].sorted();
      if (plan.parts == 1) {
        write_results(keys.data(), keys.size(), k, out_rows + q * k, out_distances + q * k);
      } else {
        std::copy(keys.begin(), keys.end(), partial.data() + (part * nq + q) * k);
        counts[part * nq + q] = keys.size();
      }
    }
  };

  pool.parallel_for(plan.groups * plan.parts, workers, 1, [&](std::size_t begin, std::size_t end, unsigned /*worker*/) {
    for (std::size_t task = begin; task < end; ++task) run_task(task);
  });
  if (plan.parts == 1) return;
  for (std::size_t q = 0; q < nq; ++q) {
    TopK best(k);
    for (std::size_t part = 0; part < plan.parts; ++part) {
      const std::uint64_t* keys = partial.data() + (part * nq + q) * k;
      for (std::size_t i = 0; i < counts[part * nq + q]; ++i) best.push_key(keys[i]);
    }
    const std::vector<std::uint64_t>& keys = best.sorted();
    write_results(keys.data(), keys.size(), k, out_rows + q * k, out_distances + q * k);
  }
}

}  // namespace vicinal
