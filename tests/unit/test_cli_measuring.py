"""What `vicinal bench` measures is so: recall counts what was found, truth is exact, bad requests are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import vicinal
from vicinal.cli import main
from vicinal.cli.formats import FileError
from vicinal.cli.measuring import exact_truth, recall_at_k, sweep, time_singles
from vicinal.cli.vectors import load_vectors, stored
from vicinal.model.errors import InvalidArgumentError, VicinalError

N, DIM = 3_000, 24
RECALL_FLOOR = 0.99  # ef of 400 among 3,000 points of 24 dimensions finds nearly all


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    rng = np.random.default_rng(8)
    centres = rng.standard_normal((20, DIM))
    spread = 0.5 * rng.standard_normal((N, DIM))
    return (centres[rng.integers(20, size=N)] + spread).astype(np.float32)


def answer(*words: object) -> Any:
    """What the command prints with --json; its exit code must be 0."""
    done = CliRunner().invoke(main.app, ["bench", *map(str, words), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_recall_counts_true_neighbours_and_takes_equally_near_ones_for_equal() -> None:
    truth = np.array([[1.0, 2.0, 3.0]])
    assert recall_at_k(np.array([[1.0, 2.0, 3.0]]), truth) == 1.0
    assert recall_at_k(np.array([[1.0, 3.0, 3.0]]), truth) == 1.0
    assert recall_at_k(np.array([[1.0, 2.0, 3.1]]), truth) == pytest.approx(2 / 3)
    assert recall_at_k(np.array([[np.inf, np.inf, np.inf]]), truth) == 0.0


def test_recall_asks_for_no_more_than_there_is() -> None:
    truth = np.array([[1.0, np.inf], [1.0, 2.0]])
    assert recall_at_k(np.array([[1.0, np.inf], [1.0, 2.0]]), truth) == 1.0
    assert recall_at_k(np.array([[np.inf, np.inf], [1.0, 2.0]]), truth) == pytest.approx(2 / 3)
    with pytest.raises(InvalidArgumentError, match="no query has a true neighbour"):
        recall_at_k(np.array([[1.0]]), np.array([[np.inf]]))


def test_negative_distances_are_compared_as_they_are() -> None:
    truth = np.array([[-9.0, -8.0]])
    assert recall_at_k(np.array([[-9.0, -7.0]]), truth) == 0.5


def test_truth_from_batches_is_the_one_from_all_at_once(X: np.ndarray) -> None:
    queries = X[:20] + 0.01
    parts = exact_truth(queries, [X[:7], X[7:1500], X[1500:]], k=9, dim=DIM, metric="l2")
    far = ((queries[:, None].astype(np.float64) - X[None].astype(np.float64)) ** 2).sum(axis=2)
    assert np.array_equal(parts.rows, np.argsort(far, axis=1, kind="stable")[:, :9])
    assert np.allclose(parts.distances, np.sort(far, axis=1)[:, :9], rtol=1e-4)


def test_truth_is_padded_where_there_are_fewer_rows_than_k() -> None:
    truth = exact_truth(np.ones((1, 2), np.float32), [np.eye(2)], k=4, dim=2, metric="l2")
    assert truth.rows.tolist() == [[0, 1, -1, -1]]
    assert truth.distances.tolist() == [[1.0, 1.0, np.inf, np.inf]]


def test_every_query_is_asked_once_whatever_the_threads() -> None:
    seen: list[float] = []

    def search(q: np.ndarray) -> np.ndarray:
        seen.append(float(q[0, 0]))
        return q

    queries = np.arange(50, dtype=np.float32)[:, None]
    total, seconds = time_singles(search, queries, threads=3)
    assert sorted(seen) == list(range(50))
    assert seconds.shape == (50,)
    assert total > 0
    assert (seconds > 0).all()


def test_a_search_that_fails_in_a_thread_fails_the_measurement() -> None:
    def search(q: np.ndarray) -> np.ndarray:
        raise InvalidArgumentError("no")

    with pytest.raises(InvalidArgumentError, match="no"):
        time_singles(search, np.zeros((4, 1)), threads=2)


def test_a_sweep_measures_each_width_in_each_pass() -> None:
    truth = exact_truth(np.ones((5, 2), np.float32), [np.eye(2)], k=1, dim=2, metric="l2")
    asked: list[int] = []

    def search_at(ef: int) -> Any:
        asked.append(ef)

        def found(q: np.ndarray) -> np.ndarray:
            return np.full((len(q), 1), 1.0 if ef > 1 else 5.0)

        return found, found

    settings = sweep(search_at, np.ones((5, 2), np.float32), truth, [1, 2], passes=3)
    assert asked == [1, 2, 1, 2, 1, 2]
    assert [s.recall for s in settings] == [0.0, 1.0]
    assert [len(s.batch_qps) for s in settings] == [3, 3]
    assert [len(s.single_us) for s in settings] == [15, 15]
    assert all(s.qps > 0 and s.spread >= 0 for s in settings)


def test_a_file_is_measured_without_the_queries_held_out_of_it(
    X: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", X)
    figures = answer(
        tmp_path / "x.npy", "--metric", "l2", "--ef-search", "10,400", "--passes", 2,
        "--n-queries", 150, "--M", 16,
    )  # fmt: skip
    assert (figures["points"], figures["queries"]) == (N - 150, 150)
    assert (figures["queries_origin"], figures["metric"], figures["M"]) == ("held out", "l2", 16)
    low, high = figures["settings"]
    assert (low["ef_search"], high["ef_search"]) == (10, 400)
    assert low["recall"] <= high["recall"]
    assert high["recall"] >= RECALL_FLOOR
    assert 0 < high["p50_us"] <= high["p95_us"] <= high["p99_us"]
    assert figures["bytes_per_vector"] >= 4 * DIM


def test_queries_of_their_own_file_are_used_as_given(X: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    np.save(tmp_path / "q.npy", X[:30])
    figures = answer(
        tmp_path / "x.npy", "--queries", tmp_path / "q.npy", "--ef-search", 400, "--passes", 1
    )
    assert (figures["points"], figures["queries"], figures["dtype"]) == (N, 30, "f16")
    assert figures["metric"] == "cosine"
    assert figures["settings"][0]["recall"] >= RECALL_FLOOR


def test_tables_and_hdf5_are_read(X: np.ndarray, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `arrow` is not installed")
    h5py = pytest.importorskip("h5py", reason="the extra `hdf5` is not installed")
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), DIM)
    pq.write_table(pa.table({"id": range(N), "v": vectors}), tmp_path / "x.parquet")
    loaded = load_vectors(tmp_path / "x.parquet", column="v", limit=1_234)
    assert np.array_equal(loaded.rows, X[:1_234])
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["train"], file["test"] = X[100:], X[:100]
        file["neighbors"] = np.zeros((100, 10), np.int32)
        file.attrs["distance"] = "euclidean"
    figures = answer(tmp_path / "x.hdf5", "--ef-search", 400, "--passes", 1)
    assert (figures["points"], figures["queries"]) == (N - 100, 100)
    assert (figures["metric"], figures["queries_origin"]) == ("l2", "of the file")
    assert figures["settings"][0]["recall"] >= RECALL_FLOOR
    with h5py.File(tmp_path / "y.hdf5", "w") as file:
        file["a"], file["b"] = X, X
    with pytest.raises(FileError, match="'a', 'b'; --vector-column names one"):
        load_vectors(tmp_path / "y.hdf5")
    with h5py.File(tmp_path / "z.hdf5", "w") as file:
        file["train"] = X
        file.attrs["distance"] = "jaccard"
    with pytest.raises(FileError, match="'jaccard'"):
        load_vectors(tmp_path / "z.hdf5")


def test_booleans_become_bits_and_other_numbers_do_not(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra `hdf5` is not installed")
    bits = np.random.default_rng(1).random((200, 64)) < 0.5
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["train"], file["test"] = bits, bits[:5]
        file.attrs["distance"] = "hamming"
    loaded = load_vectors(tmp_path / "b.hdf5")
    vectors, metric, dtype, dim = stored(loaded, None, None, tmp_path)
    assert (metric, dtype, dim) == ("hamming", "bit", 64)
    assert np.array_equal(np.unpackbits(vectors.rows, axis=1).astype(bool), bits)
    np.save(tmp_path / "x.npy", np.zeros((4, 8), np.float32))
    with pytest.raises(FileError, match="dtype bit takes booleans"):
        stored(load_vectors(tmp_path / "x.npy"), "hamming", None, tmp_path)


@pytest.fixture(scope="module")
def database(X: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "db"
    with vicinal.open(path) as db:
        docs = db.collection("docs", dim=DIM)
        docs.upsert(ids=range(N), vectors=X)
        docs.optimize()
    return path


def test_a_collection_is_measured_as_it_stands_and_its_points_do_not_count_as_found(
    X: np.ndarray, database: Path
) -> None:
    figures = answer(database, "--ef-search", "11,400", "-k", 10, "--n-queries", 100)
    assert (figures["points"], figures["queries"]) == (N, 100)
    assert figures["queries_origin"] == "points of the collection"
    assert figures["indexed_ratio"] == 1.0
    assert figures["settings"][1]["recall"] >= RECALL_FLOOR
    np.save(database.parent / "q.npy", X[:20])
    figures = answer(database, "--ef-search", 400, "-k", 1, "--queries", database.parent / "q.npy")
    assert (figures["queries_origin"], figures["settings"][0]["recall"]) == ("given", 1.0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["db", "--ef-search", "10"], "each is 11 (k, and one for the point itself)"),
        (["db", "--ef-search", "ten"], "give numbers"),
        (["db", "--metric", "l2"], "--metric goes with a file"),
        (["db", "--ef-construction", "9"], "--ef-construction goes with a file"),
        (["db", "-k", "0"], "choose 1 to"),
        (["db", "-c", "none"], "there is no collection 'none'"),
        (["x.npy", "-c", "docs"], "--collection goes with a database"),
        (["x.npy", "--ef-search", "9"], "each is 10 (k)"),
        (["few.npy"], "50 rows are too few"),
        (["x.npy", "--vector-column", "v"], "a .npy file is one matrix"),
        (["absent.npy"], "not a readable .npy file"),
        (["x.csv"], "names no format"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_remedy(
    words: list[str], says: str, X: np.ndarray, database: Path
) -> None:
    folder = database.parent
    np.save(folder / "x.npy", X)
    np.save(folder / "few.npy", X[:50])
    with pytest.raises(VicinalError) as fault:
        answer(folder / words[0], *words[1:])
    assert says in str(fault.value)


def test_the_table_has_one_line_for_each_width(X: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = CliRunner().invoke(
        main.app, ["bench", str(tmp_path / "x.npy"), "--passes", "1", "--ef-search", "20,40"]
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[1].split("\t") == [
        "ef_search",
        "recall@10",
        "QPS",
        "+-%",
        "p50 us",
        "p95 us",
        "p99 us",
    ]
    assert [line.split("\t")[0] for line in lines[2:]] == ["20", "40"]
    assert "300 queries (held out), truth by exact search" in done.stderr
