// The graph index without Python: building blocks of every instruction set against plain loops, the beam search,
// pruning, files that lie, and repair.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "distance/distance.hpp"
#include "graph/graph_index.hpp"
#include "graph/isa.hpp"

namespace {

using namespace vicinal;
using namespace vicinal::graph;

constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};

std::vector<float> random_rows(std::size_t n, std::size_t dim, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> centers(20 * dim);
  std::mt19937_64 fixed(1);
  for (float& x : centers) x = 2 * normal(fixed);
  normal.reset();
  std::vector<float> rows(n * dim);
  for (std::size_t r = 0; r < n; ++r) {
    const std::size_t c = random() % 20;
    for (std::size_t i = 0; i < dim; ++i) rows[r * dim + i] = centers[c * dim + i] + normal(random);
  }
  return rows;
}

const std::byte* bytes(const std::vector<float>& rows) { return reinterpret_cast<const std::byte*>(rows.data()); }

std::int64_t plain_key(CodeKind kind, const std::uint8_t* a, const std::uint8_t* b, std::size_t n) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const int d = static_cast<int>(a[i]) - static_cast<int>(b[i]);
    if (kind == CodeKind::l2_u8) sum += d * d;
    if (kind == CodeKind::l1_u8) sum += std::abs(d);
    if (kind == CodeKind::hamming) sum += __builtin_popcount(a[i] ^ b[i]);
    if (kind == CodeKind::dot_u8) sum -= static_cast<int>(static_cast<std::int8_t>(a[i])) * b[i];
  }
  return kind == CodeKind::dot_u8 ? kDotBase + sum : sum;
}

void keys_equal_plain_sums_on_every_instruction_set() {
  std::mt19937_64 random(3);
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    for (const CodeKind kind : {CodeKind::l2_u8, CodeKind::l1_u8, CodeKind::hamming, CodeKind::dot_u8}) {
      for (const std::size_t n_bytes : {8U, 16U, 24U, 32U, 40U, 64U, 72U, 128U, 192U, 320U, 960U, 1024U, 33024U}) {
        constexpr std::size_t n = 9;
        const std::size_t stride = round_up(n_bytes, 64);
        AlignedBuffer<std::byte> codes(n * stride + 64);
        AlignedBuffer<std::byte> query(stride + 64);
        const bool extreme = random() % 4 == 0;
        for (std::size_t i = 0; i < n * stride; ++i) codes[i] = std::byte(extreme ? 255 : random() % 256);
        for (std::size_t i = 0; i < n_bytes; ++i) {
          query[i] = std::byte(extreme ? (kind == CodeKind::dot_u8 ? 127 : 0) : random() % 256);
        }
        GraphView g;
        g.codes = codes.data();
        g.code_stride = stride;
        g.code_bytes = n_bytes;
        g.kind = kind;
        std::uint32_t rows[n] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
        for (std::size_t count = 1; count <= n; ++count) {
          std::int32_t keys[n] = {};
          beam_fns(isa).keys(g, query.data(), rows, count, keys);
          for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t plain = plain_key(kind, reinterpret_cast<const std::uint8_t*>(query.data()),
                                                 reinterpret_cast<const std::uint8_t*>(g.code(rows[i])), n_bytes);
            CHECK(keys[i] == plain, isa_name(isa), static_cast<int>(kind), n_bytes, i, keys[i], plain);
          }
        }
      }
    }
  }
}

void float_keys_order_as_distances() {
  constexpr std::size_t dim = 48;
  const std::vector<float> rows = random_rows(64, dim, 4);
  GraphView g;
  g.codes = bytes(rows);
  g.code_stride = dim * 4;
  g.code_bytes = dim * 4;
  std::vector<std::uint32_t> list(64);
  std::iota(list.begin(), list.end(), 0U);
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    for (const CodeKind kind : {CodeKind::l2_f32, CodeKind::l1_f32}) {
      g.kind = kind;
      std::vector<std::int32_t> keys(64);
      beam_fns(isa).keys(g, g.code(5), list.data(), 64, keys.data());
      CHECK(keys[5] == 0);
      for (std::size_t r = 0; r < 64; ++r) {
        double sum = 0;
        for (std::size_t i = 0; i < dim; ++i) {
          const double d = rows[5 * dim + i] - rows[r * dim + i];
          sum += kind == CodeKind::l2_f32 ? d * d : std::fabs(d);
        }
        float value = 0;
        std::memcpy(&value, &keys[r], 4);
        CHECK(std::fabs(value - sum) <= 1e-5 * (1 + sum), isa_name(isa), r, value, sum);
      }
    }
  }
}

// All instruction sets must walk the same way: same rows, same keys, same number of expansions.
void beams_agree_between_instruction_sets() {
  constexpr std::size_t n = 3000;
  constexpr std::size_t dim = 40;
  GraphConfig config;
  config.dim = dim;
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(n, dim, 5);
  index.build(bytes(rows), n, 1, true, {});
  const std::vector<float> queries = random_rows(50, dim, 6);
  const Adjacency edges = index.adjacency();
  std::vector<std::byte> codes(n * index.codec().stride() + 64);
  std::vector<float> scratch(index.codec().scratch_floats());
  for (std::size_t r = 0; r < n; ++r) {
    index.codec().encode_row(index.rows(), r, codes.data() + r * index.codec().stride(), scratch.data());
  }
  GraphView g;
  g.edges = edges;
  g.codes = codes.data();
  g.code_stride = index.codec().stride();
  g.code_bytes = index.codec().code_bytes();
  g.kind = index.codec().kind();
  g.limit = n;
  const std::vector<std::uint32_t> entries = index.entry_points();
  std::vector<std::uint64_t> pass(n / 64 + 1);
  std::mt19937_64 random(8);
  for (std::size_t r = 0; r < n; ++r) pass[r / 64] |= std::uint64_t{random() % 5 == 0} << (r % 64);
  for (const std::size_t ef : {1U, 10U, 33U, 200U, 700U}) {
    for (const int mode : {0, 1, 2, 3, 4}) {  // 1, 2: with a filter, 2: over bridges; 3, 4: as 0 and 2, ending early
      std::vector<std::vector<std::uint32_t>> seen;
      std::vector<std::size_t> hops;
      for (const Isa isa : kIsas) {
        if (!isa_supported(isa)) continue;
        for (const std::size_t flight : {1U, 3U, 4U}) {
          Scratch s;
          s.prepare(flight, n, ef);
          BeamRequest request;
          request.entries = entries.data();
          request.n_entries = entries.size();
          request.ef = ef;
          request.keep = ef;
          request.pass = mode == 0 || mode == 3 ? nullptr : pass.data();
          request.two_hop = mode == 2 || mode == 4;
          if (mode >= 3) {
            request.near_part = 0.9F;
            request.near = 5;
          }
          std::vector<BeamTask> tasks(50);
          std::vector<std::byte> query_codes(50 * g.code_stride + 64);
          std::vector<std::uint32_t> out(50 * ef);
          std::vector<std::int32_t> keys(50 * ef);
          for (std::size_t q = 0; q < 50; ++q) {
            std::byte* code = query_codes.data() + q * g.code_stride;
            index.codec().encode_query(index.rows(), index.rows().query(queries.data() + q * dim), code,
                                       scratch.data());
            tasks[q].code = code;
            tasks[q].rows = out.data() + q * ef;
            tasks[q].keys = keys.data() + q * ef;
          }
          beam_fns(isa).beam(g, request, tasks.data(), tasks.size(), s.slots(), flight);
          for (std::size_t q = 0; q < 50; ++q) {
            CHECK(tasks[q].found <= ef);
            CHECK(mode != 0 || tasks[q].found == std::min<std::size_t>(ef, n), ef, tasks[q].found);
            std::set<std::uint32_t> distinct(tasks[q].rows, tasks[q].rows + tasks[q].found);
            CHECK(distinct.size() == tasks[q].found, "a row twice");
            CHECK(std::is_sorted(tasks[q].keys, tasks[q].keys + tasks[q].found));
            for (std::size_t i = 0; i < tasks[q].found; ++i) {
              CHECK(request.pass == nullptr || test_bit(pass.data(), tasks[q].rows[i]), "a row that does not pass");
            }
            std::fill(tasks[q].rows + tasks[q].found, tasks[q].rows + ef, 0);
          }
          seen.push_back(out);
          CHECK(seen.back() == seen.front(), isa_name(isa), ef, mode, flight);
          hops.push_back(0);
          for (const BeamTask& task : tasks) hops.back() += task.hops;
          CHECK(hops.back() == hops.front(), isa_name(isa), ef, mode, flight);
        }
      }
    }
  }
}

double recall_of(const GraphIndex& index, const std::vector<float>& queries, std::size_t dim, std::size_t ef) {
  const std::size_t n = queries.size() / dim;
  SearchParameters p;
  p.ef_search = ef;
  std::vector<std::int64_t> found(n * p.k);
  std::vector<std::int64_t> truth(n * p.k);
  std::vector<float> distances(n * p.k);
  index.search(bytes(queries), n, p, found.data(), distances.data());
  p.exact = true;
  index.search(bytes(queries), n, p, truth.data(), distances.data());
  std::size_t hits = 0;
  for (std::size_t q = 0; q < n; ++q) {
    const auto* t = truth.data() + q * p.k;
    for (std::size_t i = 0; i < p.k; ++i) hits += std::find(t, t + p.k, found[q * p.k + i]) != t + p.k ? 1U : 0U;
  }
  return static_cast<double>(hits) / static_cast<double>(n * p.k);
}

void rows_of_the_graph_are_sound() {
  constexpr std::size_t dim = 24;
  GraphConfig config;
  config.dim = dim;
  config.M = 20;  // not a whole cache line
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(4000, dim, 5);
  index.build(bytes(rows), 4000, 2, true, {});
  const Adjacency edges = index.adjacency();
  CHECK(edges.degree == 20 && edges.stride == 32);
  for (std::uint32_t r = 0; r < 4000; ++r) {
    std::set<std::uint32_t> seen;
    bool ended = false;
    for (std::uint32_t i = 0; i < edges.degree; ++i) {
      const std::uint32_t next = edges.row(r)[i];
      CHECK(next < 4000);
      if (next == r) {
        ended = true;
        continue;
      }
      CHECK(!ended, "an edge behind an unused slot");
      CHECK(seen.insert(next).second, "an edge twice");
    }
    CHECK(!seen.empty(), r);
  }
  CHECK(recall_of(index, random_rows(100, dim, 7), dim, 64) > 0.95);
}

// In many dimensions rows near the middle are near many others, and rows far out are near none.
void rows_near_nobody_keep_edges_that_lead_to_them() {
  constexpr std::size_t n = 6000;
  constexpr std::size_t dim = 48;
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n * dim);
  for (float& x : rows) x = normal(random);
  GraphConfig config;
  config.dim = dim;
  config.format = Format::sq8;
  GraphIndex index(config);
  index.build(bytes(rows), n, 1, true, {});
  const Adjacency edges = index.adjacency();
  std::vector<std::size_t> in_degrees(n, 0);
  for (std::uint32_t row = 0; row < n; ++row) {
    for (std::uint32_t i = 0; i < edges.degree; ++i) {
      if (edges.row(row)[i] != row) ++in_degrees[edges.row(row)[i]];
    }
  }
  std::sort(in_degrees.begin(), in_degrees.end());
  CHECK(in_degrees[0] >= 4, "every row can be reached in several ways");
  CHECK(in_degrees[n / 20] >= edges.degree / 2, "few rows have less than half of the usual edges to them");
  CHECK(in_degrees[n - n / 100] <= 3 * edges.degree, "no row has most of them");
}

void repair_is_complete_and_idempotent() {
  constexpr std::size_t dim = 24;
  GraphConfig config;
  config.dim = dim;
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(4000, dim, 5);
  index.build(bytes(rows), 4000, 2, true, {});
  std::vector<std::int64_t> gone;
  for (const std::uint32_t entry : index.entry_points()) gone.push_back(entry);
  for (std::int64_t r = 0; r < 4000; r += 3) gone.push_back(r);
  std::sort(gone.begin(), gone.end());
  gone.erase(std::unique(gone.begin(), gone.end()), gone.end());
  CHECK(index.remove(gone.data(), gone.size()) == gone.size());
  CHECK(recall_of(index, random_rows(100, dim, 7), dim, 64) > 0.95);
  CHECK(index.repair(2) > 0);
  CHECK(index.repair(2) == 0);
  const Adjacency edges = index.adjacency();
  for (std::uint32_t r = 0; r < 4000; ++r) {
    if (!index.is_live(r)) continue;
    for (std::uint32_t i = 0; i < edges.degree; ++i) CHECK(index.is_live(edges.row(r)[i]), r, edges.row(r)[i]);
  }
  for (const std::uint32_t entry : index.entry_points()) CHECK(index.is_live(entry));
  CHECK(recall_of(index, random_rows(100, dim, 7), dim, 64) > 0.95);
  std::vector<std::int64_t> all(4000);
  std::iota(all.begin(), all.end(), 0);
  index.remove(all.data(), all.size());
  CHECK(index.live() == 0);
  CHECK(index.repair(1) == 0);
  SearchParameters p;
  std::vector<std::int64_t> found(10);
  std::vector<float> distances(10);
  index.search(bytes(rows), 1, p, found.data(), distances.data());
  CHECK(found[0] == -1 && std::isinf(distances[0]));
}

// Every word of the header takes hostile values, with the header's checksum made right, so that only the bounds
// stand between them and the memory.
void hostile_headers_are_refused() {
  const std::string path = "/tmp/vicinal_test_graph_" + std::to_string(::getpid());
  constexpr std::size_t dim = 8;
  GraphConfig config;
  config.dim = dim;
  config.metric = Metric::cosine;
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(1500, dim, 5);
  index.build(bytes(rows), 1500, 1, true, {});
  index.save(path, true);
  std::vector<char> good;
  {
    std::ifstream file(path, std::ios::binary);
    good.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::size_t loaded = 0;
  for (std::size_t word = 2; word < graph_header_bytes() / 4; ++word) {
    for (const std::uint32_t value :
         {0U, 1U, 2U, 3U, 255U, 4096U, 0x7FFFFFFFU, 0x80000000U, 0xFFFFFFFFU, 0x7FC00000U}) {
      std::vector<char> bad = good;
      std::memcpy(bad.data() + 4 * word, &value, 4);
      if (bad == good) continue;
      sign_graph_header(bad.data());
      {
        std::ofstream file(path, std::ios::binary);
        file.write(bad.data(), static_cast<std::streamsize>(bad.size()));
      }
      for (const bool map : {false, true}) {
        try {
          const auto other = GraphIndex::load(path, map, nullptr, 0);
          ++loaded;
          // What loads must also search: words without consequence (the seed, unused entry points), or plausible ones.
          SearchParameters p;
          std::vector<std::int64_t> found(10);
          std::vector<float> distances(10);
          if (other->config().dim == dim && other->config().dtype == DType::f32) {
            other->search(bytes(rows), 1, p, found.data(), distances.data());
          }
        } catch (const Error&) {
          continue;
        }
      }
    }
  }
  CHECK(loaded > 0);
  ::unlink(path.c_str());
}

void hostile_edges_are_refused() {
  const std::string path = "/tmp/vicinal_test_edges_" + std::to_string(::getpid());
  GraphConfig config;
  config.dim = 8;
  GraphIndex index(config);
  const std::vector<float> rows = random_rows(1500, 8, 5);
  index.build(bytes(rows), 1500, 1, true, {});
  std::uint32_t& word = index.adjacency().row(700)[3];
  const std::uint32_t before = word;
  word = 1500;
  index.save(path, true);
  word = before;
  CHECK(test::throws<Error>([&] { static_cast<void>(GraphIndex::load(path, true, nullptr, 0)); },
                            [](const Error& e) { return e.code() == ErrorCode::corrupt; }));
  ::unlink(path.c_str());
}

// Codes of one bit, as every release before had them, are written in a file that those releases read, and read from it.
void files_say_how_many_bits_codes_have() {
  const std::string path = "/tmp/vicinal_test_bits_" + std::to_string(::getpid());
  constexpr std::size_t dim = 48, n = 1500, nq = 20;
  const std::vector<float> rows = random_rows(n, dim, 5);
  for (const std::uint32_t bits : {1U, 2U}) {
    GraphConfig config;
    config.dim = dim;
    config.format = Format::rabitq;
    config.code_bits = bits;
    GraphIndex index(config);
    index.build(bytes(rows), n, 1, true, {});
    index.save(path, true);
    std::uint32_t version = 0;
    {
      std::ifstream file(path, std::ios::binary);
      file.seekg(8);
      file.read(reinterpret_cast<char*>(&version), 4);
    }
    CHECK(version == bits + 1, version, bits);
    const auto other = GraphIndex::load(path, false, nullptr, 0);
    SearchParameters p;
    std::vector<std::int64_t> found(nq * p.k), again(nq * p.k);
    std::vector<float> distances(nq * p.k);
    index.search(bytes(rows), nq, p, found.data(), distances.data());
    other->search(bytes(rows), nq, p, again.data(), distances.data());
    CHECK(found == again, bits);
    CHECK(found[0] == 0 && distances[0] == 0.0F, bits, found[0], distances[0]);
  }
  ::unlink(path.c_str());
}

}  // namespace

int main() {
  keys_equal_plain_sums_on_every_instruction_set();
  float_keys_order_as_distances();
  beams_agree_between_instruction_sets();
  rows_of_the_graph_are_sound();
  rows_near_nobody_keep_edges_that_lead_to_them();
  repair_is_complete_and_idempotent();
  hostile_headers_are_refused();
  hostile_edges_are_refused();
  files_say_how_many_bits_codes_have();
  return test::failures();
}
