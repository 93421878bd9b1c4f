// The neon kernels, instantiated.
#if defined(__aarch64__)

#include "distance/kernels_neon.hpp"
#include "distance/table.hpp"

namespace vicinal {

const KernelTable& table_neon() noexcept {
  static constexpr KernelTable table = make_table<neon::Ops>();
  return table;
}

}  // namespace vicinal

#endif
