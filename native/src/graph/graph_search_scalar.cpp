// The beam search in portable C++, and the choice among the compiled ones.
#include "graph/beam_ops_scalar.hpp"
#include "graph/beam_search.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph::scalar {

const BeamFns& fns() noexcept {
  static constexpr BeamFns table{&beam<Ops>, &keys<Ops>, &Ops::dots, &near<Ops>, &least, &keep};
  return table;
}

}  // namespace vicinal::graph::scalar

namespace vicinal::graph {

const BeamFns& beam_fns(Isa isa) noexcept {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx512:
      return avx512::fns();
    case Isa::avx2:
      return avx2::fns();
#endif
#if defined(__aarch64__)
    case Isa::neon:
      return neon::fns();
#endif
    default:
      return scalar::fns();
  }
}

}  // namespace vicinal::graph
