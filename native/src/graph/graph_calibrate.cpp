// Measuring recall over the beam width, with queries that the graph does not hold.
//
// Rows that the graph holds, or has held, find their neighbours too easily: the edges around them were made for them.
// So link() keeps some rows back until all others are linked, and takes them as queries before it links them too.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "base/thread_pool.hpp"
#include "graph/calibration.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"
#include "graph/prune.hpp"

namespace vicinal::graph {
namespace {

constexpr std::size_t kBuckets = kCalibratedKs.size();

// Rows kept back: one of kHeldShare, which costs about 4 % of linking them all; of a small batch more, so that the
// table says something; with fewer than the least it would not.
constexpr std::size_t kHeldMax = 1000;
constexpr std::size_t kHeldShare = 50;
constexpr std::size_t kHeldSmall = 100;
constexpr std::size_t kHeldShareMax = 20;
constexpr std::size_t kHeldMin = 25;

constexpr std::array<std::uint32_t, 16> kBeams{4, 6, 10, 16, 24, 36, 54, 80, 120, 180, 270, 400, 600, 900, 1350, 2000};
// Wider beams miss less, and with less spread: fewer queries tell as much.
constexpr std::size_t kAllQueriesEf = 80;
constexpr std::size_t kQueriesMin = 100;
// Past this recall of every k the table ends.
constexpr double kEnough = 0.996;

constexpr std::size_t kRowBlock = 256;
constexpr std::size_t kTruthTies = 28;  // rows as far as the last true one that are told apart from farther ones

bool nearer(const Candidate& a, const Candidate& b) noexcept {
  return a.key < b.key || (a.key == b.key && a.row < b.row);
}

}  // namespace

// Queries in every form that a search needs, and their true neighbours.
struct GraphIndex::Probe {
  struct Truth {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> ranks;  // (row, rank), by row
    std::array<std::uint32_t, kBuckets> within{};                // rows at most as far as the k-th
    std::array<std::uint32_t, kBuckets> wanted{};                // k, or as many as there are

    // Adds to count the rows among `found` that are true neighbours for each bucket, divided by those wanted.
    void score(const std::uint32_t* found, std::size_t n, std::array<float, kBuckets>& recall) const {
      std::array<std::uint32_t, kBuckets> hits{};
      for (std::size_t i = 0; i < n; ++i) {
        const auto at = std::lower_bound(ranks.begin(), ranks.end(), std::pair{found[i], 0U});
        if (at == ranks.end() || at->first != found[i]) continue;
        for (std::size_t b = 0; b < kBuckets; ++b) hits[b] += at->second < within[b] ? 1U : 0U;
      }
      for (std::size_t b = 0; b < kBuckets; ++b) {
        recall[b] = static_cast<float>(std::min(hits[b], wanted[b])) / static_cast<float>(std::max(wanted[b], 1U));
      }
    }
  };

  const std::byte* queries;
  std::size_t n;
  AlignedBuffer<std::byte> codes;
  std::size_t stride;
  std::vector<CodeKind> kinds;  // of each kChunk queries
  std::vector<Truth> truth;

  [[nodiscard]] const std::byte* code(std::size_t i) const noexcept { return codes.data() + i * stride; }
};

GraphIndex::Probe GraphIndex::make_probe(const std::byte* queries, std::size_t n, const std::uint64_t* among,
                                         std::size_t rows, unsigned threads) const {
  const std::size_t stride = codec_.query_stride();
  Probe probe{queries, n, AlignedBuffer<std::byte>(n * stride + kCacheLine), stride, {}, {}};
  probe.kinds.resize((n + kChunk - 1) / kChunk);
  probe.truth.resize(n);
  const BeamFns& fns = beam_fns(best_isa());
  const std::size_t wanted = 2 * kCalibratedMax + 64;
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
          // Every row against every query of the chunk, block by block: a block of codes stays in the nearest cache.
          std::vector<Candidate> best[kChunk];
          std::int32_t bounds[kChunk];
          std::fill_n(bounds, kChunk, INT32_MAX);
          std::uint32_t block[kRowBlock];
          std::int32_t keys[kRowBlock + kSlotPad];
          std::size_t n_block = 0;
          const auto flush = [&] {
            for (std::size_t i = 0; i < m; ++i) {
              fns.keys(g, probe.code(first + i), block, n_block, keys);
              for (std::size_t r = 0; r < n_block; ++r) {
                if (keys[r] < bounds[i]) best[i].push_back({keys[r], block[r]});
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
            Probe::Truth& t = probe.truth[first + i];
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

// Recall of the first n queries at one beam width. The walk is that of a search for any k; what k changes, the number
// of rows whose exact distance is taken, loses nothing (rerank_for), so that one walk tells of every k.
void GraphIndex::score(const Probe& probe, std::size_t n, std::size_t ef, const std::uint64_t* pass, std::size_t rows,
                       const qgraph::QGraph* form, unsigned threads,
                       std::vector<std::array<float, kBuckets>>& recall) const {
  const std::vector<std::uint32_t> entries = entry_points();
  const std::size_t beam = packed_beam_for(ef, packed_scale_.load(), 1, 1);
  recall.resize(n);
  struct Answers {
    const Probe& probe;
    std::size_t first;
    std::array<float, kBuckets>* recall;
    static void fetch(const void*, std::uint32_t) noexcept {}
    static void take(const void* context, std::size_t i, const std::uint32_t* found, std::size_t count) noexcept {
      const auto& self = *static_cast<const Answers*>(context);
      self.probe.truth[self.first + i].score(found, count, self.recall[self.first + i]);
    }
  };
  ThreadPool::instance().parallel_for(n, threads, kChunk, [&](std::size_t begin, std::size_t end, unsigned) {
    if (form != nullptr && beam <= kPackedBeamMax) {
      const Answers answers{probe, begin, recall.data()};
      qgraph::SearchOptions options;
      options.k = kCalibratedMax;
      options.ef = beam;
      options.entries = entries.data();
      options.n_entries = entries.size();
      options.pass = pass;
      options.limit = static_cast<std::uint32_t>(rows);
      form->search(reinterpret_cast<const float*>(probe.queries + begin * query_bytes()), end - begin, options,
                   {&answers, &Answers::fetch, &Answers::take});
      return;
    }
    const auto lease = scratches_.lease();
    Scratch& s = *lease;
    const std::size_t keep = rerank_for(kCalibratedMax, ef);
    s.prepare(kInFlight, rows, ef);
    s.rows.resize(kChunk * keep);
    s.keys.resize(kChunk * keep);
    BeamRequest request;
    request.entries = entries.data();
    request.n_entries = entries.size();
    request.ef = ef;
    request.keep = keep;
    request.pass = pass;
    GraphView g = view(static_cast<std::uint32_t>(rows));
    for (std::size_t at = begin; at < end;) {
      const std::size_t last = std::min(end, (at / kChunk + 1) * kChunk);
      g.kind = probe.kinds[at / kChunk];
      s.tasks.assign(last - at, {});
      for (std::size_t i = at; i < last; ++i) {
        BeamTask& task = s.tasks[i - at];
        task.code = probe.code(i);
        task.rows = s.rows.data() + (i - at) * keep;
        task.keys = s.keys.data() + (i - at) * keep;
      }
      beam_fns(best_isa()).beam(g, request, s.tasks.data(), last - at, s.slots(), kInFlight);
      for (std::size_t i = at; i < last; ++i) {
        probe.truth[i].score(s.tasks[i - at].rows, s.tasks[i - at].found, recall[i]);
      }
      at = last;
    }
  });
}

std::shared_ptr<const Calibration> GraphIndex::measure(const std::byte* queries, std::size_t n,
                                                       const std::uint64_t* among, std::size_t rows, bool given,
                                                       unsigned threads) const {
  const Probe probe = make_probe(queries, n, among, rows, threads);
  const std::shared_ptr<qgraph::QGraph> form = packed();
  const std::uint64_t* pass = live() < size() ? live_words() : nullptr;
  std::vector<CalibrationPoint> points;
  std::vector<std::array<float, kBuckets>> recall;
  for (const std::uint32_t ef : kBeams) {
    const std::size_t used = std::min(n, std::max(kQueriesMin, ef <= kAllQueriesEf ? n : n * kAllQueriesEf / ef));
    score(probe, used, ef, pass, rows, form.get(), threads, recall);
    CalibrationPoint p;
    p.ef = ef;
    p.queries = static_cast<std::uint32_t>(used);
    float least = 1.0F;
    for (std::size_t b = 0; b < kBuckets; ++b) {
      double sum = 0.0;
      double squares = 0.0;
      for (std::size_t i = 0; i < used; ++i) {
        sum += recall[i][b];
        squares += static_cast<double>(recall[i][b]) * static_cast<double>(recall[i][b]);
      }
      const double mean = sum / static_cast<double>(used);
      const double variance = std::max(0.0, squares / static_cast<double>(used) - mean * mean);
      p.recall[b] = static_cast<float>(std::min(mean, 1.0));
      p.error[b] = static_cast<float>(std::sqrt(variance / static_cast<double>(used)));
      least = std::min(least, p.recall[b]);
    }
    points.push_back(p);
    if (least >= kEnough) break;
  }
  return std::make_shared<const Calibration>(rows, given, std::move(points));
}

std::size_t GraphIndex::rows_to_hold(std::size_t first, std::size_t last) const {
  const std::shared_ptr<const Calibration> table = calibration();
  if (table != nullptr && last < 2 * table->rows()) return 0;
  const std::size_t n = last - first;
  const std::size_t held = std::clamp(n / kHeldShare, std::min(kHeldSmall, n / kHeldShareMax), kHeldMax);
  return held < kHeldMin ? 0 : held;
}

void GraphIndex::calibrate_with(const std::uint32_t* held, std::size_t n, std::size_t rows, unsigned threads) {
  std::vector<std::uint64_t> among(live_words(), live_words() + (rows + 63) / 64);
  if (rows % 64 != 0) among.back() &= (std::uint64_t{1} << (rows % 64)) - 1;
  std::vector<std::byte> queries;
  queries.reserve(n * query_bytes());
  std::vector<float> floats(config_.dim);
  for (std::size_t i = 0; i < n; ++i) {
    if (!is_live(held[i])) continue;
    among[held[i] / 64] &= ~(std::uint64_t{1} << (held[i] % 64));
    const std::byte* row = rows_.row(held[i]);
    if (config_.dtype == DType::f16) {
      rows_.to_float(row, floats.data());
      row = reinterpret_cast<const std::byte*>(floats.data());
    }
    queries.insert(queries.end(), row, row + query_bytes());
  }
  const std::size_t found = queries.size() / query_bytes();
  if (found < kHeldMin) return;
  set_calibration(measure(queries.data(), found, among.data(), rows, false, threads));
}

void GraphIndex::calibrate(const std::byte* queries, std::size_t n, unsigned threads) {
  rows_.check_queries(queries, n);
  if (n == 0) throw Error(ErrorCode::invalid_argument, "there are no queries to calibrate with; give at least one");
  const std::lock_guard lock(link_mutex_);
  const std::size_t rows = linked();
  if (rows == 0) return;
  std::vector<std::uint64_t> among(live_words(), live_words() + (rows + 63) / 64);
  if (rows % 64 != 0) among.back() &= (std::uint64_t{1} << (rows % 64)) - 1;
  set_calibration(measure(queries, n, among.data(), rows, true, threads));
}

std::shared_ptr<const Calibration> GraphIndex::calibration() const {
  const std::lock_guard lock(packed_mutex_);
  return calibration_;
}

void GraphIndex::set_calibration(std::shared_ptr<const Calibration> table) {
  const std::lock_guard lock(packed_mutex_);
  calibration_ = std::move(table);
}

}  // namespace vicinal::graph
