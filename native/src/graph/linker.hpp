// Inserting rows into the graph, and the locks that writers of adjacency rows take.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "graph/prune.hpp"
#include "graph/scratch.hpp"
#include "graph/view.hpp"

namespace vicinal::graph {

// Spinlocks shared by rows of equal number modulo their count; a thread holds one at a time.
class RowLocks {
 public:
  class Guard {
   public:
    Guard(RowLocks& locks, std::uint32_t row) noexcept : flag_(locks.flags_[row % kLocks]) {
      while (flag_.test_and_set(std::memory_order_acquire)) {
        while (flag_.test(std::memory_order_relaxed)) {
        }
      }
    }
    ~Guard() { flag_.clear(std::memory_order_release); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    std::atomic_flag& flag_;
  };

 private:
  static constexpr std::size_t kLocks = 4096;
  std::atomic_flag flags_[kLocks];
};

class Leaves;

class Linker {
 public:
  // `changed`: a bit set that gets a bit for each row whose edges change; null: nobody asks.
  Linker(Adjacency edges, std::uint16_t* in_degrees, const BeamFns& fns, CodeKind kind, std::uint32_t ef,
         RowLocks& locks, std::uint64_t* changed);

  // Inserts the rows of one batch; their codes are written and their adjacency rows are empty.
  void insert(const GraphView& g, const std::vector<std::uint32_t>& batch, const std::vector<std::uint32_t>& entries,
              unsigned threads, ScratchPool& scratches);

  // The same for rows[first..], whose candidates were found beforehand; they are gone then.
  void insert_from(const GraphView& g, const std::vector<std::uint32_t>& rows, std::size_t first, Leaves& leaves,
                   const CodeSums& sums, unsigned threads);

  // Adds the edge where pruning keeps it, or always with `force`; to.key is the key between the two.
  bool add_edge(const GraphView& g, const Pruner& pruner, std::uint32_t from, Candidate to, bool force);
  void write(std::uint32_t row, const Candidate* chosen, std::size_t n) noexcept;
  [[nodiscard]] std::size_t degree_of(std::uint32_t row) const noexcept;

 private:
  struct Offer {
    Candidate to;
    std::uint32_t place;  // of to.row in its batch
  };
  void add_edges(const Pruner& pruner, std::uint32_t from, Offer* offers, std::size_t n_offers, RowKeys& keys,
                 std::uint8_t* reachable);
  [[nodiscard]] std::size_t victim_of(const Pruner& pruner, Candidate to, bool needed, std::size_t n,
                                      const std::uint32_t* rows, const std::int32_t* from_keys,
                                      const std::int32_t* to_keys) const noexcept;
  void count_in(std::uint32_t row, int change) noexcept;
  [[nodiscard]] std::uint16_t in_degree(std::uint32_t row) const noexcept {
    return __atomic_load_n(&in_degrees_[row], __ATOMIC_RELAXED);
  }
  void replace(std::uint32_t row, std::uint32_t& word, std::uint32_t before, std::uint32_t after) noexcept;
  void note_change(std::uint32_t row) noexcept {
    if (changed_ != nullptr) {
      __atomic_fetch_or(&changed_[row / 64], std::uint64_t{1} << (row % 64), __ATOMIC_RELAXED);
    }
  }

  Adjacency edges_;
  std::uint16_t* in_degrees_;  // edges that lead to a row, at most UINT16_MAX
  const BeamFns& fns_;
  CodeKind kind_;
  std::uint32_t ef_;
  RowLocks& locks_;
  std::uint64_t* changed_;
  std::vector<Candidate> chosen_;  // degree per row of the batch
  std::vector<std::size_t> n_chosen_;
};

}  // namespace vicinal::graph
