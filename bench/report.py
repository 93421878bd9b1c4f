"""Tables of one run, ratios of two with what chance makes of them, and curves as PNG.

A ratio's interval (90 %, Student's t of the logarithms) comes from how the processes of one run differ: every process
builds anew, and its figure is the median of its passes. With one process in each run there is no interval and no
verdict. Two runs were made at two times: the yardstick's ratio says by how much the machine itself differed, and a
difference no larger than that is not ours; other tenants of the machine can mislead all the same. Only `duel` compares
in turns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine

RECALLS = (0.90, 0.95, 0.99)
T_90 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)
"""Two-sided 90 % points of Student's t for 1, 2, ... degrees of freedom; beyond, the last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("runs", type=Path, nargs="+", help="one JSON file of `run`, or two")
    parser.add_argument("--png", type=Path, help="draw recall against QPS into this file")


def main(options: argparse.Namespace) -> int:
    """Print what the files say."""
    if len(options.runs) > 2:
        raise ValueError(f"{len(options.runs)} files; give one, or two to compare")
    results = [json.loads(path.read_text()) for path in options.runs]
    for path, result in zip(options.runs, results, strict=True):
        if result.get("kind") not in ("run", "duel-old", "duel-new"):
            raise ValueError(f"{path}: a result of `{result.get('kind')}`, not of `run` or `duel`")
    show(results, options.runs)
    if len(results) == 2:
        print()
        compare(*results)
    if options.png is not None:
        draw(results, options.runs, options.png)
        print(f"curves in {options.png}")
    return 0


def show(results: list[dict[str, Any]], paths: list[Path]) -> None:
    """Print each run: cost of building, and QPS where the curves reach a recall."""
    for path, result in zip(paths, results, strict=True):
        data = result["dataset"]
        print(
            f"{_label(result, path)}: {data['name']}, {data['points']:,} x {data['dim']}, {data['metric']}"
            f"{', synthetic' if data['synthetic'] else ''}; {result['machine']['cpu']}"
        )
        for name, of in _processes(result).items():
            middle = {figure: float(np.median(values)) for figure, values in of.items()}
            insert = "".join(
                f", {words} {middle[figure]:,.0f}/s"
                for figure, words in (
                    ("insert_batch_per_s", "inserts in batches"),
                    ("insert_single_per_s", "one by one"),
                )
                if figure in middle
            )
            print(
                f"  {name}: built in {middle['build_s']:.2f} s, "
                f"{middle['resident_bytes_per_vector']:.0f} bytes a vector resident "
                f"({middle['accounted_bytes_per_vector']:.0f} accounted){insert}"
            )
        rows: list[list[Any]] = []
        for (name, mode, threads), curves in _curves(result).items():
            speeds = [_text(speed_at(curves, r)) for r in RECALLS]
            points = [p for p in (_first_reaching(c, 0.95) for c in curves) if p is not None]
            tails = ["", ""]
            if points and "p50_us" in points[0]:
                tails = [f"{np.median([p[q] for p in points]):.0f}" for q in ("p50_us", "p99_us")]
            rows.append([name, mode, str(threads), *speeds, *tails])
        columns = ["target", "mode", "#threads", *(f"#QPS @{r:.2f}" for r in RECALLS)]
        machine.table([*columns, "#p50 us @0.95", "#p99 us @0.95"], rows)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Print and return the ratios of two runs, new over old, for what both measured."""
    if old["dataset"] != new["dataset"]:
        raise ValueError(
            f"the data sets differ: {old['dataset']} and {new['dataset']}; measure both on one"
        )
    found: list[dict[str, Any]] = []
    paired = bool(old.get("paired") and new.get("paired"))
    # Neighbours in time share what the machine does; there the ratio needs no correction.
    drift = 1.0 if paired else _drift(old, new)
    others = _curves(new)
    for key, curves in _curves(old).items():
        for recall in RECALLS:
            a, b = speed_at(curves, recall), speed_at(others.get(key, []), recall)
            if a is None or b is None:
                continue
            row = dict(zip(("target", "mode", "threads"), key, strict=True)) | {"recall": recall}
            found.append(row | _compared(a, b, drift, paired=paired))
    print(
        f"new over old, in {len(old['targets']) // len(_processes(old))} pairs of processes"
        if paired
        else f"new over old; the machine itself was {drift:.3f} times as fast in the new run by the yardstick"
    )
    machine.table(
        ["target", "mode", "#threads", "#recall", "#ratio", "90 % interval", "verdict"],
        [
            [
                r["target"],
                r["mode"],
                str(r["threads"]),
                f"{r['recall']:.2f}",
                f"{r['ratio']:.3f}",
                _interval(r),
                r["verdict"],
            ]
            for r in found
        ],
    )
    rows: list[list[Any]] = []
    before = _processes(old)
    for name, figures in _processes(new).items():
        for figure, values in figures.items():
            was = before.get(name, {}).get(figure)
            if was is not None:
                row = _compared(
                    was,
                    values,
                    drift,
                    smaller_is_better=not figure.endswith("per_s"),
                    paired=paired,
                )
                middle = [f"{np.median(v):,.4g}" for v in (was, values)]
                rows.append(
                    [name, figure, *middle, f"{row['ratio']:.3f}", _interval(row), row["verdict"]]
                )
    machine.table(["target", "figure", "#old", "#new", "#ratio", "90 % interval", "verdict"], rows)
    return found


def speed_at(curves: list[dict[str, Any]], recall: float) -> np.ndarray | None:
    """QPS at a recall, one figure for each process; None where one of them does not reach it."""
    speeds = [at_recall(curve, recall) for curve in curves]
    if not speeds or any(s is None for s in speeds):
        return None
    return np.array([np.median(s) for s in speeds if s is not None])


def at_recall(curve: dict[str, Any], recall: float) -> np.ndarray | None:
    """QPS at a recall, one for each pass: between measured points log-linear; None where it is not reached.

    Where the narrowest beam finds more already, its own speed stands.
    """
    points = sorted(curve["points"], key=lambda p: p["recall"])
    speeds = np.array([p["qps"] for p in points])
    recalls = np.array([p["recall"] for p in points])
    median = np.median(speeds, axis=1)
    # A setting that another beats in both recall and speed is moot.
    keep = [
        i for i in range(len(points)) if i == len(points) - 1 or median[i] > median[i + 1 :].max()
    ]
    speeds, recalls = speeds[keep], recalls[keep]
    above = int(np.searchsorted(recalls, recall))
    if above == len(recalls):
        return None
    if above == 0:
        return speeds[0]
    share = (recall - recalls[above - 1]) / (recalls[above] - recalls[above - 1])
    return np.exp((1 - share) * np.log(speeds[above - 1]) + share * np.log(speeds[above]))


def ratio_of(
    old: np.ndarray, new: np.ndarray, *, paired: bool = False
) -> tuple[float, float, float]:
    """Ratio of two runs' figures, one of each process, and its 90 % interval; without end where chance is unknown.

    paired : the i-th processes of both ran side by side, so that what they share cancels out.
    """
    a, b = np.log(old), np.log(new)
    ratio = float(np.exp(b.mean() - a.mean()))
    freedom = len(a) - 1 if paired else len(a) + len(b) - 2
    if freedom < 1:
        return ratio, 0.0, float("inf")
    if paired:
        error = (b - a).std(ddof=1) / np.sqrt(len(a))
    else:
        spread = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / freedom
        error = np.sqrt(spread * (1 / len(a) + 1 / len(b)))
    reach = T_90[min(freedom, len(T_90)) - 1] * error
    return ratio, float(ratio * np.exp(-reach)), float(ratio * np.exp(reach))


def verdict(
    ratio: float, low: float, high: float, drift: float, *, smaller_is_better: bool = False
) -> str:
    """What a ratio proves, given its interval and how much the machine itself changed."""
    if not np.isfinite(high):
        return "one process each: no verdict"
    if low <= 1 <= high:
        return "within noise"
    if abs(np.log(ratio)) <= abs(np.log(drift)):
        return "no more than the machine's own change"
    return "better" if (ratio > 1) != smaller_is_better else "worse"


def draw(results: list[dict[str, Any]], paths: list[Path], png: Path) -> None:
    """Curves of batches and of single calls, one picture each."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    modes = sorted({mode for r in results for _, mode, _ in _curves(r)})
    figure, axes = plt.subplots(1, len(modes), figsize=(7 * len(modes), 5), squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        for i, (path, result) in enumerate(zip(paths, results, strict=True)):
            for (name, of, threads), curves in _curves(result).items():
                if of != mode:
                    continue
                label: str | None = f"{name}, {threads} threads"
                if len(results) > 1:
                    label = f"{_label(result, path)}: {label}"
                colour = None
                for curve in curves:
                    points = sorted(curve["points"], key=lambda p: p["recall"])
                    # Distance from perfect, logarithmic: 0.99 and 0.999 are far apart in cost.
                    missed = [max(1 - p["recall"], 1e-4) for p in points]
                    speeds = np.median([p["qps"] for p in points], axis=1)
                    line = axis.plot(
                        missed, speeds, "o-" if i == 0 else "s--", label=label, ms=3, color=colour
                    )
                    # One line for each process, in one colour and once in the legend.
                    label, colour = None, line[0].get_color()
        axis.set(xscale="log", yscale="log", title=f"{mode} calls, {results[0]['dataset']['name']}")
        axis.set(xlabel=f"recall@{results[0]['dataset']['k']}", ylabel="queries per second")
        ticks = [t for t in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001) if t]
        axis.set_xticks(ticks, [f"{1 - t:g}" for t in ticks], minor=False)
        axis.set_xticks([], minor=True)
        axis.invert_xaxis()
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(png, dpi=130)
    plt.close(figure)


Key = tuple[str, str, int]
"""Target, mode, threads."""


def _curves(result: dict[str, Any]) -> dict[Key, list[dict[str, Any]]]:
    """The curves of each kind, one for each process."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for target in result["targets"]:
        for curve in target["curves"]:
            found.setdefault((target["name"], curve["mode"], curve["threads"]), []).append(curve)
    return found


def _processes(result: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """For each target its figures besides the curves, one value for each process."""
    found: dict[str, dict[str, list[float]]] = {}
    for target in result["targets"]:
        for figure, value in target.items():
            if isinstance(value, float):
                found.setdefault(target["name"], {}).setdefault(figure, []).append(value)
    return {n: {f: np.array(v) for f, v in of.items()} for n, of in found.items()}


def _compared(
    old: np.ndarray,
    new: np.ndarray,
    drift: float,
    *,
    smaller_is_better: bool = False,
    paired: bool = False,
) -> dict[str, Any]:
    ratio, low, high = ratio_of(old, new, paired=paired)
    said = verdict(ratio, low, high, drift, smaller_is_better=smaller_is_better)
    return {"ratio": ratio, "low": low, "high": high, "verdict": said}


def _interval(row: dict[str, Any]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}" if np.isfinite(row["high"]) else "unknown"


def _label(result: dict[str, Any], path: Path) -> str:
    return result.get("label") or path.stem


def _drift(old: dict[str, Any], new: dict[str, Any]) -> float:
    """How many times as fast the machine was in the new run."""
    a, b = (np.median([s for t in r["targets"] for s in t["yardstick_s"]]) for r in (old, new))
    return float(a / b)


def _first_reaching(curve: dict[str, Any], recall: float) -> dict[str, Any] | None:
    enough = [p for p in curve["points"] if p["recall"] >= recall]
    return min(enough, key=lambda p: p["ef"]) if enough else None


def _text(speeds: np.ndarray | None) -> str:
    return "not reached" if speeds is None else f"{np.median(speeds):,.0f}"
