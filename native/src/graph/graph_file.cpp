// The index on disk.
//
// A fixed header, then sections that start at multiples of 4096 bytes, then one CRC-32C per started MiB of every
// section. The header has a checksum of its own and vouches for the table of checksums. Behind that stands the table of
// calibration, which a release that knows none of it leaves alone. All numbers are little-endian.
// Nothing read from a file is believed before it is compared with the file's size or with another bound.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "base/crc32c.hpp"
#include "base/error.hpp"
#include "base/file.hpp"
#include "base/thread_pool.hpp"
#include "graph/calibration.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace vicinal::graph {
namespace {

static_assert(std::endian::native == std::endian::little, "the file format is little-endian");

constexpr std::array<char, 8> kMagic{'V', 'I', 'C', 'G', 'R', 'A', 'P', 'H'};
constexpr std::uint32_t kVersionApart = 4;  // packed rows kept apart
constexpr std::uint32_t kVersionTwoBits = 3;
constexpr std::uint32_t kVersionOneBit = 2;
constexpr std::uint32_t kVersion = kVersionApart;  // the newest
constexpr std::uint64_t kAlign = 4096;
constexpr std::uint64_t kBlock = std::uint64_t{1} << 20;
constexpr std::size_t kDimMax = 65536;

enum SectionId : std::size_t { kCenter, kRows, kNorms, kCodes, kEdges, kLive, kPackedMean, kPacked, kSections };

struct SectionEntry {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

std::uint64_t blocks_of(std::uint64_t bytes) { return (bytes + kBlock - 1) / kBlock; }

[[noreturn]] void corrupt(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::corrupt, "'" + path + "': " + what + "; rebuild the index from its vectors");
}

}  // namespace

struct GraphIndex::FileHeader {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t header_crc = 0;  // of this struct with 0 here
  std::uint64_t file_bytes = 0;
  std::uint64_t n = 0;
  std::uint64_t linked = 0;
  std::uint64_t dim = 0;
  std::uint64_t seed = 0;
  std::uint64_t entries_chosen_at = 0;
  std::uint32_t metric = 0;
  std::uint32_t dtype = 0;
  std::uint32_t M = 0;
  std::uint32_t ef_construction = 0;
  std::uint32_t has_rows = 0;
  std::uint32_t trained = 0;
  float low = 0;
  float step = 0;
  float norm2_max = 0;
  std::uint32_t extra = 0;
  std::uint32_t code_max = 0;
  std::uint32_t n_entries = 0;
  std::uint32_t format = 0;       // as configured
  std::uint32_t packed_bits = 0;  // of the rabitq form in the file, for each dimension of a code; 0: there is none
  std::uint64_t packed_at = 0;
  float packed_query_norm = 0;
  float packed_unit = 1;
  float packed_scale = 1;
  std::uint32_t calibration_bytes = 0;  // at the end of the file; 0: not calibrated
  std::array<std::uint32_t, kEntriesMax> entries{};
  std::array<SectionEntry, kSections> sections{};
  SectionEntry checksums;
  std::uint32_t checksums_crc = 0;
  std::uint32_t calibration_crc = 0;

  [[nodiscard]] std::uint32_t crc() const {
    FileHeader copy = *this;
    copy.header_crc = 0;
    return crc32c(&copy, sizeof(copy));
  }
};

std::size_t graph_header_bytes() { return sizeof(GraphIndex::FileHeader); }

void sign_graph_header(void* header) {
  GraphIndex::FileHeader h;
  std::memcpy(&h, header, sizeof(h));
  h.header_crc = h.crc();
  std::memcpy(header, &h, sizeof(h));
}

void GraphIndex::save(const std::string& path, bool vectors) const {
  static_assert(std::has_unique_object_representations_v<SectionEntry> && std::is_trivially_copyable_v<FileHeader>);
  const std::lock_guard lock(link_mutex_);
  const std::size_t n = size();
  FileHeader h;
  h.n = n;
  h.linked = linked();
  h.dim = config_.dim;
  h.seed = config_.seed;
  h.entries_chosen_at = entries_chosen_at_;
  h.metric = static_cast<std::uint32_t>(config_.metric);
  h.dtype = static_cast<std::uint32_t>(config_.dtype);
  h.M = config_.M;
  h.ef_construction = config_.ef_construction;
  h.has_rows = vectors ? 1 : 0;
  h.trained = codec_.trained() ? 1 : 0;
  const CodecParameters& codec = codec_.parameters();
  h.low = codec.low;
  h.step = codec.step;
  h.norm2_max = codec.norm2_max;
  h.extra = codec.extra;
  h.code_max = codec.code_max;
  h.format = static_cast<std::uint32_t>(config_.format);
  h.packed_at = packed_at_;
  h.packed_scale = packed_scale_.load();
  const std::shared_ptr<qgraph::QGraph> packed = this->packed();
  h.packed_bits = packed != nullptr ? packed->bits() : 0;
  // As old as it can be: older releases read it, too.
  h.version = h.packed_bits > 1 ? kVersionTwoBits : kVersionOneBit;
  if (packed != nullptr && packed->apart()) h.version = kVersionApart;
  if (packed != nullptr) {
    h.packed_query_norm = packed->parameters().query_norm;
    h.packed_unit = packed->parameters().unit;
  }
  const std::vector<std::uint32_t> entries = entry_points();
  h.n_entries = static_cast<std::uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), h.entries.begin());
  std::vector<std::uint64_t> live_copy((n + 63) / 64);
  for (std::size_t w = 0; w < live_copy.size(); ++w) live_copy[w] = __atomic_load_n(&live_words()[w], __ATOMIC_RELAXED);

  AtomicFile file(path);
  std::vector<std::uint32_t> checksums;
  static constexpr std::array<std::byte, kAlign> zeros{};
  const auto pad = [&] {
    if (file.offset() % kAlign != 0) file.append(zeros.data(), kAlign - file.offset() % kAlign);
  };
  file.append(&h, sizeof(h));
  std::uint32_t block_crc = 0;
  SectionEntry* section = nullptr;
  // Appends to the section, closing a checksum at every MiB of it.
  const auto put = [&](const void* data, std::uint64_t bytes) {
    const auto* p = static_cast<const std::byte*>(data);
    file.append(p, bytes);  // at once: large writes leave huge pages in the system's cache, which a map uses
    while (bytes > 0) {
      const std::uint64_t take = std::min(bytes, kBlock - section->bytes % kBlock);
      block_crc = crc32c(p, take, block_crc);
      section->bytes += take;
      if (section->bytes % kBlock == 0) checksums.push_back(std::exchange(block_crc, 0));
      p += take;
      bytes -= take;
    }
  };
  const auto begin = [&](SectionId id) {
    pad();
    section = &h.sections[id];
    section->offset = file.offset();
  };
  const auto end = [&] {
    if (section->bytes % kBlock != 0) checksums.push_back(std::exchange(block_crc, 0));
  };
  begin(kCenter);
  put(codec.center.data(), codec.center.size() * sizeof(float));
  end();
  begin(kRows);
  if (vectors) {
    const std::size_t external = std::min(n, rows_.n_external());
    if (external > 0) put(rows_.row(0), external * rows_.row_bytes());
    if (n > external) put(rows_.row(external), (n - external) * rows_.row_bytes());
  }
  end();
  begin(kNorms);
  if (config_.metric == Metric::cosine) put(rows_.norm_block().data(), n * sizeof(float));
  end();
  begin(kCodes);
  put(codes_.data(), h.linked * codec_.stride());
  end();
  begin(kEdges);
  put(edges_.words, h.linked * edges_.stride * sizeof(std::uint32_t));
  end();
  begin(kLive);
  put(live_copy.data(), live_copy.size() * sizeof(std::uint64_t));
  end();
  begin(kPackedMean);
  if (packed != nullptr) put(packed->parameters().mean.data(), config_.dim * sizeof(float));
  end();
  begin(kPacked);
  if (packed != nullptr) put(packed->row_block().data(), h.linked * packed->stride());
  end();
  pad();
  h.checksums = {file.offset(), checksums.size() * sizeof(std::uint32_t)};
  file.append(checksums.data(), h.checksums.bytes);
  h.checksums_crc = crc32c(checksums.data(), h.checksums.bytes);
  if (const std::shared_ptr<const Calibration> table = calibration(); table != nullptr) {
    const std::vector<std::byte> bytes = table->bytes();
    h.calibration_bytes = static_cast<std::uint32_t>(bytes.size());
    h.calibration_crc = crc32c(bytes.data(), bytes.size());
    file.append(bytes.data(), bytes.size());
  }
  h.file_bytes = file.offset();
  h.header_crc = h.crc();
  file.write_at(&h, sizeof(h), 0);
  file.commit();
}

std::unique_ptr<GraphIndex> GraphIndex::load(const std::string& path, bool map, const std::byte* rows, std::size_t n) {
  const File file = File::open_read(path);
  const std::uint64_t file_bytes = file.size();
  FileHeader h;
  if (file_bytes < sizeof(h)) corrupt(path, "it has " + std::to_string(file_bytes) + " bytes, too few for a header");
  file.read_at(&h, sizeof(h), 0);
  if (h.magic != kMagic) corrupt(path, "it is no graph index file");
  if (h.version > kVersion) {
    throw Error(ErrorCode::format_version, "'" + path + "' has format version " + std::to_string(h.version) +
                                               ", this release reads up to " + std::to_string(kVersion) +
                                               "; upgrade Vicinal");
  }
  if (h.version == 0 || h.header_crc != h.crc()) corrupt(path, "the header's checksum does not match");
  if (h.file_bytes != file_bytes) {
    corrupt(path, "it has " + std::to_string(file_bytes) + " bytes, its header says " + std::to_string(h.file_bytes));
  }
  const bool in_range = h.n <= kRowsMax && h.linked <= h.n && h.dim > 0 && h.dim <= kDimMax &&
                        h.metric <= static_cast<std::uint32_t>(Metric::manhattan) &&
                        h.dtype <= static_cast<std::uint32_t>(DType::bit) && h.n_entries <= kEntriesMax &&
                        (h.linked == 0 || (h.n_entries > 0 && h.trained == 1)) && h.has_rows <= 1 && h.trained <= 1 &&
                        h.format <= static_cast<std::uint32_t>(Format::rabitq) &&
                        h.packed_bits <= (h.version <= kVersionOneBit ? 1U : 2U) && h.packed_at <= h.linked &&
                        std::isfinite(h.packed_query_norm) && std::isfinite(h.packed_unit) && h.packed_unit > 0 &&
                        h.packed_scale >= 1 && h.packed_scale <= 16;
  if (!in_range) corrupt(path, "the header holds numbers outside their ranges");
  GraphConfig config{static_cast<std::size_t>(h.dim),
                     static_cast<Metric>(h.metric),
                     static_cast<DType>(h.dtype),
                     h.M,
                     h.ef_construction,
                     h.seed,
                     static_cast<Format>(h.format)};
  std::unique_ptr<GraphIndex> made;
  try {
    made = std::make_unique<GraphIndex>(config);
  } catch (const Error& error) {
    corrupt(path, error.what());
  }
  GraphIndex& index = *made;
  if (h.has_rows == 1 && rows != nullptr) {
    throw Error(ErrorCode::invalid_argument, "'" + path + "' holds its vectors; load it without vectors=");
  }
  if (h.has_rows == 0 && h.n > 0 && (rows == nullptr || n != h.n)) {
    throw Error(ErrorCode::invalid_argument, "'" + path + "' was saved without its " + std::to_string(h.n) +
                                                 " vectors; pass exactly those as vectors=, got " + std::to_string(n));
  }

  // Sizes follow from the counts; what the table says must agree and lie inside the file.
  const std::uint64_t center_bytes = h.sections[kCenter].bytes == 0 ? 0 : h.dim * sizeof(float);
  CodecParameters codec{h.low, h.step, h.norm2_max, h.extra, h.code_max, std::vector<float>(center_bytes / 4)};
  std::array<std::uint64_t, kSections> expected{};
  expected[kCenter] = center_bytes;
  expected[kRows] = h.has_rows * h.n * index.rows_.row_bytes();
  expected[kNorms] = config.metric == Metric::cosine ? h.n * sizeof(float) : 0;
  expected[kEdges] = h.linked * index.edges_.stride * sizeof(std::uint32_t);
  expected[kLive] = (h.n + 63) / 64 * sizeof(std::uint64_t);
  std::uint64_t blocks = 0;
  const auto check_section = [&](const SectionEntry& s, std::uint64_t bytes) {
    if (s.bytes != bytes || s.offset % kAlign != 0 || s.offset > file_bytes || s.bytes > file_bytes - s.offset) {
      corrupt(path, "a section's place or size does not fit the counts in the header");
    }
  };
  check_section(h.sections[kCenter], center_bytes);
  if (center_bytes != 0) file.read_at(codec.center.data(), center_bytes, h.sections[kCenter].offset);
  for (const float x : codec.center) {
    if (!std::isfinite(x)) corrupt(path, "the quantiser's centre is not finite");
  }
  if (h.trained == 1) index.codec_.set_parameters(index.rows_, std::move(codec));
  expected[kCodes] = h.linked * index.codec_.stride();
  std::shared_ptr<qgraph::QGraph> packed;
  if (h.packed_bits != 0) {
    if (!qgraph::QGraph::supports(config.metric, config.dtype, config.dim)) {
      corrupt(path, "it holds a packed graph for a metric that has none");
    }
    packed = std::make_shared<qgraph::QGraph>(config.dim, config.metric, config.M, config.seed, h.packed_bits,
                                              h.version < kVersionApart);
    expected[kPackedMean] = h.dim * sizeof(float);
    expected[kPacked] = h.linked * packed->stride();
    qgraph::Parameters parameters{std::vector<float>(h.dim), h.packed_query_norm, h.packed_unit};
    check_section(h.sections[kPackedMean], expected[kPackedMean]);
    file.read_at(parameters.mean.data(), expected[kPackedMean], h.sections[kPackedMean].offset);
    for (const float x : parameters.mean) {
      if (!std::isfinite(x)) corrupt(path, "the packed graph's mean is not finite");
    }
    packed->set_parameters(std::move(parameters));
  }
  for (std::size_t i = 0; i < kSections; ++i) {
    check_section(h.sections[i], expected[i]);
    blocks += blocks_of(expected[i]);
  }
  check_section(h.checksums, blocks * sizeof(std::uint32_t));
  std::vector<std::uint32_t> checksums(blocks);
  file.read_at(checksums.data(), h.checksums.bytes, h.checksums.offset);
  if (crc32c(checksums.data(), h.checksums.bytes) != h.checksums_crc) {
    corrupt(path, "the table of checksums is damaged");
  }
  if (h.calibration_bytes > 0) {
    const std::uint64_t at = h.checksums.offset + h.checksums.bytes;
    if (h.calibration_bytes > file_bytes - at) corrupt(path, "its calibration does not fit the file");
    std::vector<std::byte> bytes(h.calibration_bytes);
    file.read_at(bytes.data(), bytes.size(), at);
    if (crc32c(bytes.data(), bytes.size()) != h.calibration_crc) corrupt(path, "its calibration is damaged");
    try {
      index.set_calibration(std::make_shared<const Calibration>(Calibration::parse(bytes.data(), bytes.size())));
    } catch (const std::invalid_argument& error) {
      corrupt(path, error.what());
    }
  }

  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto fill = [&](ReservedBuffer& buffer, SectionId id) {
    const SectionEntry& s = h.sections[id];
    if (s.bytes == 0) return;
    if (map && s.offset % page == 0) {
      buffer.map_file(file.descriptor(), s.offset, s.bytes);
    } else {
      buffer.grow(s.bytes);
      file.read_at(buffer.data(), s.bytes, s.offset);
    }
  };
  fill(index.rows_.row_block(), kRows);
  if (config.metric == Metric::cosine) fill(index.rows_.norm_block(), kNorms);
  fill(index.codes_, kCodes);
  fill(index.edge_words_, kEdges);
  index.edges_.words = index.edge_words_.as<std::uint32_t>();  // a map may have moved it
  fill(index.live_bits_, kLive);
  if (packed != nullptr) fill(packed->row_block(), kPacked);
  const std::array<const void*, kSections> memory{index.codec_.parameters().center.data(),
                                                  index.rows_.row_block().data(),
                                                  index.rows_.norm_block().data(),
                                                  index.codes_.data(),
                                                  index.edge_words_.data(),
                                                  index.live_bits_.data(),
                                                  packed != nullptr ? packed->parameters().mean.data() : nullptr,
                                                  packed != nullptr ? packed->row_block().data() : nullptr};
  struct Block {
    const std::byte* data;
    std::uint64_t bytes;
    std::uint64_t offset;
  };
  std::vector<Block> list;
  for (std::size_t i = 0; i < kSections; ++i) {
    for (std::uint64_t at = 0; at < expected[i]; at += kBlock) {
      list.push_back({static_cast<const std::byte*>(memory[i]) + at, std::min(kBlock, expected[i] - at),
                      h.sections[i].offset + at});
    }
  }
  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(list.size(), 0, 4, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t i = begin; i < end; ++i) {
      if (crc32c(list[i].data, list[i].bytes) != checksums[i]) {
        corrupt(path, "the block at byte " + std::to_string(list[i].offset) + " fails its checksum");
      }
    }
  });
  // A checksum proves that the file is what was written, not that a sound program wrote it.
  const std::uint32_t* words = index.edges_.words;
  pool.parallel_for(h.linked, 0, 4096, [&](std::size_t begin, std::size_t end, unsigned) {
    std::uint32_t highest = 0;
    for (std::size_t i = begin * index.edges_.stride; i < end * index.edges_.stride; ++i) {
      highest = std::max(highest, words[i]);
    }
    if (highest >= h.linked) corrupt(path, "an edge leads to row " + std::to_string(highest) + ", which is not there");
  });
  if (packed != nullptr) {
    if (const std::string wrong = packed->adopt(h.linked); !wrong.empty()) corrupt(path, wrong);
  }
  index.changed_bits_.grow((h.linked + 63) / 64 * sizeof(std::uint64_t));
  index.in_degrees_.grow(h.linked * sizeof(std::uint16_t));
  auto* in_degrees = index.in_degrees_.as<std::uint16_t>();
  for (std::size_t r = 0; r < h.linked; ++r) {
    for (std::size_t i = 0; i < index.edges_.degree; ++i) {
      const std::uint32_t to = words[r * index.edges_.stride + i];
      if (to != r) ++in_degrees[to];
    }
  }
  for (std::size_t i = 0; i < h.n_entries; ++i) {
    if (h.entries[i] >= h.linked) corrupt(path, "an entry point is not in the graph");
    index.entries_[i].store(h.entries[i], std::memory_order_relaxed);
  }
  if (h.has_rows == 0 && h.n > 0) {
    index.rows_.attach(rows, n, false);
  }
  auto* live_bits = index.live_bits_.as<std::uint64_t>();
  if (h.n % 64 != 0) live_bits[h.n / 64] &= (std::uint64_t{1} << (h.n % 64)) - 1;
  std::size_t live_rows = 0;
  for (std::size_t w = 0; w < (h.n + 63) / 64; ++w) live_rows += static_cast<std::size_t>(std::popcount(live_bits[w]));
  index.live_count_.store(live_rows);
  index.entries_chosen_at_ = h.entries_chosen_at;
  index.packed_at_ = h.packed_at;
  index.packed_scale_.store(h.packed_scale);
  index.set_packed(std::move(packed));
  index.n_entries_.store(h.n_entries);
  index.linked_.store(h.linked);
  index.size_.store(h.n);
  return made;
}

}  // namespace vicinal::graph
