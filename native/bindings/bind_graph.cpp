// GraphIndex. The Python class of that name derives from this one and adds what needs no speed.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "base/error.hpp"
#include "graph/calibration.hpp"
#include "graph/constants.hpp"
#include "graph/graph_index.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vicinal::py {
namespace {

using graph::Format;
using graph::GraphConfig;
using graph::GraphIndex;
using graph::SearchParameters;
using graph::Strategy;

Strategy parse_strategy(const char* name) {
  const std::string text = name;
  if (text == "auto") return Strategy::automatic;
  if (text == "scan") return Strategy::scan;
  if (text == "filter") return Strategy::filter;
  if (text == "gate") return Strategy::gate;
  throw Error(ErrorCode::invalid_argument, "unknown strategy '" + text + "'; known are auto, scan, filter, gate");
}

Format parse_format(const std::string& name) {
  if (name == "auto") return Format::automatic;
  if (name == "sq8") return Format::sq8;
  if (name == "rabitq") return Format::rabitq;
  throw Error(ErrorCode::invalid_argument, "unknown format '" + name + "'; known are auto, sq8, rabitq");
}

// The index, and the array it reads rows from when it was built without a copy.
struct Graph {
  explicit Graph(std::unique_ptr<GraphIndex> made) : owned(std::move(made)), index(*owned) {}
  std::unique_ptr<GraphIndex> owned;
  GraphIndex& index;
  nb::object rows_owner;
  // What beam_of() said last: most searches ask the same again. Whoever looks holds the interpreter's lock.
  struct Work {
    std::shared_ptr<const graph::Calibration> table;
    std::size_t k = 0;
    std::size_t ef_search = 0;
    double nodes_per_ef = 0.0;
    graph::Beam beam;
  };
  mutable Work last_work;
};

std::size_t columns(const GraphConfig& c) { return c.dtype == DType::bit ? c.dim / 8 : c.dim; }

void check_columns(const GraphConfig& c, const View& v, const char* name) {
  if (v.columns != columns(c)) {
    throw Error(ErrorCode::dimension, std::string(name) + " has " + std::to_string(v.columns) +
                                          " columns, the index has " + std::to_string(columns(c)) +
                                          (c.dtype == DType::bit ? " (dim / 8 bytes)" : " (its dimension)"));
  }
}

// Calls back into Python from the thread that holds the call; an exception in it stops the work and is raised.
graph::Progress progress_of(nb::handle callback) {
  return [callback](std::size_t done, std::size_t total) {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (callback.is_none()) return true;
    const nb::object answer = callback(done, total);
    return !(answer.ptr() == Py_False);
  };
}

void build(Graph& self, const AnyArray& X, nb::handle owner, unsigned threads, bool copy, nb::handle progress) {
  const GraphConfig& c = self.index.config();
  const View rows = row_matrix(X, c.dtype, "X");
  check_columns(c, rows, "X");
  const graph::Progress told = progress_of(progress);
  {
    const nb::gil_scoped_release release;
    self.index.build(rows.data, rows.rows, threads, copy, told);
  }
  if (!copy) self.rows_owner = nb::borrow(owner);
}

std::size_t append(Graph& self, const AnyArray& X) {
  const GraphConfig& c = self.index.config();
  const View rows = row_matrix(X, c.dtype, "X");
  check_columns(c, rows, "X");
  const nb::gil_scoped_release release;
  return self.index.append(rows.data, rows.rows);
}

std::size_t link_rows(Graph& self, nb::handle max_rows, unsigned threads, nb::handle progress) {
  const std::size_t limit = max_rows.is_none() ? SIZE_MAX : nb::cast<std::size_t>(max_rows);
  const graph::Progress told = progress_of(progress);
  const nb::gil_scoped_release release;
  return self.index.link(limit, threads, told);
}

std::size_t remove_rows(Graph& self, const AnyArray& rows) {
  const View v = vector<std::int64_t>(rows, "rows");
  const nb::gil_scoped_release release;
  return self.index.remove(v.as<std::int64_t>(), v.rows);
}

nb::tuple compact(Graph& self, nb::handle keep, nb::handle vectors, unsigned threads) {
  const GraphConfig& c = self.index.config();
  std::vector<std::int64_t> kept;
  AnyArray array;
  View rows{};
  if (!vectors.is_none()) {
    array = nb::cast<AnyArray>(vectors);
    rows = row_matrix(array, c.dtype, "vectors");
    check_columns(c, rows, "vectors");
  }
  if (keep.is_none()) {
    kept = self.index.live_rows();
  } else {
    const auto listed = nb::cast<AnyArray>(keep);
    const View v = vector<std::int64_t>(listed, "keep");
    kept.assign(v.as<std::int64_t>(), v.as<std::int64_t>() + v.rows);
  }
  std::unique_ptr<GraphIndex> made;
  {
    const nb::gil_scoped_release release;
    made = self.index.compact(kept, vectors.is_none() ? nullptr : rows.data, rows.rows, threads);
  }
  auto graph = std::make_unique<Graph>(std::move(made));
  if (!vectors.is_none()) graph->rows_owner = nb::borrow(vectors);
  NewArray<std::int64_t> out = new_array<std::int64_t>({kept.size()});
  std::copy(kept.begin(), kept.end(), out.data);
  return nb::make_tuple(nb::cast(graph.release(), nb::rv_policy::take_ownership), std::move(out.array));
}

nb::object rows_of(Graph& self, const AnyArray& rows) {
  const View v = vector<std::int64_t>(rows, "rows");
  const std::size_t width = self.index.row_bytes();
  NewArray<std::uint8_t> out = new_array<std::uint8_t>({v.rows, width});
  {
    const nb::gil_scoped_release release;
    self.index.copy_rows(v.as<std::int64_t>(), v.rows, reinterpret_cast<std::byte*>(out.data));
  }
  return out.array;
}

nb::object edges_of(Graph& self) {
  const graph::Adjacency a = self.index.adjacency();
  const std::size_t n = self.index.linked();
  NewArray<std::uint32_t> out = new_array<std::uint32_t>({n, a.degree});
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < a.degree; ++i) {
      out.data[r * a.degree + i] = graph::load_edge(a.row(static_cast<std::uint32_t>(r))[i]);
    }
  }
  return out.array;
}

void save(Graph& self, const std::string& path, bool vectors) {
  const nb::gil_scoped_release release;
  self.index.save(path, vectors);
}

Graph* load(const std::string& path, bool map, nb::handle vectors) {
  const std::byte* rows = nullptr;
  std::size_t n = 0;
  AnyArray array;
  if (!vectors.is_none()) {
    array = nb::cast<AnyArray>(vectors);
    if (array.ndim() != 2)
      throw Error(ErrorCode::invalid_argument, "vectors is " + describe(array) + "; pass a matrix");
    rows = static_cast<const std::byte*>(array.data());
    n = array.shape(0);
  }
  std::unique_ptr<GraphIndex> made;
  {
    const nb::gil_scoped_release release;
    made = GraphIndex::load(path, map, rows, n);
  }
  if (rows != nullptr) {
    const View v = row_matrix(array, made->config().dtype, "vectors");
    check_columns(made->config(), v, "vectors");
  }
  auto loaded = std::make_unique<Graph>(std::move(made));
  if (rows != nullptr) loaded->rows_owner = nb::borrow(vectors);
  return loaded.release();
}

// The beam that does the work of one of that width, without a filter; none where that is not known.
std::optional<graph::Beam> beam_of(const Graph& self, std::size_t k, std::size_t ef_search) {
  const std::shared_ptr<const graph::Calibration> table = self.index.calibration();
  if (table == nullptr || k == 0 || k > graph::kCalibratedMax || ef_search < k) return std::nullopt;
  const double nodes_per_ef = self.index.nodes_per_ef();
  Graph::Work& last = self.last_work;
  if (last.table != table || last.k != k || last.ef_search != ef_search || last.nodes_per_ef != nodes_per_ef) {
    last = {table, k, ef_search, nodes_per_ef, table->same_work(k, ef_search, nodes_per_ef)};
  }
  return last.beam;
}

// near_part none: a search that does the work of a beam of ef_search (see same_work).
nb::tuple search(Graph& self, const AnyArray& queries, std::size_t k, std::size_t ef_search, unsigned threads,
                 nb::handle filter, bool exact, const char* strategy, std::optional<float> near_part) {
  const GraphConfig& c = self.index.config();
  const bool one = queries.ndim() == 1;
  View q = view(queries, query_dtype(c.dtype), dtype_name(query_dtype(c.dtype)), one ? 1 : 2, "queries");
  if (one) q = {q.data, 1, q.rows};
  check_columns(c, q, "queries");
  SearchParameters p;
  p.k = k;
  p.ef_search = ef_search;
  p.threads = threads;
  p.exact = exact;
  p.strategy = parse_strategy(strategy);
  AnyArray filter_array;
  if (near_part.has_value()) {
    p.near_part = *near_part;
  } else if (filter.is_none() && !exact) {
    if (const std::optional<graph::Beam> beam = beam_of(self, k, ef_search); beam.has_value()) {
      p.ef_search = beam->ef;
      p.near_part = beam->near_part;
    }
  } else {
    p.by_work = true;
  }
  if (!filter.is_none()) {
    filter_array = nb::cast<AnyArray>(filter);
    const View words = vector<std::uint64_t>(filter_array, "filter");
    p.filter = words.as<std::uint64_t>();
    p.filter_words = words.rows;
  }
  graph::check_parameters(p);
  NewArray<std::int64_t> rows = new_array<std::int64_t>({q.rows, k});
  NewArray<float> distances = new_array<float>({q.rows, k});
  {
    const nb::gil_scoped_release release;
    self.index.search(q.data, q.rows, p, rows.data, distances.data);
  }
  return nb::make_tuple(std::move(rows.array), std::move(distances.array));
}

void calibrate(Graph& self, const AnyArray& queries, unsigned threads) {
  const GraphConfig& c = self.index.config();
  const View q = view(queries, query_dtype(c.dtype), dtype_name(query_dtype(c.dtype)), 2, "queries");
  check_columns(c, q, "queries");
  const nb::gil_scoped_release release;
  self.index.calibrate(q.data, q.rows, threads);
}

// (ef_search, recall to expect, near_part) for a recall asked for, ef_search 0 where no beam is known to reach it; None
// where nothing was measured. share: of the rows that match a filter; None: there is no filter.
nb::object choose(const Graph& self, std::size_t k, double recall, std::optional<double> share) {
  const std::shared_ptr<const graph::Calibration> table = self.index.calibration();
  std::optional<graph::Beam> beam;
  if (share.has_value()) {
    beam = self.index.choose_filtered(k, recall, *share);
  } else if (table != nullptr) {
    beam = table->choose(k, recall);
  }
  if (!beam.has_value()) return nb::none();
  return nb::make_tuple(beam->ef, beam->recall, beam->near_part);
}

// (ef_search, recall to expect, near_part) of a search that does the work of a beam, share as for choose().
nb::tuple same_work(const Graph& self, std::size_t k, std::size_t ef_search, std::optional<double> share) {
  const std::optional<graph::Beam> beam =
      share.has_value() ? self.index.same_work(k, ef_search, *share) : beam_of(self, k, ef_search);
  if (!beam.has_value()) return nb::make_tuple(ef_search, nb::none(), 0.0F);
  return nb::make_tuple(beam->ef, beam->recall, beam->near_part);
}

// The usual search in one call: no filter, a beam that ends as near_part says or else the work of one (see same_work),
// and instead of rows their labels, where there are any. Returns (labels, distances, how many results the query with
// the fewest has, recall to expect of the work of a beam); None where the queries are not the usual or not sound.
nb::object walk(Graph& self, nb::handle queries, std::size_t k, std::size_t ef_search, unsigned threads,
                nb::handle labels, std::optional<float> near_part) {
  const GraphConfig& c = self.index.config();
  AnyArray given;
  if (!given.look_at(queries)) return nb::none();
  const View q = usual_matrix(given, query_dtype(c.dtype), columns(c));
  if (q.rows == 0 || q.rows > graph::kQueriesMax) return nb::none();
  AnyArray label_array;
  View names{};
  if (!labels.is_none()) {
    label_array = nb::cast<AnyArray>(labels);
    names = vector<std::int64_t>(label_array, "labels");
  }
  SearchParameters p;
  p.k = k;
  p.ef_search = ef_search;
  p.threads = threads;
  std::optional<graph::Beam> beam;
  if (!near_part.has_value()) beam = beam_of(self, k, ef_search);
  if (beam.has_value()) p.ef_search = beam->ef;
  p.near_part = beam.has_value() ? beam->near_part : near_part.value_or(0.0F);
  graph::check_parameters(p);
  const bool one = given.ndim() == 1;
  NewArray<std::int64_t> rows = one ? new_array<std::int64_t>({k}) : new_array<std::int64_t>({q.rows, k});
  NewArray<float> distances = one ? new_array<float>({k}) : new_array<float>({q.rows, k});
  std::size_t fewest = k;
  bool sound = false;
  {
    const nb::gil_scoped_release release;
    sound = self.index.rows().sound_queries(q.data, q.rows);
    p.sound = sound;
    if (sound) self.index.search(q.data, q.rows, p, rows.data, distances.data);
    for (std::size_t i = 0; sound && i < q.rows; ++i) {
      while (fewest > 0 && rows.data[i * k + fewest - 1] < 0) --fewest;
    }
    if (sound && !labels.is_none()) {
      const auto* name = names.as<std::int64_t>();
      for (std::size_t i = 0; i < q.rows * k; ++i) {
        const auto row = static_cast<std::size_t>(rows.data[i]);  // -1 becomes the largest number
        if (row < names.rows) {
          rows.data[i] = name[row];
        } else if (rows.data[i] >= 0) {
          throw Error(ErrorCode::invalid_argument, "labels are " + std::to_string(names.rows) + ", row " +
                                                       std::to_string(row) + " has none; pass one for each row");
        }
      }
    }
  }
  if (!sound) return nb::none();
  nb::object recall = beam.has_value() ? nb::cast(beam->recall) : nb::none();
  return nb::make_tuple(std::move(rows.array), std::move(distances.array), fewest, std::move(recall));
}

nb::object expected(const Graph& self, std::size_t k, std::size_t ef_search, std::optional<double> share) {
  const std::shared_ptr<const graph::Calibration> table = self.index.calibration();
  if (table == nullptr || k > graph::kCalibratedMax) return nb::none();
  if (!share.has_value()) return nb::cast(table->expected(k, ef_search));
  const std::optional<double> recall = self.index.expected_filtered(k, ef_search, *share);
  return recall.has_value() ? nb::cast(*recall) : nb::none();
}

// (rows, given, [(ef, queries, recall of each k, standard error of each k)]); None where there is no table.
nb::object calibration(const Graph& self) {
  const std::shared_ptr<const graph::Calibration> table = self.index.calibration();
  if (table == nullptr) return nb::none();
  nb::list points;
  for (const graph::CalibrationPoint& p : table->points()) {
    nb::list recall;
    nb::list error;
    for (const float x : p.recall) recall.append(x);
    for (const float x : p.error) error.append(x);
    points.append(nb::make_tuple(p.ef, p.queries, recall, error));
  }
  return nb::make_tuple(table->rows(), table->given(), points);
}

nb::object calibration_bytes(const Graph& self) {
  const std::shared_ptr<const graph::Calibration> table = self.index.calibration();
  if (table == nullptr) return nb::none();
  const std::vector<std::byte> bytes = table->bytes();
  return nb::bytes(bytes.data(), bytes.size());
}

void set_calibration(Graph& self, const nb::bytes& bytes) {
  try {
    self.index.set_calibration(std::make_shared<const graph::Calibration>(
        graph::Calibration::parse(static_cast<const std::byte*>(bytes.data()), bytes.size())));
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::corrupt, error.what());
  }
}

nb::tuple replay(Graph& self, const AnyArray& queries, std::size_t k, std::size_t ef_search, unsigned passes,
                 float near_part) {
  const GraphConfig& c = self.index.config();
  const View q = view(queries, query_dtype(c.dtype), dtype_name(query_dtype(c.dtype)), 2, "queries");
  check_columns(c, q, "queries");
  SearchParameters p;
  p.k = k;
  p.ef_search = ef_search;
  p.near_part = near_part;
  graph::Replay found;
  {
    const nb::gil_scoped_release release;
    found = self.index.replay(q.data, q.rows, p, passes);
  }
  return nb::make_tuple(found.visited, found.compared, found.seconds);
}

}  // namespace
}  // namespace vicinal::py

void init_graph(nb::module_& m) {
  using namespace vicinal::py;
  nb::class_<Graph>(m, "Graph")
      .def(
          "__init__",
          [](Graph* self, std::size_t dim, const std::string& metric, const std::string& dtype, std::uint32_t M,
             std::uint32_t ef_construction, std::uint64_t seed, const std::string& format) {
            new (self) Graph(std::make_unique<GraphIndex>(GraphConfig{dim, parse_metric(metric), parse_dtype(dtype), M,
                                                                      ef_construction, seed, parse_format(format), 0}));
          },
          "dim"_a, "metric"_a, "dtype"_a, "M"_a, "ef_construction"_a, "seed"_a, "format"_a)
      .def(
          "build",
          [](Graph& self, nb::handle X, unsigned threads, bool copy, nb::handle progress) {
            build(self, nb::cast<AnyArray>(X), X, threads, copy, progress);
          },
          "X"_a, "threads"_a, "copy"_a, "progress"_a.none())
      .def("append", &append, "X"_a)
      .def("link", &link_rows, "max_rows"_a.none(), "threads"_a, "progress"_a.none())
      .def("remove", &remove_rows, "rows"_a)
      .def(
          "repair",
          [](Graph& self, unsigned threads) {
            const nb::gil_scoped_release release;
            return self.index.repair(threads);
          },
          "threads"_a)
      .def("compact", &compact, "keep"_a.none(), "vectors"_a.none(), "threads"_a)
      .def("rows_bytes", &rows_of, "rows"_a)
      .def("search", &search, "queries"_a, "k"_a = 10, "ef_search"_a = 64, "threads"_a = 1,
           "filter"_a.none() = nb::none(), "exact"_a = false, "strategy"_a = "auto", "near_part"_a.none() = 0.0F)
      .def("walk", &walk, "queries"_a.none(), "k"_a, "ef_search"_a, "threads"_a, "labels"_a.none(),
           "near_part"_a.none())
      .def("calibrate", &calibrate, "queries"_a, "threads"_a)
      .def("choose", &choose, "k"_a, "recall"_a, "share"_a.none() = nb::none())
      .def("same_work", &same_work, "k"_a, "ef_search"_a, "share"_a.none() = nb::none())
      .def("expected", &expected, "k"_a, "ef_search"_a, "share"_a.none() = nb::none())
      .def(
          "scan_matches_max",
          [](const Graph& self, std::size_t k, std::size_t ef_search, double share) {
            return self.index.scan_matches_max(k, ef_search, share);
          },
          "k"_a, "ef_search"_a, "share"_a)
      .def(
          "filtered_walk",
          [](const Graph& self, std::size_t k, std::size_t ef_search, double share) {
            return self.index.filtered_walk(k, ef_search, share) == Strategy::gate ? "gate" : "filter";
          },
          "k"_a, "ef_search"_a, "share"_a)
      .def("calibration_bytes", &calibration_bytes)
      .def("set_calibration", &set_calibration, "table"_a)
      .def_prop_ro("calibration", &calibration)
      .def("replay", &replay, "queries"_a, "k"_a, "ef_search"_a, "passes"_a, "near_part"_a)
      .def("edges", &edges_of)
      .def("save", &save, "path"_a, "vectors"_a)
      .def_static("load", &load, "path"_a, "map"_a, "vectors"_a.none(), nb::rv_policy::take_ownership)
      .def_prop_ro("config",
                   [](const Graph& g) {
                     const GraphConfig& c = g.index.config();
                     return nb::make_tuple(c.dim, metric_name(c.metric), dtype_name(c.dtype), c.M, c.ef_construction,
                                           c.seed);
                   })
      .def_prop_ro("format", [](const Graph& g) { return g.index.format() == Format::rabitq ? "rabitq" : "sq8"; })
      .def_prop_ro("n", [](const Graph& g) { return g.index.size(); })
      .def_prop_ro("n_linked", [](const Graph& g) { return g.index.linked(); })
      .def_prop_ro("n_live", [](const Graph& g) { return g.index.live(); })
      .def_prop_ro("memory_bytes", [](const Graph& g) { return g.index.memory_bytes(); })
      .def_prop_ro("mapped_bytes", [](const Graph& g) { return g.index.mapped_bytes(); });
}
