// CRC-32C (Castagnoli), the checksum of every block on disk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vicinal {

// Checksum of n bytes. Chains: crc32c(b, nb, crc32c(a, na)) is the checksum of a followed by b.
[[nodiscard]] std::uint32_t crc32c(const void* data, std::size_t n, std::uint32_t init = 0) noexcept;

// The portable implementation, the oracle of the hardware one.
[[nodiscard]] std::uint32_t crc32c_portable(const void* data, std::size_t n, std::uint32_t init = 0) noexcept;

}  // namespace vicinal
