"""The harness measures what it says: data sets, recall under change, ratios with their noise, each command in small."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import churn, datasets, duel, filters, kernels, micro, recall, report, run, workload
from bench.__main__ import main
from bench.overload import most, share_of
from bench.targets import TARGETS

from vicinal import native
from vicinal.index import Beam

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--points", "2000", "--queries", "40"]


def test_the_synthetic_set_is_repeatable_hard_and_says_what_it_is() -> None:
    one = datasets.synthetic(3_000, 32, 50, seed=3)
    two = datasets.synthetic(3_000, 32, 50, seed=3)
    assert np.array_equal(one.base, two.base)
    assert np.array_equal(one.queries, two.queries)
    assert one.describe()["synthetic"] is True
    assert np.allclose(np.linalg.norm(one.base, axis=1), 1, atol=1e-5)
    assert 5 < one.lid < 60, "neither a line nor noise"
    sims = one.queries @ one.base.T
    best = np.sort(-sims, axis=1)[:, :10] + 1
    assert np.allclose(one.truth.distances, best, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    X, Q = rng.standard_normal((500, 8)).astype(np.float32), rng.standard_normal((20, 8))
    far = ((Q[:, None] - X[None]) ** 2).sum(axis=2)
    path = tmp_path / "small"
    path.mkdir()
    np.save(path / "base.npy", X)
    np.save(path / "query.npy", Q.astype(np.float16))
    np.save(path / "gt.npy", np.argsort(far, axis=1)[:, :20].astype(np.int32))
    (path / "meta.json").write_text('{"metric": "l2"}')
    return path


def test_a_folder_is_read_with_its_own_truth_and_a_part_of_it_with_a_new_one(folder: Path) -> None:
    whole = datasets.load_path(folder, k=10)
    assert (whole.name, whole.metric, whole.base.shape) == ("small", "l2", (500, 8))
    assert whole.queries.dtype == np.float32
    given = np.load(folder / "gt.npy")
    assert np.array_equal(whole.truth.rows, given[:, :10])
    near = ((whole.queries - whole.base[given[:, 0]]) ** 2).sum(axis=1)
    assert np.allclose(whole.truth.distances[:, 0], near, rtol=1e-4)
    part = datasets.load_path(folder, points=100, k=10)
    assert len(part.base) == 100
    assert part.truth.rows.max() < 100


def test_hdf5_files_of_ann_benchmarks_are_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    X = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    with h5py.File(tmp_path / "some.hdf5", "w") as file:
        file["train"], file["test"] = X[:290], X[290:]
        file.attrs["distance"] = "angular"
    data = datasets.load_path(tmp_path / "some.hdf5", k=5)
    assert (data.metric, data.base.shape, data.queries.shape) == ("cosine", (290, 8), (10, 8))
    assert data.truth.rows.shape == (10, 5)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_finds_what_is_there_and_counts_its_memory(name: str) -> None:
    data = datasets.synthetic(2_000, 32, 30)
    target: Any = TARGETS[name](data, {})
    assert target.build()["build_s"] > 0
    batch = target.batch(data.queries, 400, 1)
    assert batch.shape == (30, 10)
    assert np.allclose(batch[0], target.single(data.queries[:1], 400)[0], atol=1e-6)
    assert np.allclose(np.median(batch - data.truth.distances), 0, atol=1e-6)
    assert target.accounted_bytes() >= data.base.nbytes
    rates = target.insert()
    assert set(rates) == {"insert_batch_per_s", "insert_single_per_s"}
    target.close()


def curve(*points: tuple[float, list[float]]) -> dict[str, Any]:
    return {"points": [{"recall": r, "qps": q, "ef": i} for i, (r, q) in enumerate(points)]}


def test_speed_at_a_recall_lies_between_the_measured_points() -> None:
    of = curve((0.8, [400.0, 400.0]), (1.0, [100.0, 100.0]))
    middle = report.at_recall(of, 0.9)
    assert middle is not None
    assert middle == pytest.approx([200.0, 200.0])
    assert report.at_recall(of, 0.5) == pytest.approx([400.0, 400.0])
    assert report.at_recall(curve((0.8, [1.0])), 0.9) is None


def test_a_setting_that_is_beaten_in_both_recall_and_speed_is_left_out() -> None:
    of = curve((0.8, [400.0]), (0.85, [50.0]), (1.0, [100.0]))
    assert report.at_recall(of, 0.9) == pytest.approx([200.0])


def test_a_ratio_within_its_noise_or_the_machines_drift_proves_nothing() -> None:
    same = report.ratio_of(np.array([1000.0, 1040.0, 990.0]), np.array([1010.0, 985.0, 1030.0]))
    assert report.verdict(*same, 1.0) == "within noise"
    twice = report.ratio_of(np.array([1000.0, 1040.0, 990.0]), np.array([2020.0, 1970.0, 2060.0]))
    assert twice[0] == pytest.approx(2.0, rel=0.01)
    assert 1.8 < twice[1] < twice[0] < twice[2] < 2.2
    assert report.verdict(*twice, 1.0) == "better"
    assert report.verdict(*twice, 1.0, smaller_is_better=True) == "worse"
    assert report.verdict(1.05, 1.04, 1.06, 1.2) == "no more than the machine's own change"
    assert report.verdict(0.5, 0.49, 0.51, 0.9) == "worse"
    alone = report.ratio_of(np.array([1000.0]), np.array([2000.0]))
    assert alone[0] == pytest.approx(2.0)
    assert report.verdict(*alone, 1.0) == "one process each: no verdict"


def test_the_interval_of_equal_runs_holds_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    runs = np.exp(0.05 * rng.standard_normal((2_000, 2, 3)))
    holds = [low <= 1 <= high for _, low, high in (report.ratio_of(a, b) for a, b in runs)]
    assert 0.88 < np.mean(holds) < 0.92


def test_run_report_and_comparison_work_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        words = ["run", *SMALL, "--targets", "index", "--threads", "1", "--passes", "2"]
        words += ["--processes", "2"]
        assert main([*words, "--ef", "10,100", "--no-insert", "--out", str(path)]) == 0
    result = json.loads(paths[0].read_text())
    target, again = result["targets"]
    assert target["name"] == again["name"] == "index"
    assert {c["mode"] for c in target["curves"]} == {"batch", "single"}
    for c in target["curves"]:
        for point in c["points"]:
            assert len(point["qps"]) == 2
            assert 0 < point["recall"] <= 1
    assert target["accounted_bytes_per_vector"] >= 4 * result["dataset"]["dim"]
    assert result["machine"]["cores"] >= 1
    png = (
        [] if importlib.util.find_spec("matplotlib") is None else ["--png", str(tmp_path / "c.png")]
    )
    assert main(["report", *map(str, paths), *png]) == 0
    assert "new over old" in capsys.readouterr().out
    assert not png or (tmp_path / "c.png").stat().st_size > 10_000
    other = json.loads(paths[1].read_text())
    other["dataset"]["points"] += 1
    paths[1].write_text(json.dumps(other))
    assert main(["report", *map(str, paths)]) == 2
    assert "the data sets differ" in capsys.readouterr().err


def test_what_both_of_a_pair_share_cancels_out() -> None:
    machine_speed = np.array([1.0, 0.5, 2.0, 0.8])
    old, new = 1000 * machine_speed, 1100 * machine_speed
    apart = report.ratio_of(old, new)
    assert report.verdict(*apart, 1.0) == "within noise"
    together = report.ratio_of(old, new * np.array([1.0, 1.01, 0.99, 1.0]), paired=True)
    assert together[0] == pytest.approx(1.1, rel=0.01)
    assert report.verdict(*together, 1.0) == "better"


def test_a_duel_of_a_build_with_itself_measures_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    words = ["duel", "--old", sys.executable, "--pairs", "2", "--out-old", out[0]]
    words += ["--out-new", out[1], "--", *SMALL, "--targets", "index", "--ef", "20,100"]
    assert main([*words, "--passes", "1", "--no-insert", "--no-single", "--threads", "1"]) == 0
    assert "in 2 pairs of processes" in capsys.readouterr().out
    results = [json.loads(Path(o).read_text()) for o in out]
    assert [len(r["targets"]) for r in results] == [2, 2]
    assert main(["report", *out]) == 0
    assert main(["duel", "--old", "x", "--", "--out", "y"]) == 2
    assert main(["duel", "--old", "/absent/python"]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--targets", "none"], "known are index, collection"),
        (["run", "--ef", "5"], "each is at least k"),
        (["kernels", "--only", "l2:x"], "names none of"),
        (["workload", "--mix", "90/20"], "add up to 100"),
        (["churn", "--share", "0"], "above 0"),
        (["report", "absent.json"], "absent.json"),
        (["filters", "--data", "absent"], "neither a folder"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_kernels_are_measured_beside_rivals_that_compute_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "k.json"
    assert main(["kernels", "--dims", "64", "--passes", "2", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    ours = [r for r in rows if r["library"] == "vicinal"]
    assert {(r["kernel"], r["dtype"]) for r in ours} == set(kernels.PAIRS)
    assert all(r["ratio"] == 1.0 for r in ours)
    assert "ns of a distance" in capsys.readouterr().out


def test_a_rival_that_computes_something_else_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "_rivals", lambda *_: {"other": lambda q, X: X @ q + 1})
    with pytest.raises(ValueError, match="other computes another dot"):
        kernels.measure("dot", "f32", 16, "", 1)


@pytest.mark.skipif(not micro.LIBRARY.is_file(), reason="the core is not built: make setup")
def test_building_blocks_are_measured_beside_the_plain_way(tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    for part, ours, plain in (
        ("selection", "partial selection", "full sort"),
        ("counters", "atomic", "mutex"),
    ):
        assert main(["micro", "--part", part, "--passes", "1", "--out", str(out)]) == 0
        rows = json.loads(out.read_text())["rows"]
        assert all(r["ns"] > 0 for r in rows)
        assert {ours, plain} <= {r["what"] for r in rows}
    assert {r["size"] for r in rows} == {1, 2, 4, 8, 16, 32}


def test_building_blocks_need_a_built_core(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; `make setup` builds it"):
        micro.measure(tmp_path / "none.a", None, 1)


def test_each_stage_reaches_the_recall_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    words = ["--points", "1500", "--queries", "30", "--passes", "1", "--recall", "0.9"]
    assert main(["stages", *words, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert rows[0]["stage"] == "exact"
    assert [row["stage"] for row in rows][-2:] == ["rabitq", "rabitq, by query"]
    assert {row["isa"] for row in rows if row["stage"] == "sq8"} == set(native.supported_isas())
    assert all(row["recall"] >= 0.9 for row in rows)
    assert all(0 < row["p50_us"] <= row["p95_us"] <= row["p99_us"] for row in rows)
    assert main(["stages", *words, "--last", "--out", str(out)]) == 0
    assert [row["stage"] for row in json.loads(out.read_text())["rows"]] == ["rabitq, by query"]


def test_a_cell_of_recall_tells_chance_from_what_is_systematic() -> None:
    def cell(*means: float) -> dict[str, Any]:
        shares = [np.where(np.arange(1_000) < 1_000 * mean, 1.0, 0.0) for mean in means]
        return recall.Cell(beams=[Beam(10, 0.9)] * len(means), shares=shares).describe(0.9)

    inside = cell(0.91, 0.90)
    assert (inside["outside"], inside["systematic"]) == (False, False)
    assert inside["judges"] == pytest.approx((0.905 * 0.095 / 1_000) ** 0.5, rel=0.05)
    chance = cell(0.93, 0.92)
    assert (chance["outside"], chance["systematic"]) == (True, False)
    assert cell(0.97, 0.98)["systematic"]
    assert cell(0.85, 0.84)["systematic"]


def test_opening_is_measured_with_files_in_memory_and_on_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--points", "500", "--records", "0", "--dim", "8", "--passes", "1"]
    assert main(["opening", *words]) == 0
    out = capsys.readouterr().out
    for line in ("sealed, warm", "sealed, cold"):
        assert re.search(rf"{line}.*: open_s [\d.e-]+, first_search_ms [\d.e-]+", out)


def a_log(n: int) -> workload.Log:
    log = workload.Log(np.full((n, 2), np.nan), np.full((n, 2), np.nan))
    log.born[:] = -np.inf
    return log


def test_recall_under_change_counts_only_points_that_were_there_throughout() -> None:
    data = datasets.synthetic(400, 16, 5, k=4)
    first = data.truth.rows[0].tolist()
    log = a_log(400)
    log.judged.append((0, 1.0, 2.0, first))
    assert workload.judge(data, log) == (1.0, 0)
    log.judged[0] = (0, 1.0, 2.0, first[:3])  # one missed
    assert workload.judge(data, log) == (0.75, 0)
    log.born[first[3]] = 1.5, 1.6  # it came during the search: no miss, the next one is
    assert workload.judge(data, log) == (0.75, 0)
    log.born[first[0]] = 1.5, 1.6  # found, and came during it: counts neither way
    assert workload.judge(data, log)[0] == pytest.approx(2 / 3)


def test_a_hit_that_had_been_deleted_before_is_stale() -> None:
    data = datasets.synthetic(400, 16, 5, k=4)
    first = data.truth.rows[0].tolist()
    log = a_log(400)
    log.judged.append((0, 1.0, 2.0, first))
    log.dead[first[1]] = 0.5, 0.9
    recall, stale = workload.judge(data, log)
    assert stale == 1
    assert recall == 0.75
    log.dead[first[1]] = 0.5, 1.5  # deleted during it: either answer is right
    assert workload.judge(data, log) == (1.0, 0)


def test_a_workload_runs_and_its_searches_stay_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.json"
    words = ["workload", *SMALL, "--mix", "70/20/10", "--rate", "200", "--seconds", "1"]
    assert main([*words, "--durability", "none", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    done = {name: of["n"] for name, of in row["operations"].items()}
    assert sum(done.values()) == 200
    assert row["points_after"] == row["points_before"] + done["insert"] - done["delete"]
    assert row["stale"] == 0
    assert row["recall"] > 0.9  # 2,000 points at the default width: far above chance
    assert "recall@10" in capsys.readouterr().out
    assert main([*words[:-3], "100000", "--seconds", "1"]) == 2
    assert "are too few for inserts" in capsys.readouterr().err


@pytest.mark.parametrize(("mix", "only"), [("100", "search"), ("0/100", "insert")])
def test_a_workload_may_be_of_one_kind(mix: str, only: str, tmp_path: Path) -> None:
    out = tmp_path / "w.json"
    words = ["workload", *SMALL, "--mix", mix, "--rate", "200", "--seconds", "0.5"]
    assert main([*words, "--durability", "none", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert {name: of["n"] for name, of in row["operations"].items()} == {only: 100}
    assert (row["recall"] is None) == (only == "insert")


@pytest.mark.parametrize("target", sorted(churn.TARGETS))
def test_churn_keeps_every_point_findable(target: str, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    words = ["churn", *SMALL, "--target", target, "--rounds", "2", "--ef", "200"]
    assert main([*words, "--out", str(out)]) == 0
    rounds = json.loads(out.read_text())["rounds"]
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert all(r["findability"] > 0.99 and r["recall"] > 0.95 for r in rounds), rounds


def test_filters_match_as_many_points_as_said_and_lie_as_said() -> None:
    data = datasets.synthetic(1_000, 16, 5, k=4)
    near = filters.by_distance(data, 2)
    assert near[:4].tolist() == data.truth.rows[2].tolist()
    rng = np.random.default_rng(0)
    for kind in filters.KINDS:
        assert filters.matches(near, kind, 0.1, rng).sum() == 100
    assert filters.matches(near, "correlated", 0.1, rng)[near[:100]].all()
    assert filters.matches(near, "anti", 0.1, rng)[near[-100:]].all()
    assert filters.matches(near, "random", 1e-9, rng).sum() == 1


def test_filtered_searches_are_measured_for_every_case(tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    assert main(["filters", *SMALL, "--passes", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4 * 3 * 6
    assert all(r["recall"] == 1.0 for r in rows if r["strategy"] in ("scan", "exact"))
    cells = [rows[i : i + 6] for i in range(0, len(rows), 6)]
    for cell in cells:
        rivals = [r for r in cell if r["strategy"] != "auto" and r["recall"] >= 0.95]
        assert min(r["time_of_best"] for r in rivals) == 1.0


def test_every_option_of_the_harness_is_used_somewhere() -> None:
    for module in (churn, duel, filters, kernels, micro, report, run, workload):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        used = Path(str(module.__file__)).read_text() + (ROOT / "bench/datasets.py").read_text()
        names = [a.dest for a in parser._actions if a.dest != "help"]
        assert [n for n in names if f"options.{n}" not in used] == []


BASE = """
class BaseANN:
    def done(self):
        pass

    def __str__(self):
        return self.name
"""


@pytest.fixture
def drop_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our module where it stands in a checkout of ann-benchmarks."""
    algorithms = tmp_path / "ann_benchmarks" / "algorithms"
    (algorithms / "base").mkdir(parents=True)
    (algorithms / "base" / "module.py").write_text(BASE)
    shutil.copytree(ROOT / "bench" / "ann_benchmarks", algorithms / "vicinal")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("ann_benchmarks.algorithms.vicinal.module")
    for name in [n for n in sys.modules if n.partition(".")[0] == "ann_benchmarks"]:
        del sys.modules[name]


@pytest.mark.parametrize("metric", ["euclidean", "angular", "hamming"])
def test_the_ann_benchmarks_class_builds_and_answers(drop_in: Any, metric: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_500, 32))
    X = X > 0 if metric == "hamming" else X.astype(np.float32)
    algorithm = drop_in.Vicinal(metric, {"M": 16, "ef_construction": 100})
    algorithm.fit(X)
    algorithm.set_query_arguments(200)
    assert "200" in str(algorithm)
    Q = X[:20]
    A, B = Q.astype(np.float64), X.astype(np.float64)
    if metric == "angular":
        A, B = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (A, B))
    far = ((A[:, None] - B[None]) ** 2).sum(axis=2)
    limit = np.sort(far, axis=1)[:, 9] + 1e-6
    single = [algorithm.query(q, 10) for q in Q]
    hits = np.mean([far[i, ids] <= limit[i] for i, ids in enumerate(single)])
    assert hits > 0.95, "near exact at this width"
    algorithm.batch_query(Q, 10)
    assert np.array_equal(np.asarray(algorithm.get_batch_results()), np.stack(single))
    assert algorithm.get_additional()["index_bytes"] > 0
    algorithm.done()


def test_the_ann_benchmarks_class_refuses_what_it_does_not_know(drop_in: Any) -> None:
    with pytest.raises(ValueError, match="'jaccard'"):
        drop_in.Vicinal("jaccard", {})
    with pytest.raises(ValueError, match="efConstruction"):
        drop_in.Vicinal("angular", {"efConstruction": 100})
    config = (ROOT / "bench/ann_benchmarks/config.yml").read_text()
    assert "constructor: Vicinal\n" in config
    assert "module: ann_benchmarks.algorithms.vicinal\n" in config


def test_held_out_points_are_measured_in_three_ways_beside_real_queries(tmp_path: Path) -> None:
    out = tmp_path / "heldout.json"
    words = ["heldout", "--points", "2000", "--queries", "50", "--held-out", "50"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found["recall"]) == {"queries", "unlinked", "removed", "repaired"}
    for recalls in found["recall"].values():
        assert len(recalls) == len(found["efs"])
        assert recalls[-1] >= 0.99, "a beam of 800 finds nearly all of 2,000 points"
    assert main(["heldout", "--points", "2000", "--queries", "5", "--held-out", "2000"]) == 2


def test_recall_asked_for_is_measured_beside_the_best_fixed_beam(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recall.json"
    words = ["recall", "--points", "3000", "--queries", "60", "--out", str(out)]
    assert main([*words, "--passes", "1"]) == 0
    rows = json.loads(out.read_text())["rows"]
    cells = {(r["by"], r["k"]) for r in rows}
    assert cells == {(by, k) for by in ("own", "given") for k in (1, 10, 100)}
    assert all(r["best_ef"] >= r["k"] and r["us"] > 0 < r["best_us"] for r in rows)
    assert all(0.5 < r["reached"][0] <= 1 and r["expected"] >= r["asked"] for r in rows)
    assert all(r["builds"] is None and not r["systematic"] for r in rows)
    assert main([*words, "--passes", "0", "--builds", "2"]) == 0
    for row in json.loads(out.read_text())["rows"]:
        assert row["off"] == pytest.approx(np.mean(row["reached"]) - row["asked"])
        assert row["builds"] == pytest.approx(np.std(row["reached"], ddof=1))
        assert "ratio" not in row
    capsys.readouterr()
    assert main(["recall", "--points", "400", "--queries", "60"]) == 2
    assert "400 points are too few" in capsys.readouterr().err
    assert main(["recall", "--points", "3000", "--queries", "40"]) == 2
    assert "40 queries are too few" in capsys.readouterr().err
    assert main([*words, "--builds", "0"]) == 2
    assert "--builds is 0" in capsys.readouterr().err


def test_early_ends_are_measured_beside_beams_of_one_width(tmp_path: Path) -> None:
    out = tmp_path / "ends.json"
    words = ["ends", "--points", "3000", "--queries", "60", "--passes", "2", "--out", str(out)]
    assert main(words) == 0
    curves = json.loads(out.read_text())["curves"]
    assert set(curves) == {"beam", "early end"}
    for made in curves.values():
        recalls = [point["recall"] for point in made["points"]]
        assert recalls[-1] >= max(recalls) - 0.02 > 0.9
        assert all(len(point["qps"]) == 2 and min(point["qps"]) > 0 for point in made["points"])


def test_goodput_is_held_against_the_peaks_next_to_it() -> None:
    assert most({0.9: [90, 91, 10], 1.1: [110, 105, 20], 1.25: [99, 120, 1]}) == 105
    assert share_of([90, 90, 60, 60], 100, 80) == pytest.approx((0.9 + 0.75) / 2)
    with pytest.raises(ValueError, match="--seconds 2 or more"):
        share_of([90], 100, 80)
