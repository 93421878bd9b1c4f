// The avx512 kernels, instantiated.
#if defined(__x86_64__)

#include "distance/kernels_avx512.hpp"
#include "distance/table.hpp"

namespace vicinal {

const KernelTable& table_avx512() noexcept {
  static constexpr KernelTable table = make_table<avx512::Ops>();
  return table;
}

}  // namespace vicinal

#endif
