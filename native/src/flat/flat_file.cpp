// The file of a flat index: a header, then rows and tombstones as one body, then a CRC-32C of each block of the body.
//
//   header   64 bytes, the last four their CRC-32C
//   body     n * row_size bytes of rows, then ceil(n / 64) words of tombstones
//   table    a CRC-32C per kBlock bytes of body, then the CRC-32C of these
//
// All numbers are little-endian. The file's size follows from the header, and any other size is refused.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "base/crc32c.hpp"
#include "base/error.hpp"
#include "base/file.hpp"
#include "flat/flat_index.hpp"

namespace vicinal {
namespace {

static_assert(std::endian::native == std::endian::little, "files are written as memory lies");

constexpr std::array<char, 8> kMagic = {'V', 'I', 'C', 'F', 'L', 'A', 'T', '\0'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kBlock = std::size_t{1} << 20;

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t dim = 0;
  std::uint32_t metric = 0;
  std::uint32_t dtype = 0;
  std::uint64_t n = 0;
  std::uint64_t block_bytes = kBlock;
  std::array<std::uint8_t, 20> reserved{};
  std::uint32_t crc = 0;  // of everything before
};
static_assert(sizeof(Header) == 64);

std::uint32_t header_crc(const Header& h) noexcept { return crc32c(&h, offsetof(Header, crc)); }

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::corrupt, "'" + path + "' " + what + "; restore it from a copy or build it again");
}

std::size_t blocks_of(std::size_t bytes) noexcept { return (bytes + kBlock - 1) / kBlock; }

Header read_header(const File& file) {
  Header h;
  file.read_at(&h, sizeof h, 0);
  if (h.magic != kMagic) refuse(file.path(), "is not a flat index (its magic differs)");
  if (h.version != kVersion) {
    refuse(file.path(),
           "has format version " + std::to_string(h.version) + ", this build reads " + std::to_string(kVersion));
  }
  if (h.crc != header_crc(h)) refuse(file.path(), "has a damaged header (checksum)");
  if (h.metric > static_cast<std::uint32_t>(Metric::manhattan) || h.dtype > static_cast<std::uint32_t>(DType::u8) ||
      h.block_bytes != kBlock || h.n > std::uint64_t{0xFFFFFFFF}) {
    refuse(file.path(), "has a header with values out of range");
  }
  return h;
}

}  // namespace

void FlatIndex::save(const std::string& path) const {
  const std::lock_guard lock(writer_);
  Header h;
  h.dim = static_cast<std::uint32_t>(dim_);
  h.metric = static_cast<std::uint32_t>(metric_);
  h.dtype = static_cast<std::uint32_t>(dtype_);
  h.n = size_.load(std::memory_order_relaxed);
  h.crc = header_crc(h);

  AtomicFile file(path);
  file.append(&h, sizeof h);
  std::vector<std::uint32_t> table;
  std::vector<std::byte> joint;  // the block in which rows end and tombstones begin is put together here
  const std::size_t row_part = h.n * row_size_;
  const std::size_t total = row_part + (h.n + 63) / 64 * 8;
  for (std::size_t at = 0; at < total; at += kBlock) {
    const std::size_t bytes = std::min(kBlock, total - at);
    const std::byte* block = rows_.data() + at;
    if (at + bytes > row_part) {
      joint.resize(bytes);
      const std::size_t of_rows = at < row_part ? row_part - at : 0;
      if (of_rows != 0) std::memcpy(joint.data(), block, of_rows);
      std::memcpy(joint.data() + of_rows, tombstones_.data() + (at + of_rows - row_part), bytes - of_rows);
      block = joint.data();
    }
    table.push_back(crc32c(block, bytes));
    file.append(block, bytes);
  }
  table.push_back(crc32c(table.data(), table.size() * 4));
  file.append(table.data(), table.size() * 4);
  file.commit();
}

std::unique_ptr<FlatIndex> FlatIndex::load(const std::string& path) {
  const File file = File::open_read(path);
  const Header h = read_header(file);
  auto index = std::make_unique<FlatIndex>(h.dim, static_cast<Metric>(h.metric), static_cast<DType>(h.dtype));
  const std::size_t row_part = h.n * index->row_size_;
  const std::size_t total = row_part + (h.n + 63) / 64 * 8;
  std::vector<std::uint32_t> table(blocks_of(total) + 1);
  const std::uint64_t expected = sizeof h + total + table.size() * 4;
  if (const std::uint64_t size = file.size(); size != expected) {
    refuse(path, "has " + std::to_string(size) + " bytes, its header promises " + std::to_string(expected));
  }
  file.read_at(table.data(), table.size() * 4, sizeof h + total);
  if (crc32c(table.data(), (table.size() - 1) * 4) != table.back()) refuse(path, "has a damaged checksum table");
  if (h.n == 0) return index;

  const std::lock_guard lock(index->writer_);
  index->grow(h.n);
  std::vector<std::byte> joint;
  for (std::size_t at = 0; at < total; at += kBlock) {
    const std::size_t bytes = std::min(kBlock, total - at);
    std::byte* block = index->rows_.data() + at;
    if (at + bytes > row_part) {
      joint.resize(bytes);
      block = joint.data();
    }
    file.read_at(block, bytes, sizeof h + at);
    if (crc32c(block, bytes) != table[at / kBlock]) {
      refuse(path, "is damaged between bytes " + std::to_string(sizeof h + at) + " and " +
                       std::to_string(sizeof h + at + bytes) + " (checksum)");
    }
    if (at + bytes > row_part) {
      const std::size_t of_rows = at < row_part ? row_part - at : 0;
      if (of_rows != 0) std::memcpy(index->rows_.data() + at, block, of_rows);
      std::memcpy(index->tombstones_.data() + (at + of_rows - row_part), block + of_rows, bytes - of_rows);
    }
  }
  std::size_t removed = 0;
  for (std::size_t w = 0; w < (h.n + 63) / 64; ++w) {
    removed += static_cast<std::size_t>(std::popcount(index->tombstones_.as<std::uint64_t>()[w]));
  }
  index->removed_.store(removed, std::memory_order_relaxed);
  index->publish(0, h.n);
  return index;
}

}  // namespace vicinal
