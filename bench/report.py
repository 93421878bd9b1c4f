"""Tables of one run, ratios of two with what chance makes of them, and curves as PNG.

A ratio's interval comes from drawing the passes of both runs again and again (bootstrap, 90 %). Two runs were made at
two times: the yardstick's ratio says by how much the machine itself differed, and a difference no larger is not ours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine

RECALLS = (0.90, 0.95, 0.99)
DRAWS = 2_000


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
        if result.get("kind") != "run":
            raise ValueError(f"{path}: a result of `{result.get('kind')}`, not of `run`")
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
        for target in result["targets"]:
            insert = "".join(
                f", {words} {target[name]:,.0f}/s"
                for name, words in (
                    ("insert_batch_per_s", "inserts in batches"),
                    ("insert_single_per_s", "one by one"),
                )
                if name in target
            )
            print(
                f"  {target['name']}: built in {target['build_s']:.2f} s, "
                f"{target['resident_bytes_per_vector']:.0f} bytes a vector resident "
                f"({target['accounted_bytes_per_vector']:.0f} accounted){insert}"
            )
        rows: list[list[Any]] = []
        for target, curve in _curves(result):
            speeds = [_text(at_recall(curve, r)) for r in RECALLS]
            point = _first_reaching(curve, 0.95)
            p50, p99 = (
                ("", "")
                if point is None or "p50_us" not in point
                else (f"{point['p50_us']:.0f}", f"{point['p99_us']:.0f}")
            )
            rows.append([target, curve["mode"], str(curve["threads"]), *speeds, p50, p99])
        columns = ["target", "mode", "#threads", *(f"#QPS @{r:.2f}" for r in RECALLS)]
        machine.table([*columns, "#p50 us @0.95", "#p99 us @0.95"], rows)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Print and return the ratios of two runs, new over old, for what both measured."""
    if old["dataset"] != new["dataset"]:
        raise ValueError(
            f"the data sets differ: {old['dataset']} and {new['dataset']}; measure both on one"
        )
    found: list[dict[str, Any]] = []
    others = {_key(t, c): c for t, c in _curves(new)}
    drift = _drift(old, new)
    for target, curve in _curves(old):
        other = others.get(_key(target, curve))
        if other is None:
            continue
        for recall in RECALLS:
            a, b = at_recall(curve, recall), at_recall(other, recall)
            if a is None or b is None:
                continue
            ratio, low, high = ratio_of(a, b)
            row = {"target": target, "mode": curve["mode"], "threads": curve["threads"]}
            row |= {"recall": recall, "ratio": ratio, "low": low, "high": high}
            found.append(row | {"verdict": verdict(ratio, low, high, drift)})
    print(
        f"new over old; the machine itself was {drift:.3f} times as fast in the new run by the yardstick"
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
                f"{r['low']:.3f} to {r['high']:.3f}",
                r["verdict"],
            ]
            for r in found
        ],
    )
    before = {t["name"]: t for t in old["targets"]}
    rows = []
    for target in new["targets"]:
        was = before.get(target["name"])
        for name, value in target.items():
            if was is not None and isinstance(value, float) and was.get(name):
                rows.append([target["name"], name, was[name], value, f"{value / was[name]:.3f}"])
    machine.table(["target", "figure, measured once", "#old", "#new", "#ratio"], rows)
    return found


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


def ratio_of(old: np.ndarray, new: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the medians of two runs' passes, and the 90 % bootstrap interval of it."""
    rng = np.random.default_rng(0)
    a = np.median(rng.choice(old, (DRAWS, len(old))), axis=1)
    b = np.median(rng.choice(new, (DRAWS, len(new))), axis=1)
    low, high = np.percentile(b / a, [5, 95]).tolist()
    return float(np.median(new) / np.median(old)), low, high


def verdict(ratio: float, low: float, high: float, drift: float) -> str:
    """What a ratio proves, given its interval and how much the machine itself changed."""
    if low <= 1 <= high:
        return "within noise"
    if abs(np.log(ratio)) <= abs(np.log(drift)):
        return "no more than the machine's own change"
    return "faster" if ratio > 1 else "slower"


def draw(results: list[dict[str, Any]], paths: list[Path], png: Path) -> None:
    """Curves of batches and of single calls, one picture each."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    modes = sorted({c["mode"] for r in results for _, c in _curves(r)})
    figure, axes = plt.subplots(1, len(modes), figsize=(7 * len(modes), 5), squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        for i, (path, result) in enumerate(zip(paths, results, strict=True)):
            for target, curve in _curves(result):
                if curve["mode"] != mode:
                    continue
                points = sorted(curve["points"], key=lambda p: p["recall"])
                label = f"{target}, {curve['threads']} threads"
                if len(results) > 1:
                    label = f"{_label(result, path)}: {label}"
                # Distance from perfect, logarithmic: 0.99 and 0.999 are far apart in cost.
                missed = [max(1 - p["recall"], 1e-4) for p in points]
                speeds = np.array([p["qps"] for p in points])
                middle = np.median(speeds, axis=1)
                line = axis.plot(missed, middle, "o-" if i == 0 else "s--", label=label, ms=3)[0]
                axis.fill_between(
                    missed,
                    speeds.min(axis=1),
                    speeds.max(axis=1),
                    alpha=0.2,
                    color=line.get_color(),
                )
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


def _curves(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(t["name"], c) for t in result["targets"] for c in t["curves"]]


def _key(target: str, curve: dict[str, Any]) -> tuple[str, str, int]:
    return target, curve["mode"], curve["threads"]


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
