// The beam search for AVX2.
#if defined(__x86_64__)
#include "graph/beam_ops_avx2.hpp"
#include "graph/beam_search.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph::avx2 {

const BeamFns& fns() noexcept {
  static constexpr BeamFns table{&beam<Ops>, &keys<Ops>, &Ops::dots, &near<Ops>, &least, &keep};
  return table;
}

}  // namespace vicinal::graph::avx2
#endif
