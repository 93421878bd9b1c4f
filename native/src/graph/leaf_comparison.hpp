// The members of a leaf compared with one another: each pair once, for both of its ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph/leaves.hpp"
#include "graph/panels.hpp"

namespace vicinal::graph {

// A candidate of `self`: its key above its row, so that one comparison orders both. Rows are scrambled, for each row in
// another way: of many equally near ones, as of equal rows, not all choose the same.
[[nodiscard]] inline std::uint64_t packed_candidate(std::int32_t key, std::uint32_t row, std::uint32_t self) noexcept {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(key)) << 32 | (row ^ self * 2654435761U);
}

[[nodiscard]] inline Candidate unpacked_candidate(std::uint64_t candidate, std::uint32_t self) noexcept {
  return {static_cast<std::int32_t>(candidate >> 32), static_cast<std::uint32_t>(candidate) ^ self * 2654435761U};
}

// The memory of one thread for it: leaf after leaf.
class Leaves::Comparison {
 public:
  Comparison(Leaves& leaves, const std::vector<std::uint32_t>& rows, std::size_t first)
      : leaves_(leaves), rows_(rows), first_(first), panels_(leaves.g_, leaves.fns_, leaves.sums_) {}

  // Adds what it finds to the candidates of the members that ask, those from place `first` on.
  void run(const std::vector<std::uint32_t>& members);

 private:
  // What the members hold of a leaf until it is done: the candidates below their bounds.
  struct Held {
    std::size_t near = 0;
    std::size_t room = 0;
    std::vector<std::uint64_t> candidates;  // `room` for each member
    std::vector<std::uint32_t> counts;
    std::vector<std::uint8_t> picked;  // had more than there is room for
    std::vector<std::int32_t> bounds;  // INT32_MIN: does not ask
    std::size_t probed = 0;
    std::size_t wanted = 0;
    void begin(std::size_t members, std::size_t width, std::size_t n, std::size_t near_wanted);
    [[nodiscard]] std::int32_t probe(const BeamFns& fns, std::uint32_t base, const Panels& panels,
                                     const std::int32_t* dots, std::size_t self) const noexcept;
    void add(std::size_t member, std::uint64_t candidate);
    void pick(std::size_t member);
  };
  void first_columns(std::size_t asking);
  void later_columns(std::size_t asking);
  void select(std::size_t row, std::size_t column, std::size_t n, const std::int32_t* dots, bool both);
  void offer(std::size_t to, std::size_t other, std::int32_t key);
  void hand_over(std::size_t asking, const std::vector<std::uint32_t>& members);

  Leaves& leaves_;
  const std::vector<std::uint32_t>& rows_;
  std::size_t first_;
  Panels panels_;
  const std::vector<std::uint32_t>* members_ = nullptr;
  std::vector<std::uint32_t> own_;  // rows of the members
  std::size_t n_ = 0;
  std::size_t sample_ = 0;  // so many members are in the sample
  Held all_;
  Held near_sample_;
  std::vector<std::int32_t> either_;  // the larger one of a member's two bounds
  std::vector<std::int32_t> none_;    // bounds that nothing is below
  std::vector<std::int32_t> dots_;
  std::vector<std::int32_t> keys_;
  std::vector<std::uint32_t> places_;
};

}  // namespace vicinal::graph
