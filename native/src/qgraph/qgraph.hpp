// A graph packed for the fastest search: one row per node holds what a hop reads (format.hpp).
//
// It is a second form of a graph that somebody else owns and changes: encode_edges() brings a node up to date with its
// current neighbours. Searches take no lock and may run while rows are encoded: a neighbour list that is half old and
// half new gives poor estimates for one hop, never a wrong answer, because a search only proposes rows and the caller
// computes their distances. Node numbers differ from row numbers, so that nodes visited together lie together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/file.hpp"
#include "distance/distance.hpp"
#include "qgraph/format.hpp"
#include "qgraph/rotation.hpp"
#include "qgraph/scratch.hpp"
#include "qgraph/search.hpp"

namespace vicinal::qgraph {

// What is learnt from rows before any is encoded; saved with the rows.
struct Parameters {
  std::vector<float> mean;  // dim; subtracted from rows and queries (all 0 for ip)
  float query_norm = 0.0F;  // ip: the length to which queries are scaled for estimates
  float unit = 1.0F;        // internal distance = unit * squared distance; keeps f_add inside f16
};

struct SearchOptions {
  std::size_t k = 10;
  std::size_t ef = 64;         // nodes expanded, >= k
  std::size_t interleave = 0;  // queries under way at once, 1..8; 0: chosen
  // Each query by itself, in the least time: its nodes are chosen a turn late, so that it finds a little more, and not
  // always the same, as among others.
  bool alone = false;
  const std::uint32_t* entries = nullptr;  // rows to start from, at least one
  std::size_t n_entries = 0;
  const std::uint64_t* pass = nullptr;  // bit r of word r / 64: row r may be returned; null: all
  std::uint32_t limit = 0;              // rows from here on are not returned
  float near_part = 0.0F;               // ends a search early, see Batch; 0: it does not
  float near_part_all = 0.0F;           // of Batch, where only some rows may be returned, and what follows
  std::size_t enough = 0;
  std::size_t nodes_max = 0;
  float rows_per_match = 0.0F;
  std::uint32_t look = 0;
  float share_min = 0.0F;
  const std::uint32_t* order = nullptr;  // in which to answer, the number of a query each; null: as they come
  const Loops* loops = nullptr;          // of another instruction set than the best; for tests
};

// What a search read for one query: rows of the nodes it expanded, in order, and the exact rows it compared.
struct Visit {
  std::vector<std::uint32_t> rows;
  std::vector<const std::byte*> exact;
};

// A row as floats: of unit length for cosine, as it is for l2 and ip.
using ReadRow = std::function<void(std::size_t row, float* out)>;

class QGraph {
 public:
  static constexpr std::size_t kDegreeStep = kBlock;

  // Throws Error{invalid_argument} for other metrics than l2, ip, cosine; std::bad_alloc.
  // bits: of a neighbour's code for each dimension, 1 or 2. close: see Layout.
  QGraph(std::size_t dim, Metric metric, std::size_t degree, std::uint64_t seed, std::uint32_t bits,
         bool close = false);
  QGraph(std::size_t dim, Metric metric, std::size_t degree, std::uint64_t seed)
      : QGraph(dim, metric, degree, seed, bits_for(dim)) {}

  [[nodiscard]] static bool supports(Metric metric, DType dtype, std::size_t dim) noexcept {
    return dim <= kDimMax && (metric == Metric::l2 || metric == Metric::ip || metric == Metric::cosine) &&
           (dtype == DType::f32 || dtype == DType::f16);
  }

  // Learns from a sample of rows [0, n).
  void train(std::size_t n, const ReadRow& read);
  void set_parameters(Parameters parameters) { parameters_ = std::move(parameters); }
  [[nodiscard]] const Parameters& parameters() const noexcept { return parameters_; }

  // Makes room for n nodes; those there keep their addresses.
  void grow(std::size_t n);
  // Row `row` is node `node`; each once, before anything of the row is encoded.
  void place(std::uint32_t row, std::uint32_t node) noexcept;
  // Encodes a row's own vector (dim floats as ReadRow gives them). `work` holds padded() floats.
  void encode_own(std::uint32_t row, const float* values, float* work) noexcept;
  // Makes the node's neighbours those listed (rows other than `row`, encoded already); with `all` every slot is
  // written, else only those that changed. One thread at a time per row.
  void encode_edges(std::uint32_t row, const std::uint32_t* neighbours, std::size_t n, bool all) noexcept;

  // Finds the rows nearest to each of nq queries (float, dim; the listed ones where there is an order) and hands them
  // to the reranker, query by query.
  void search(const float* queries, std::size_t nq, const SearchOptions& options, const Reranker& reranker) const;

  // Reads what searches of these visits read, as they would and with their prefetches, but computes nothing. Returns a
  // sum of what was read, so that nothing is left out.
  [[nodiscard]] std::uint64_t replay(const std::vector<Visit>& visits, std::size_t exact_bytes) const noexcept;

  // After the rows block was filled from a file: checks that it is a graph over n rows and numbers them.
  // Returns what is wrong with it; empty: nothing.
  [[nodiscard]] std::string adopt(std::size_t n);

  [[nodiscard]] std::size_t padded() const noexcept { return layout_.padded; }
  [[nodiscard]] std::uint32_t bits() const noexcept { return layout_.bits; }
  [[nodiscard]] std::size_t stride() const noexcept { return layout_.stride; }
  [[nodiscard]] bool apart() const noexcept { return layout_.stride != layout_.bytes; }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return rows_.committed() + nodes_.committed(); }
  [[nodiscard]] std::size_t mapped_bytes() const noexcept { return rows_.from_file(); }
  [[nodiscard]] ReservedBuffer& row_block() noexcept { return rows_; }
  [[nodiscard]] const ReservedBuffer& row_block() const noexcept { return rows_; }

 private:
  [[nodiscard]] std::byte* row_at(std::uint32_t node) noexcept {
    return rows_.data() + std::size_t{node} * layout_.stride;
  }

  std::size_t dim_;
  Metric metric_;
  Layout layout_;
  Rotation rotation_;
  Loops loops_;
  Parameters parameters_;
  ReservedBuffer rows_;
  ReservedBuffer nodes_;  // u32 each: the node of a row
  mutable ScratchPool scratches_;
};

// Queries under way at once on one thread of a batch call.
[[nodiscard]] std::size_t interleave_for(std::size_t dim) noexcept;

// The loops of an instruction set that this machine has; best_isa() heeds VICINAL_ISA.
[[nodiscard]] Loops loops_for(Isa isa) noexcept;

}  // namespace vicinal::qgraph
