// The mutable vector index: exact rows, one-byte codes, a flat proximity graph over them.
//
// Rows [0, linked) are in the graph; rows [linked, size) are pending and every search scans them exactly. Searches take
// no lock: they run beside append, remove, link and repair. append calls exclude one another, and so do link, repair
// and save; the caller need not arrange anything.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/file.hpp"
#include "distance/distance.hpp"
#include "graph/calibration.hpp"
#include "graph/codec.hpp"
#include "graph/linker.hpp"
#include "graph/rows.hpp"
#include "graph/scratch.hpp"
#include "graph/view.hpp"
#include "graph/walks.hpp"
#include "qgraph/qgraph.hpp"

namespace vicinal::graph {

// How nodes are laid out for searching. sq8: one-byte codes apart from the graph. rabitq: each node's neighbours as
// 1-bit or 2-bit codes beside it. automatic: the faster one in a trial on the index's own rows, when they are linked in
// bulk.
enum class Format : std::uint8_t { automatic, sq8, rabitq };

struct GraphConfig {
  std::size_t dim = 0;
  Metric metric = Metric::l2;
  DType dtype = DType::f32;
  std::uint32_t M = 32;  // neighbours per row
  std::uint32_t ef_construction = 256;
  std::uint64_t seed = 0;
  Format format = Format::automatic;
  std::uint32_t code_bits = 0;  // a dimension, of the packed form's codes, 1 or 2; 0: by the dimension
};

enum class Strategy : std::uint8_t { automatic, scan, filter, gate };

struct SearchParameters {
  std::size_t k = 10;
  std::size_t ef_search = 64;
  // Ends a walk before its beam does: as soon as k of the nodes it expanded are nearer than near_part times the nearest
  // candidate (of squared distances under l2 and cosine). 0: never.
  float near_part = 0.0F;
  // With a filter, ef_search is the work to do and near_part is chosen: see GraphIndex::same_work.
  bool by_work = false;
  bool sound = false;  // the queries passed Rows::sound_queries() already
  unsigned threads = 1;
  bool exact = false;
  Strategy strategy = Strategy::automatic;
  const std::uint64_t* filter = nullptr;  // bit r of word r / 64; rows past filter_words * 64 do not match
  std::size_t filter_words = 0;
};

// Throws Error{invalid_argument} or, above a limit, Error{capacity}.
void check_parameters(const SearchParameters& p);

// The memory side of some searches.
struct Replay {
  std::size_t visited = 0;   // nodes expanded, of all queries
  std::size_t compared = 0;  // rows whose exact distances were computed
  double seconds = 0.0;      // of reading the same, with no arithmetic: the best pass
  std::uint64_t checksum = 0;
};

// Told (done, total) now and then from the thread that called; returning false cancels with Error{cancelled}.
using Progress = std::function<bool(std::size_t, std::size_t)>;

[[nodiscard]] inline std::vector<std::uint32_t> row_range(std::size_t first, std::size_t last) {
  std::vector<std::uint32_t> rows(last - first);
  std::iota(rows.begin(), rows.end(), static_cast<std::uint32_t>(first));
  return rows;
}

class GraphIndex {
 public:
  explicit GraphIndex(const GraphConfig& config);

  // n rows into an empty index. copy = false keeps a reference: the caller keeps the memory alive and unchanged.
  void build(const std::byte* rows, std::size_t n, unsigned threads, bool copy, const Progress& progress);
  // Returns the first new row.
  std::size_t append(const std::byte* rows, std::size_t n);
  // Moves up to max_rows pending rows into the graph; returns how many.
  std::size_t link(std::size_t max_rows, unsigned threads, const Progress& progress);
  // Rows newly removed. Throws, and removes nothing, where a row does not exist.
  std::size_t remove(const std::int64_t* rows, std::size_t n);
  // Reconnects the graph around removed rows; returns how many rows changed.
  std::size_t repair(unsigned threads);
  // A copy of the listed rows (ascending): row i of it is keep[i] here and removed where that is. It gets its rows
  // from `rows`, unless null, which the caller keeps alive and unchanged: n_rows of them, any new ones behind, pending.
  // Linking and repairing wait meanwhile.
  [[nodiscard]] std::unique_ptr<GraphIndex> compact(const std::vector<std::int64_t>& keep, const std::byte* rows,
                                                    std::size_t n_rows, unsigned threads) const;
  [[nodiscard]] std::vector<std::int64_t> live_rows() const;

  // out_rows and out_distances hold n_queries * k entries, padded with -1 and infinity.
  void search(const std::byte* queries, std::size_t n_queries, const SearchParameters& parameters,
              std::int64_t* out_rows, float* out_distances) const;

  // Runs the searches once on this thread, then only reads what they read, `passes` times. For the rabitq form.
  [[nodiscard]] Replay replay(const std::byte* queries, std::size_t n_queries, const SearchParameters& parameters,
                              unsigned passes) const;

  // Writes the index to a temporary file and renames it; searches and append go on meanwhile. Without vectors the rows
  // themselves are left out, and load() is given them.
  void save(const std::string& path, bool vectors) const;
  // Checks everything before use. map: rows, codes and edges stay in the file until touched. `rows`: n rows for an
  // index saved without them, kept alive and unchanged by the caller.
  [[nodiscard]] static std::unique_ptr<GraphIndex> load(const std::string& path, bool map, const std::byte* rows,
                                                        std::size_t n);

  // Measures recall over the beam width with the caller's queries, which replaces what link() measured with rows that
  // it kept back. Nothing where no row is linked.
  void calibrate(const std::byte* queries, std::size_t n, unsigned threads);
  // Null: not measured yet, or in a file of an older release.
  [[nodiscard]] std::shared_ptr<const Calibration> calibration() const;
  // Nodes that a search without removed rows expands, per unit of its ef_search.
  [[nodiscard]] double nodes_per_ef() const noexcept {
    return packed() != nullptr ? static_cast<double>(packed_scale_.load()) : 1.0;
  }
  // With a filter, a search that does the work of a beam of ef, as RecallTable::same_work does; none where nothing was
  // measured.
  [[nodiscard]] std::optional<Beam> same_work(std::size_t k, std::size_t ef, double share) const;
  // As Calibration::choose, where this share of the rows match; none where nothing was measured.
  [[nodiscard]] std::optional<Beam> choose_filtered(std::size_t k, double recall, double share) const;
  [[nodiscard]] std::optional<double> expected_filtered(std::size_t k, std::size_t ef, double share) const;
  // Matches of a filter that are compared in the time of a walk, where they are this share of the rows: so many are.
  [[nodiscard]] std::size_t scan_matches_max(std::size_t k, std::size_t ef, double share) const noexcept;
  // How a filter is walked that so large a share of the rows passes: by filter or gate.
  [[nodiscard]] Strategy filtered_walk(std::size_t k, std::size_t ef, double share) const noexcept;
  void set_calibration(std::shared_ptr<const Calibration> table);

  void copy_rows(const std::int64_t* rows, std::size_t n, std::byte* out) const;

  [[nodiscard]] const GraphConfig& config() const noexcept { return config_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  [[nodiscard]] std::size_t linked() const noexcept { return linked_.load(std::memory_order_acquire); }
  [[nodiscard]] std::size_t live() const noexcept { return live_count_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept;
  // Those of them that a file backs: the system takes them back when it needs memory.
  [[nodiscard]] std::size_t mapped_bytes() const noexcept;
  [[nodiscard]] std::size_t row_bytes() const noexcept { return rows_.row_bytes(); }
  // Bytes of one query: float32 for f32 and f16 rows, the row's own type otherwise.
  [[nodiscard]] std::size_t query_bytes() const noexcept;
  [[nodiscard]] bool is_live(std::uint32_t row) const noexcept { return test_bit(live_words(), row); }
  // Rows and graph for another node format; meaningful while no link or repair runs.
  [[nodiscard]] Adjacency adjacency() const noexcept { return edges_; }
  [[nodiscard]] const Rows& rows() const noexcept { return rows_; }
  [[nodiscard]] const Codec& codec() const noexcept { return codec_; }
  [[nodiscard]] std::vector<std::uint32_t> entry_points() const;

  // The form that searches use now: sq8 or rabitq.
  [[nodiscard]] Format format() const { return packed() != nullptr ? Format::rabitq : Format::sq8; }

  struct FileHeader;  // graph_file.cpp

 private:
  struct Search;  // search_call.hpp

  [[nodiscard]] GraphView view(std::uint32_t limit) const noexcept;
  [[nodiscard]] const std::uint64_t* live_words() const noexcept { return live_bits_.as<std::uint64_t>(); }
  void set_live(std::size_t first, std::size_t n);
  void attach_rows(const std::byte* rows, std::size_t n);
  void copy_graph(GraphIndex& to, const std::vector<std::int64_t>& keep, const std::vector<std::uint32_t>& places,
                  std::size_t n_linked, unsigned threads) const;
  void link_rows(std::size_t first, std::size_t last, unsigned threads, const Progress& progress);
  void grow_graph(std::size_t n);  // room for n linked rows
  void choose_entries(std::size_t n);
  bool gather_around(std::uint32_t row, const std::vector<std::uint64_t>& alive,
                     std::vector<std::uint32_t>& near) const;
  std::size_t choose_among(const GraphView& g, Pruner& pruner, std::uint32_t row,
                           const std::vector<std::uint32_t>& near, std::vector<Candidate>& candidates,
                           Candidate* chosen) const;
  void search_own(const std::vector<std::uint32_t>& rows, std::size_t n, std::size_t ef, bool exclude, unsigned threads,
                  const std::function<void(std::size_t, const BeamTask&)>& take) const;
  void attach(const std::vector<std::uint32_t>& lost, std::size_t n, int round, unsigned threads);
  void attach_unreachable(std::size_t n, unsigned threads);
  void attach_unfound(std::vector<std::uint32_t> asked, std::size_t last, unsigned threads);

  // An order of n queries in which those of one region follow one another; empty: as they come (graph_order.cpp).
  [[nodiscard]] std::vector<std::uint32_t> near_order(const float* queries, std::size_t n, std::size_t linked) const;

  // Searches linked rows alone in the given form (null: codes), for the trial.
  void search_linked(const std::byte* queries, std::size_t n_queries, const SearchParameters& parameters,
                     std::size_t linked, const qgraph::QGraph* form, std::int64_t* out_rows,
                     float* out_distances) const;

  // graph_calibrate.cpp: recall over the beam width. All are called with link_mutex_ held.
  struct Probe;
  [[nodiscard]] std::size_t rows_to_hold(std::size_t first, std::size_t last) const;
  void calibrate_with(const std::uint32_t* held, std::size_t n, std::size_t rows, unsigned threads);
  [[nodiscard]] std::shared_ptr<const Calibration> measure(const std::byte* queries, std::size_t n,
                                                           const std::uint64_t* among, std::size_t rows, bool given,
                                                           unsigned threads) const;
  [[nodiscard]] Probe make_probe(const std::byte* queries, std::size_t n, const std::uint64_t* among, std::size_t rows,
                                 unsigned threads) const;
  // Of a filter that such a share of the rows passes; null: none was measured.
  [[nodiscard]] const FilteredTable* table_for(const Calibration& calibration, double share) const;
  // Of a walk that ends early with a filter: the part where all that is near matches, for as many nodes.
  [[nodiscard]] float near_part_all(std::size_t k, float near_part, double share) const;
  // Nodes that the packed form expands for a filter; none where it is not there or is not walked so far.
  [[nodiscard]] std::optional<double> packed_nodes(std::size_t k, std::size_t ef, double share) const noexcept;
  struct Kind;  // of walk
  [[nodiscard]] WalkRules rules_of(const Kind& kind) const;
  [[nodiscard]] RecallTable measure_kind(const Probe& probe, const Kind& kind, unsigned threads) const;
  [[nodiscard]] std::vector<Ends> record(const Probe& probe, const Kind& kind, std::size_t n, std::size_t first,
                                         std::size_t last, unsigned threads) const;
  [[nodiscard]] std::vector<Ends> record_packed(const Probe& probe, const Kind& kind, std::size_t n, std::size_t first,
                                                std::size_t last, unsigned threads) const;

  // graph_packed.cpp: the rabitq form. All but packed() are called with link_mutex_ held.
  [[nodiscard]] std::shared_ptr<qgraph::QGraph> packed() const;
  void set_packed(std::shared_ptr<qgraph::QGraph> packed);
  [[nodiscard]] bool can_pack() const noexcept;
  void read_row(std::size_t row, float* out) const noexcept;
  [[nodiscard]] std::vector<std::uint32_t> breadth_first(std::size_t n) const;
  std::size_t neighbours(std::uint32_t row, std::uint32_t* out) const noexcept;
  void pack(std::size_t n, unsigned threads);
  [[nodiscard]] std::shared_ptr<qgraph::QGraph> make_packed(std::size_t n, unsigned threads);
  void encode_own(qgraph::QGraph& q, const std::uint32_t* rows, std::size_t first, std::size_t n,
                  unsigned threads) const;
  void encode_new(qgraph::QGraph& q, std::size_t first, std::size_t last, unsigned threads) const;
  void encode_changed(qgraph::QGraph& q, std::size_t n, unsigned threads);
  struct Trial {
    bool faster;
    float scale;  // of ef_search, for the recall that the codes reach with it
  };
  [[nodiscard]] Trial try_packed(const qgraph::QGraph& q, std::size_t n) const;

  GraphConfig config_;
  Rows rows_;
  Codec codec_;
  ReservedBuffer codes_;
  ReservedBuffer edge_words_;
  ReservedBuffer in_degrees_;  // uint16 each: edges that lead to a row
  ReservedBuffer live_bits_;   // bit set: the row exists and is not removed
  Adjacency edges_;

  static constexpr std::size_t kEntriesMax = 16;
  std::atomic<std::uint32_t> n_entries_{0};
  std::atomic<std::uint32_t> entries_[kEntriesMax] = {};

  std::atomic<std::size_t> size_{0};
  std::atomic<std::size_t> linked_{0};
  std::atomic<std::size_t> live_count_{0};
  std::size_t entries_chosen_at_ = 0;  // linked rows when the entry points were chosen
  std::size_t looked_for_ = 0;         // old rows that loads made sure to be found, over and over

  mutable std::mutex packed_mutex_;  // for the two pointers alone
  std::shared_ptr<qgraph::QGraph> packed_;
  std::shared_ptr<const Calibration> calibration_;
  std::atomic<float> packed_scale_{1.0F};
  std::size_t packed_at_ = 0;    // linked rows when it was made, or tried and given up
  ReservedBuffer changed_bits_;  // rows whose edges changed since they were encoded

  mutable RowLocks locks_;
  std::mutex append_mutex_;
  mutable std::mutex link_mutex_;
  mutable ScratchPool scratches_;
};

// For tests that forge files: the header's size, and its checksum made right.
[[nodiscard]] std::size_t graph_header_bytes();
void sign_graph_header(void* header);

}  // namespace vicinal::graph
