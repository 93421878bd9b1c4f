// The compiled variants of the beam search; each lives in graph_search_<isa>.cpp.
#pragma once

#include "distance/distance.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

namespace scalar {
[[nodiscard]] const BeamFns& fns() noexcept;
}
namespace avx2 {
[[nodiscard]] const BeamFns& fns() noexcept;
}
namespace avx512 {
[[nodiscard]] const BeamFns& fns() noexcept;
}
namespace neon {
[[nodiscard]] const BeamFns& fns() noexcept;
}

[[nodiscard]] const BeamFns& beam_fns(Isa isa) noexcept;

}  // namespace vicinal::graph
