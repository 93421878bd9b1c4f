// Chooses the table of an instruction set at run time.
#include <cstdlib>
#include <string>

#include "base/cpu_features.hpp"
#include "base/error.hpp"
#include "distance/distance.hpp"
#include "distance/rows.hpp"
#include "distance/table.hpp"

namespace vicinal {
namespace {

const char* dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::i8:
      return "i8";
    case DType::bit:
      return "bit";
    case DType::u8:
      return "u8";
  }
  return "?";
}

const char* kernel_name(Kernel kernel) noexcept {
  switch (kernel) {
    case Kernel::l2:
      return "l2";
    case Kernel::dot:
      return "dot";
    case Kernel::l1:
      return "l1";
    case Kernel::hamming:
      return "hamming";
  }
  return "?";
}

const KernelTable& table(Isa isa) {
  if (!isa_supported(isa)) {
    throw Error(ErrorCode::invalid_argument, std::string("this processor does not run ") + isa_name(isa) +
                                                 "; its best instruction set is " + isa_name(best_isa()));
  }
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx2:
      return table_avx2();
    case Isa::avx512:
      return table_avx512();
#elif defined(__aarch64__)
    case Isa::neon:
      return table_neon();
#endif
    default:
      return table_scalar();
  }
}

Isa widest() noexcept {
  if (isa_supported(Isa::avx512)) return Isa::avx512;
  if (isa_supported(Isa::avx2)) return Isa::avx2;
  return isa_supported(Isa::neon) ? Isa::neon : Isa::scalar;
}

Isa choose() {
  const char* wish = std::getenv("VICINAL_ISA");
  if (wish == nullptr || *wish == '\0') return widest();
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
    if (std::string(wish) != isa_name(isa)) continue;
    if (isa_supported(isa)) return isa;
    throw Error(ErrorCode::invalid_argument, std::string("VICINAL_ISA=") + wish +
                                                 " is not an instruction set of this processor; unset it or use " +
                                                 isa_name(widest()));
  }
  throw Error(ErrorCode::invalid_argument,
              std::string("VICINAL_ISA=") + wish + " is unknown; known are scalar, avx2, avx512, neon");
}

}  // namespace

bool isa_supported(Isa isa) noexcept {
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return cpu_features().avx2;
    case Isa::avx512:
      return cpu_features().avx512;
    case Isa::neon:
      return cpu_features().neon;
  }
  return false;
}

Isa best_isa() {
  static const Isa best = choose();
  return best;
}

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::neon:
      return "neon";
  }
  return "?";
}

Distance distance(DType dtype, Kernel kernel, Isa isa) {
  const Distance found = table(isa).distance[static_cast<std::size_t>(dtype)][static_cast<std::size_t>(kernel)];
  if (found.pair == nullptr) {
    throw Error(ErrorCode::invalid_argument, std::string("there is no ") + kernel_name(kernel) + " kernel for " +
                                                 dtype_name(dtype) +
                                                 " rows; hamming goes with bit, l2, dot and l1 with the other types");
  }
  return found;
}

std::size_t row_bytes(DType dtype, std::size_t dim) noexcept {
  switch (dtype) {
    case DType::f32:
      return dim * 4;
    case DType::f16:
      return dim * 2;
    case DType::bit:
      return dim / 8;
    case DType::i8:
    case DType::u8:
      return dim;
  }
  return dim;
}

SquaredNormsFn squared_norms(DType dtype, Isa isa) {
  const SquaredNormsFn found = table(isa).squared_norms[static_cast<std::size_t>(dtype)];
  if (found == nullptr) {
    throw Error(ErrorCode::invalid_argument,
                std::string("norms are defined for f32, f16 and i8 rows, not for ") + dtype_name(dtype));
  }
  return found;
}

QuantiseFn quantise_u8(DType dtype, Isa isa) {
  const QuantiseFn found = table(isa).quantise[static_cast<std::size_t>(dtype)];
  if (found == nullptr) {
    throw Error(ErrorCode::invalid_argument,
                std::string("f32 and f16 rows can be quantised to bytes, not ") + dtype_name(dtype));
  }
  return found;
}

}  // namespace vicinal
