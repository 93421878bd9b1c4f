// The loops that every kernel shares: one pair, four rows against one query, a batch of rows.
//
// An Op is a type of an instruction set's namespace (avx2::L2F32, ...). Each template below is therefore instantiated
// once per instruction set and never shared between files compiled with different machine flags. An Op has:
//   Query, Row            element types;    kStep: elements per vector;    extent(dim): elements of a row
//   Acc, Shared           accumulator of a row; accumulator of the query alone (Nothing for most)
//   QVec query(p), query_tail(p, i, n); RVec row(p), row_tail(p, i, n)   loads; a tail load is zero-padded, reads only
//                         [p, p + n), and puts the elements i.. at lanes that agree between query and row
//   note(Shared, QVec), step(Acc, QVec, RVec), join(Acc, Acc), join(Shared, Shared), total(Acc, Shared) -> float
#pragma once

#include <cstddef>
#include <cstdint>

#include "distance/prefetch.hpp"

namespace vicinal {

struct Nothing {};

// The quantity of one query and one row of n elements (n = Op::extent(dim)).
template <class Op>
VICINAL_INLINE float pair(const typename Op::Query* q, const typename Op::Row* r, std::size_t n) noexcept {
  constexpr std::size_t S = Op::kStep;
  typename Op::Acc a0 = Op::zero(), a1 = Op::zero(), a2 = Op::zero(), a3 = Op::zero();
  typename Op::Shared s0 = Op::nothing(), s1 = Op::nothing(), s2 = Op::nothing(), s3 = Op::nothing();
  std::size_t i = 0;
  for (; i + 4 * S <= n; i += 4 * S) {
    const auto q0 = Op::query(q + i), q1 = Op::query(q + i + S);
    const auto q2 = Op::query(q + i + 2 * S), q3 = Op::query(q + i + 3 * S);
    s0 = Op::note(s0, q0), s1 = Op::note(s1, q1), s2 = Op::note(s2, q2), s3 = Op::note(s3, q3);
    a0 = Op::step(a0, q0, Op::row(r + i));
    a1 = Op::step(a1, q1, Op::row(r + i + S));
    a2 = Op::step(a2, q2, Op::row(r + i + 2 * S));
    a3 = Op::step(a3, q3, Op::row(r + i + 3 * S));
  }
  for (; i + S <= n; i += S) {
    const auto q0 = Op::query(q + i);
    s0 = Op::note(s0, q0);
    a0 = Op::step(a0, q0, Op::row(r + i));
  }
  if constexpr (S > 1) {
    if (i < n) {
      const auto q1 = Op::query_tail(q, i, n);
      s1 = Op::note(s1, q1);
      a1 = Op::step(a1, q1, Op::row_tail(r, i, n));
    }
  }
  return Op::total(Op::join(Op::join(a0, a1), Op::join(a2, a3)), Op::join(Op::join(s0, s1), Op::join(s2, s3)));
}

// The same for four rows at once: each query vector is loaded once for the four.
template <class Op>
VICINAL_INLINE void quad(const typename Op::Query* q, const typename Op::Row* r0, const typename Op::Row* r1,
                         const typename Op::Row* r2, const typename Op::Row* r3, std::size_t n, float* out) noexcept {
  constexpr std::size_t S = Op::kStep;
  typename Op::Acc a0 = Op::zero(), a1 = Op::zero(), a2 = Op::zero(), a3 = Op::zero();
  typename Op::Acc b0 = Op::zero(), b1 = Op::zero(), b2 = Op::zero(), b3 = Op::zero();
  typename Op::Shared s = Op::nothing(), t = Op::nothing();
  std::size_t i = 0;
  for (; i + 2 * S <= n; i += 2 * S) {
    const auto p0 = Op::query(q + i);
    s = Op::note(s, p0);
    a0 = Op::step(a0, p0, Op::row(r0 + i));
    a1 = Op::step(a1, p0, Op::row(r1 + i));
    a2 = Op::step(a2, p0, Op::row(r2 + i));
    a3 = Op::step(a3, p0, Op::row(r3 + i));
    const auto p1 = Op::query(q + i + S);
    t = Op::note(t, p1);
    b0 = Op::step(b0, p1, Op::row(r0 + i + S));
    b1 = Op::step(b1, p1, Op::row(r1 + i + S));
    b2 = Op::step(b2, p1, Op::row(r2 + i + S));
    b3 = Op::step(b3, p1, Op::row(r3 + i + S));
  }
  if (i + S <= n) {
    const auto p0 = Op::query(q + i);
    s = Op::note(s, p0);
    a0 = Op::step(a0, p0, Op::row(r0 + i));
    a1 = Op::step(a1, p0, Op::row(r1 + i));
    a2 = Op::step(a2, p0, Op::row(r2 + i));
    a3 = Op::step(a3, p0, Op::row(r3 + i));
    i += S;
  }
  if constexpr (S > 1) {
    if (i < n) {
      const auto p1 = Op::query_tail(q, i, n);
      t = Op::note(t, p1);
      b0 = Op::step(b0, p1, Op::row_tail(r0, i, n));
      b1 = Op::step(b1, p1, Op::row_tail(r1, i, n));
      b2 = Op::step(b2, p1, Op::row_tail(r2, i, n));
      b3 = Op::step(b3, p1, Op::row_tail(r3, i, n));
    }
  }
  s = Op::join(s, t);
  out[0] = Op::total(Op::join(a0, b0), s);
  out[1] = Op::total(Op::join(a1, b1), s);
  out[2] = Op::total(Op::join(a2, b2), s);
  out[3] = Op::total(Op::join(a3, b3), s);
}

// The PairFn of an Op.
template <class Op>
float pair_fn(const void* query, const void* row, std::size_t dim) noexcept {
  return pair<Op>(static_cast<const typename Op::Query*>(query), static_cast<const typename Op::Row*>(row),
                  Op::extent(dim));
}

// Rows are fetched this far ahead of their use, as far as their lines fit the core's miss buffers.
inline constexpr std::size_t kPrefetchRows = 8;
inline constexpr std::size_t kPrefetchBytesMax = 1024;  // of a row; the hardware follows a longer run by itself

// The BatchFn of an Op.
template <class Op>
void batch_fn(const void* query, const std::byte* base, std::size_t stride, const std::uint32_t* rows, std::size_t n,
              std::size_t dim, float* out) noexcept {
  using Row = typename Op::Row;
  const auto* q = static_cast<const typename Op::Query*>(query);
  const std::size_t extent = Op::extent(dim);
  const std::size_t bytes = extent * sizeof(Row);
  const std::size_t lines_bytes = bytes < kPrefetchBytesMax ? bytes : kPrefetchBytesMax;
  const auto row = [&](std::size_t i) {
    return reinterpret_cast<const Row*>(base + (rows == nullptr ? i : std::size_t{rows[i]}) * stride);
  };
  std::size_t i = 0;
  if (rows != nullptr) {  // consecutive rows are the hardware prefetcher's own case
    const std::size_t first = n < kPrefetchRows ? n : kPrefetchRows;
    for (std::size_t j = 0; j < first; ++j) prefetch_bytes(row(j), lines_bytes);
  }
  for (; i + 4 <= n; i += 4) {
    if (rows != nullptr) {
      const std::size_t last = i + kPrefetchRows + 4 < n ? i + kPrefetchRows + 4 : n;
      for (std::size_t j = i + kPrefetchRows; j < last; ++j) prefetch_bytes(row(j), lines_bytes);
    }
    quad<Op>(q, row(i), row(i + 1), row(i + 2), row(i + 3), extent, out + i);
  }
  for (; i < n; ++i) out[i] = pair<Op>(q, row(i), extent);
}

}  // namespace vicinal
