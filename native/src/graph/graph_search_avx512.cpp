// The beam search for AVX-512.
#if defined(__x86_64__)
#include "graph/beam_ops_avx512.hpp"
#include "graph/beam_search.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph::avx512 {

const BeamFns& fns() noexcept {
  static constexpr BeamFns table{&beam<Ops>, &keys<Ops>, &Ops::dots, &near<Ops>, &least, &keep};
  return table;
}

}  // namespace vicinal::graph::avx512
#endif
