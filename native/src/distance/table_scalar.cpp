// The scalar kernels, instantiated.
#include "distance/kernels_scalar.hpp"
#include "distance/table.hpp"

namespace vicinal {

const KernelTable& table_scalar() noexcept {
  static constexpr KernelTable table = make_table<scalar::Ops>();
  return table;
}

}  // namespace vicinal
