// Finding the true neighbours of queries by comparing all rows: their codes, then the exact distances of the best.
#include <algorithm>
#include <cstring>

#include "base/thread_pool.hpp"
#include "graph/constants.hpp"
#include "graph/isa.hpp"
#include "graph/panels.hpp"
#include "graph/probe.hpp"
#include "graph/prune.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();
constexpr std::size_t kRowBlock = 256;
constexpr std::size_t kTruthTies = 28;  // rows as far as the last true one that are told apart from farther ones

bool nearer(const Candidate& a, const Candidate& b) noexcept {
  return a.key < b.key || (a.key == b.key && a.row < b.row);
}

}  // namespace

GraphIndex::Probe GraphIndex::make_probe(const std::byte* queries, std::size_t n, const std::uint64_t* among,
                                         std::size_t rows, unsigned threads) const {
  const std::size_t stride = codec_.query_stride();
  Probe probe{queries, n, AlignedBuffer<std::byte>(n * stride + kCacheLine), stride, {}, {}};
  probe.kinds.resize((n + kChunk - 1) / kChunk);
  probe.truth.resize(n);
  const BeamFns& fns = beam_fns(best_isa());
  const std::size_t wanted = 2 * kCalibratedMax + 64;
  const bool bytes = codec_.query_kind() == CodeKind::l2_u8;
  const CodeSums sums(view(static_cast<std::uint32_t>(rows)), bytes ? rows : 0, threads);
  ThreadPool::instance().parallel_for(
      probe.kinds.size(), threads, 1, [&](std::size_t begin, std::size_t end, unsigned) {
        std::vector<float> floats(codec_.scratch_floats());
        std::vector<float> distances;
        std::vector<std::uint32_t> listed;
        for (std::size_t c = begin; c < end; ++c) {
          const std::size_t first = c * kChunk;
          const std::size_t m = std::min(kChunk, n - first);
          bool inside = true;
          ExactQuery exact[kChunk];
          for (std::size_t i = 0; i < m; ++i) {
            std::byte* out = probe.codes.data() + (first + i) * stride;
            exact[i] = rows_.query(queries + (first + i) * query_bytes());
            inside &= codec_.encode_query(rows_, exact[i], out, floats.data());
          }
          for (std::size_t i = 0; i < m && !inside; ++i) {
            codec_.encode_query_wide(rows_, exact[i], probe.codes.data() + (first + i) * stride, floats.data());
          }
          probe.kinds[c] = inside ? codec_.query_kind() : CodeKind::l2_u8_wide;
          GraphView g = view(static_cast<std::uint32_t>(rows));
          g.kind = probe.kinds[c];
          const bool products = g.kind == CodeKind::l2_u8;
          GraphView asked = g;
          asked.codes = probe.code(first);
          asked.code_stride = stride;
          const CodeSums asked_sums(asked, products ? m : 0, 1);
          Panels panels(asked, fns, asked_sums);
          if (products) panels.fill(row_range(0, m).data(), m);
          // Every row against every query of the chunk, block by block: a block of codes stays in the nearest cache.
          std::vector<Candidate> best[kChunk];
          std::int32_t bounds[kChunk];  // of each query
          std::fill_n(bounds, kChunk, INT32_MAX);
          std::uint32_t block[kRowBlock];
          std::int32_t keys[kRowBlock + kSlotPad];
          std::size_t n_block = 0;
          const auto flush = [&] {
            for (std::size_t r = 0; products && r < n_block; r += Panels::kRowsAtOnce) {
              const std::size_t count = std::min(Panels::kRowsAtOnce, n_block - r);
              const std::byte* codes[Panels::kRowsAtOnce];
              for (std::size_t j = 0; j < count; ++j) codes[j] = g.code(block[r + j]);
              std::int32_t dots[Panels::kRowsAtOnce * kChunk];
              panels.dots(codes, count, 0, panels.width(), dots);
              for (std::size_t j = 0; j < count; ++j) {
                const std::uint32_t row = block[r + j];
                std::uint32_t hits[kChunk];
                const std::size_t n_hits = fns.near(sums.base(row), panels.squares(), dots + j * panels.width(), bounds,
                                                    m, INT32_MIN, keys, hits);
                for (std::size_t h = 0; h < n_hits; ++h) best[hits[h]].push_back({keys[h], row});
              }
            }
            for (std::size_t i = 0; i < m; ++i) {
              if (!products) {
                fns.keys(g, probe.code(first + i), block, n_block, keys);
                for (std::size_t r = 0; r < n_block; ++r) {
                  if (keys[r] < bounds[i]) best[i].push_back({keys[r], block[r]});
                }
              }
              if (best[i].size() < 2 * wanted) continue;
              std::nth_element(best[i].begin(), best[i].begin() + static_cast<std::ptrdiff_t>(wanted), best[i].end(),
                               nearer);
              best[i].resize(wanted);
              bounds[i] = std::max_element(best[i].begin(), best[i].end(), nearer)->key;
            }
            n_block = 0;
          };
          for (std::size_t row = 0; row < rows; ++row) {
            if (!test_bit(among, static_cast<std::uint32_t>(row))) continue;
            block[n_block++] = static_cast<std::uint32_t>(row);
            if (n_block == kRowBlock) flush();
          }
          flush();
          for (std::size_t i = 0; i < m; ++i) {
            std::vector<Candidate>& near = best[i];
            if (near.size() > wanted) {
              std::nth_element(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(wanted), near.end(), nearer);
              near.resize(wanted);
            }
            listed.resize(near.size());
            distances.resize(near.size());
            for (std::size_t r = 0; r < near.size(); ++r) listed[r] = near[r].row;
            rows_.distances(exact[i], listed.data(), 0, listed.size(), distances.data());
            std::vector<std::pair<float, std::uint32_t>> order(near.size());
            for (std::size_t r = 0; r < near.size(); ++r) order[r] = {distances[r], listed[r]};
            const std::size_t kept = std::min(order.size(), kCalibratedMax + kTruthTies);
            std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end());
            Truth& t = probe.truth[first + i];
            for (std::size_t b = 0; b < kBuckets; ++b) {
              t.wanted[b] = static_cast<std::uint32_t>(std::min(kept, kCalibratedKs[b]));
              t.within[b] = t.wanted[b];
              while (t.within[b] > 0 && t.within[b] < kept &&
                     order[t.within[b]].first == order[t.within[b] - 1].first) {
                ++t.within[b];
              }
            }
            for (std::size_t r = 0; r < kept; ++r) t.ranks.emplace_back(order[r].second, static_cast<std::uint32_t>(r));
            std::sort(t.ranks.begin(), t.ranks.end());
          }
        }
      });
  return probe;
}

}  // namespace vicinal::graph
