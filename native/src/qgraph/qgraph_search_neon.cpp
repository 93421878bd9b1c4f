// The search loop for NEON.
#if defined(__aarch64__)

#include "qgraph/edge_code.hpp"
#include "qgraph/loop.hpp"
#include "qgraph/simd_neon.hpp"

namespace vicinal::qgraph {

Loops loops_neon() noexcept { return {&SearchLoop<Neon>::run, &rotate_fn<Neon>, &code_edge<Neon>}; }

}  // namespace vicinal::qgraph

#endif
