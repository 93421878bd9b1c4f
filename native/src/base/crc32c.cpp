// Slicing-by-8 tables, and the processor's CRC instruction run over three interleaved lanes.
//
// The instruction has a latency of three cycles and a throughput of one, so three independent lanes fill it. The
// lanes are joined by advancing a lane's register over the length of the next one, a linear map kept as four tables.
#include "base/crc32c.hpp"

#include <array>
#include <cstring>

#include "base/cpu_features.hpp"

#if defined(__x86_64__)
#include <nmmintrin.h>
#define VICINAL_CRC_TARGET __attribute__((target("sse4.2")))
#define VICINAL_CRC_HARDWARE 1
#elif defined(__aarch64__)
#include <arm_acle.h>
#define VICINAL_CRC_TARGET __attribute__((target("arch=armv8-a+crc")))
#define VICINAL_CRC_HARDWARE 1
#endif

namespace vicinal {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // reflected

using Table = std::array<std::uint32_t, 256>;

constexpr std::array<Table, 8> make_slices() {
  std::array<Table, 8> t{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ kPolynomial : c >> 1;
    t[0][i] = c;
  }
  for (std::size_t s = 1; s < 8; ++s) {
    for (std::size_t i = 0; i < 256; ++i) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 0xFF];
  }
  return t;
}

constexpr std::array<Table, 8> kSlices = make_slices();

std::uint64_t load64(const std::uint8_t* p) noexcept {
  std::uint64_t v = 0;
  std::memcpy(&v, p, sizeof v);
  return v;
}

#ifdef VICINAL_CRC_HARDWARE

using Matrix = std::array<std::uint32_t, 32>;  // column i: the image of bit i

constexpr std::uint32_t apply(const Matrix& m, std::uint32_t v) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; v != 0; v >>= 1, ++i) {
    if ((v & 1) != 0) sum ^= m[i];
  }
  return sum;
}

// The map of a register over `bytes` zero bytes (a power of two), cut into one table per register byte.
constexpr std::array<Table, 4> make_advance(std::size_t bytes) {
  Matrix m{};  // one zero bit
  m[0] = kPolynomial;
  for (std::size_t i = 1; i < 32; ++i) m[i] = std::uint32_t{1} << (i - 1);
  for (std::size_t bits = 1; bits < bytes * 8; bits *= 2) {
    Matrix squared{};
    for (std::size_t i = 0; i < 32; ++i) squared[i] = apply(m, m[i]);
    m = squared;
  }
  std::array<Table, 4> t{};
  for (std::size_t byte = 0; byte < 4; ++byte) {
    for (std::uint32_t i = 0; i < 256; ++i) t[byte][i] = apply(m, i << (8 * byte));
  }
  return t;
}

constexpr std::size_t kLongLane = 4096;
constexpr std::size_t kShortLane = 256;
constexpr std::array<Table, 4> kAdvanceLong = make_advance(kLongLane);
constexpr std::array<Table, 4> kAdvanceShort = make_advance(kShortLane);

std::uint32_t advance(const std::array<Table, 4>& t, std::uint32_t c) noexcept {
  return t[0][c & 0xFF] ^ t[1][(c >> 8) & 0xFF] ^ t[2][(c >> 16) & 0xFF] ^ t[3][c >> 24];
}

#if defined(__x86_64__)
VICINAL_CRC_TARGET inline std::uint32_t step8(std::uint32_t c, std::uint64_t v) noexcept {
  return static_cast<std::uint32_t>(_mm_crc32_u64(c, v));
}
VICINAL_CRC_TARGET inline std::uint32_t step1(std::uint32_t c, std::uint8_t v) noexcept { return _mm_crc32_u8(c, v); }
#else
VICINAL_CRC_TARGET inline std::uint32_t step8(std::uint32_t c, std::uint64_t v) noexcept { return __crc32cd(c, v); }
VICINAL_CRC_TARGET inline std::uint32_t step1(std::uint32_t c, std::uint8_t v) noexcept { return __crc32cb(c, v); }
#endif

VICINAL_CRC_TARGET std::uint32_t three_lanes(const std::uint8_t* p, std::size_t lane, const std::array<Table, 4>& t,
                                             std::uint32_t c) noexcept {
  std::uint32_t c1 = 0;
  std::uint32_t c2 = 0;
  for (std::size_t i = 0; i < lane; i += 8) {
    c = step8(c, load64(p + i));
    c1 = step8(c1, load64(p + lane + i));
    c2 = step8(c2, load64(p + 2 * lane + i));
  }
  return advance(t, advance(t, c) ^ c1) ^ c2;
}

VICINAL_CRC_TARGET std::uint32_t hardware(const std::uint8_t* p, std::size_t n, std::uint32_t c) noexcept {
  for (; n >= 3 * kLongLane; n -= 3 * kLongLane, p += 3 * kLongLane) c = three_lanes(p, kLongLane, kAdvanceLong, c);
  for (; n >= 3 * kShortLane; n -= 3 * kShortLane, p += 3 * kShortLane) {
    c = three_lanes(p, kShortLane, kAdvanceShort, c);
  }
  for (; n >= 8; n -= 8, p += 8) c = step8(c, load64(p));
  for (; n != 0; --n, ++p) c = step1(c, *p);
  return c;
}

#endif  // VICINAL_CRC_HARDWARE

std::uint32_t portable(const std::uint8_t* p, std::size_t n, std::uint32_t c) noexcept {
  for (; n >= 8; n -= 8, p += 8) {
    const std::uint64_t v = load64(p) ^ c;  // little-endian machines only, as are the files
    c = kSlices[7][v & 0xFF] ^ kSlices[6][(v >> 8) & 0xFF] ^ kSlices[5][(v >> 16) & 0xFF] ^
        kSlices[4][(v >> 24) & 0xFF] ^ kSlices[3][(v >> 32) & 0xFF] ^ kSlices[2][(v >> 40) & 0xFF] ^
        kSlices[1][(v >> 48) & 0xFF] ^ kSlices[0][v >> 56];
  }
  for (; n != 0; --n, ++p) c = (c >> 8) ^ kSlices[0][(c ^ *p) & 0xFF];
  return c;
}

}  // namespace

std::uint32_t crc32c(const void* data, std::size_t n, std::uint32_t init) noexcept {
  const auto* p = static_cast<const std::uint8_t*>(data);
#ifdef VICINAL_CRC_HARDWARE
  static const bool available = cpu_features().sse42 || cpu_features().arm_crc;
  if (available) return ~hardware(p, n, ~init);
#endif
  return ~portable(p, n, ~init);
}

std::uint32_t crc32c_portable(const void* data, std::size_t n, std::uint32_t init) noexcept {
  return ~portable(static_cast<const std::uint8_t*>(data), n, ~init);
}

}  // namespace vicinal
