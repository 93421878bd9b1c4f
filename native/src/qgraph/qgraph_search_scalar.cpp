// The search loop in plain C++: the oracle of the others, and what runs where nothing better does.
#include "qgraph/edge_code.hpp"
#include "qgraph/loop.hpp"
#include "qgraph/simd_scalar.hpp"

namespace vicinal::qgraph {

Loops loops_scalar() noexcept { return {&SearchLoop<Scalar>::run, &rotate_fn<Scalar>, &code_edge<Scalar>}; }

}  // namespace vicinal::qgraph
