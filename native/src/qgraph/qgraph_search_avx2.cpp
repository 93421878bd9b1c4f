// The search loop for AVX2.
#if defined(__x86_64__)

#include "qgraph/edge_code.hpp"
#include "qgraph/loop.hpp"
#include "qgraph/simd_avx2.hpp"

namespace vicinal::qgraph {

Loops loops_avx2() noexcept { return {&SearchLoop<Avx2>::run, &rotate_fn<Avx2>, &code_edge<Avx2>}; }

}  // namespace vicinal::qgraph

#endif
