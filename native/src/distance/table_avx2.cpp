// The avx2 kernels, instantiated.
#if defined(__x86_64__)

#include "distance/kernels_avx2.hpp"
#include "distance/table.hpp"

namespace vicinal {

const KernelTable& table_avx2() noexcept {
  static constexpr KernelTable table = make_table<avx2::Ops>();
  return table;
}

}  // namespace vicinal

#endif
