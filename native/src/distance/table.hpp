// The kernels of one instruction set as pointers; each table_<isa>.cpp fills one from its Ops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "distance/distance.hpp"
#include "distance/kernel_loops.hpp"
#include "distance/rows.hpp"

namespace vicinal {

inline constexpr std::size_t kDTypes = 5;
inline constexpr std::size_t kKernels = 4;

struct KernelTable {
  Distance distance[kDTypes][kKernels] = {};
  SquaredNormsFn squared_norms[kDTypes] = {};
  QuantiseFn quantise[kDTypes] = {};
};

[[nodiscard]] const KernelTable& table_scalar() noexcept;
#if defined(__x86_64__)
[[nodiscard]] const KernelTable& table_avx2() noexcept;
[[nodiscard]] const KernelTable& table_avx512() noexcept;
#elif defined(__aarch64__)
[[nodiscard]] const KernelTable& table_neon() noexcept;
#endif

// Op is a dot product whose query and row types are the same.
template <class Op>
void squared_norms_fn(const std::byte* base, std::size_t stride, std::size_t n, std::size_t dim, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const auto* row = reinterpret_cast<const typename Op::Row*>(base + i * stride);
    out[i] = pair<Op>(row, row, dim);
  }
}

template <class Op>
void quantise_fn(const void* row, std::size_t dim, const float* lo, const float* scale, std::uint8_t* out) noexcept {
  constexpr std::size_t S = Op::kStep;
  const auto* x = static_cast<const typename Op::Row*>(row);
  std::size_t i = 0;
  for (; i + S <= dim; i += S) Op::step(x + i, lo + i, scale + i, out + i);
  if (const std::size_t rest = dim - i; rest != 0) {
    typename Op::Row last[S] = {};
    float last_lo[S] = {};
    float last_scale[S] = {};
    std::uint8_t last_out[S] = {};
    std::memcpy(last, x + i, rest * sizeof *last);
    std::memcpy(last_lo, lo + i, rest * sizeof *last_lo);
    std::memcpy(last_scale, scale + i, rest * sizeof *last_scale);
    Op::step(last, last_lo, last_scale, last_out);
    std::memcpy(out + i, last_out, rest);
  }
}

template <class Ops>
constexpr KernelTable make_table() noexcept {
  KernelTable t;
  const auto set = [&t](DType dtype, Kernel kernel, PairFn pair, BatchFn batch) {
    t.distance[static_cast<std::size_t>(dtype)][static_cast<std::size_t>(kernel)] = {pair, batch};
  };
  set(DType::f32, Kernel::l2, pair_fn<typename Ops::L2F32>, batch_fn<typename Ops::L2F32>);
  set(DType::f32, Kernel::dot, pair_fn<typename Ops::DotF32>, batch_fn<typename Ops::DotF32>);
  set(DType::f32, Kernel::l1, pair_fn<typename Ops::L1F32>, batch_fn<typename Ops::L1F32>);
  set(DType::f16, Kernel::l2, pair_fn<typename Ops::L2F16>, batch_fn<typename Ops::L2F16>);
  set(DType::f16, Kernel::dot, pair_fn<typename Ops::DotF16>, batch_fn<typename Ops::DotF16>);
  set(DType::f16, Kernel::l1, pair_fn<typename Ops::L1F16>, batch_fn<typename Ops::L1F16>);
  set(DType::i8, Kernel::l2, pair_fn<typename Ops::L2I8>, batch_fn<typename Ops::L2I8>);
  set(DType::i8, Kernel::dot, pair_fn<typename Ops::DotI8>, batch_fn<typename Ops::DotI8>);
  set(DType::i8, Kernel::l1, pair_fn<typename Ops::L1I8>, batch_fn<typename Ops::L1I8>);
  set(DType::u8, Kernel::l2, pair_fn<typename Ops::L2U8>, batch_fn<typename Ops::L2U8>);
  set(DType::u8, Kernel::dot, pair_fn<typename Ops::DotU8>, batch_fn<typename Ops::DotU8>);
  set(DType::u8, Kernel::l1, pair_fn<typename Ops::L1U8>, batch_fn<typename Ops::L1U8>);
  set(DType::bit, Kernel::hamming, pair_fn<typename Ops::Hamming>, batch_fn<typename Ops::Hamming>);
  t.squared_norms[static_cast<std::size_t>(DType::f32)] = squared_norms_fn<typename Ops::DotF32>;
  t.squared_norms[static_cast<std::size_t>(DType::f16)] = squared_norms_fn<typename Ops::DotF16F16>;
  t.squared_norms[static_cast<std::size_t>(DType::i8)] = squared_norms_fn<typename Ops::DotI8>;
  t.quantise[static_cast<std::size_t>(DType::f32)] = quantise_fn<typename Ops::QuantiseF32>;
  t.quantise[static_cast<std::size_t>(DType::f16)] = quantise_fn<typename Ops::QuantiseF16>;
  return t;
}

}  // namespace vicinal
