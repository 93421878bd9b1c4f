// The beam search for NEON.
#if defined(__aarch64__)
#include "graph/beam_ops_neon.hpp"
#include "graph/beam_search.hpp"
#include "graph/isa.hpp"

namespace vicinal::graph::neon {

const BeamFns& fns() noexcept {
  static constexpr BeamFns table{&beam<Ops>, &keys<Ops>, &Ops::dots, &near<Ops>, &least, &keep};
  return table;
}

}  // namespace vicinal::graph::neon
#endif
