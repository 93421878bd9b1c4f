// Distance kernels: what they compute, and the table that dispatch fills once per index.
//
// A kernel returns the mathematical quantity (squared L2, dot product, L1, differing bits). Turning a dot product
// into a distance (ip: negated, cosine: 1 - cos) is the index's business, in one place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vicinal {

enum class Metric : std::uint8_t { l2, ip, cosine, hamming, manhattan };

// Storage type of a row. u8 is internal (scalar-quantised codes); the others are what users store.
enum class DType : std::uint8_t { f32, f16, i8, bit, u8 };

enum class Kernel : std::uint8_t { l2, dot, l1, hamming };

enum class Isa : std::uint8_t { scalar, avx2, avx512, neon };

// One query against one row. The query is float* for f32 and f16 rows, int8_t* for i8, uint8_t* for u8 and bit.
// `dim` counts elements; for bit rows it counts bits (dim % 8 == 0), rows are dim / 8 bytes. No alignment is assumed.
using PairFn = float (*)(const void* query, const void* row, std::size_t dim) noexcept;

// One query against n rows. Row i stands at base + (rows ? rows[i] : i) * stride bytes; out[i] is its quantity.
// Prefetches ahead; never reads past the last row's dim elements.
using BatchFn = void (*)(const void* query, const std::byte* base, std::size_t stride, const std::uint32_t* rows,
                         std::size_t n, std::size_t dim, float* out) noexcept;

struct Distance {
  PairFn pair = nullptr;
  BatchFn batch = nullptr;
};

// The best instruction set this processor runs; VICINAL_ISA=scalar|avx2|avx512|neon in the environment lowers it.
[[nodiscard]] Isa best_isa();
[[nodiscard]] bool isa_supported(Isa isa) noexcept;
[[nodiscard]] const char* isa_name(Isa isa) noexcept;

// Throws Error{invalid_argument} where the combination does not exist (dot of bits, hamming of floats, ...).
[[nodiscard]] Distance distance(DType dtype, Kernel kernel, Isa isa);

// Bytes of one row of dim elements.
[[nodiscard]] std::size_t row_bytes(DType dtype, std::size_t dim) noexcept;

}  // namespace vicinal
