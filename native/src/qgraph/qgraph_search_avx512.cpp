// The search loop for AVX-512.
#if defined(__x86_64__)

#include "qgraph/edge_code.hpp"
#include "qgraph/loop.hpp"
#include "qgraph/simd_avx512.hpp"

namespace vicinal::qgraph {

Loops loops_avx512() noexcept { return {&SearchLoop<Avx512>::run, &rotate_fn<Avx512>, &code_edge<Avx512>}; }

}  // namespace vicinal::qgraph

#endif
