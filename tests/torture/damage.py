"""Damage to every kind of file of a database: found, or without effect; no wrong answer, crash or flood of memory.

Each case copies one sound database, damages one file of it (a flipped bit, a sector of zeros or of noise, a cut,
two blocks exchanged, the file gone), and lets a process of its own open it and ask for everything: all points with
vectors and payload, counts by filter, exact and approximate searches, the doctor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from inside import engine_of
from line_process import LineProcess
from model import read_all
from oracle import NoBackground
from report import Deadline, Result

import vicinal
from vicinal.engine.doctor import examine
from vicinal.model.errors import VicinalError

PURPOSE = "bit flips, cuts and swapped blocks in every kind of file"
ROWS, DIM = 900, 16
SECTOR = 512
CASE_S_MAX = 20
MEMORY_FACTOR = 2.0
VECTORS = np.random.default_rng(5).standard_normal((ROWS, DIM)).astype(np.float32)
QUERIES = np.random.default_rng(6).standard_normal((4, DIM)).astype(np.float32)
FILTERS = ("year >= 2010", "tag = 'b'", "note IS NULL")
WIDE = 10_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--cases", type=int, default=12, help="for each kind of file (200)")
    parser.add_argument(
        "--kind", action="append", help="only this kind of file: graph.bin, sst, ..."
    )
    parser.add_argument("--case", type=int, help="only this case of each kind")
    parser.add_argument("--seconds", type=float, help="stop after so long")


def make(path: Path) -> None:
    """A database with every kind of file: two segments, tables, a log, updates, expiry, a snapshot."""
    with mock.patch("vicinal.engine.database.Background", NoBackground), vicinal.open(path) as db:
        docs = db.collection("c", dim=DIM, M=8, ef_construction=40)
        payload = [{"year": 2000 + i % 20, "tag": "abc"[i % 3]} for i in range(ROWS)]
        for start in (0, ROWS // 2):
            end = start + ROWS // 2
            docs.upsert(
                ids=range(start, end), vectors=VECTORS[start:end], payload=payload[start:end]
            )
            state = engine_of(docs).state
            engine_of(docs).maintenance._seal(threads=1)
        docs.update(range(0, 100, 7), {"note": "late"})
        docs.update(range(100, 140, 7), expires_at=4e9)
        docs.delete(range(50, 60))
        db.snapshot("before")
        state.store.reclaim()
        docs.upsert(ids=["x", "y"], vectors=VECTORS[:2], payload=[{"year": 1}, {"year": 2}])
        # A copy of the open database is what a crash leaves: closing empties the log.
        shutil.copytree(path, path.with_name("sound"))


def answers(path: Path, *, read_only: bool = False) -> str:
    """Everything that a reader can ask, as one text."""
    said: list[Any] = []
    with vicinal.open(path, read_only=read_only) as db:
        docs = db.collection("c")
        digest = hashlib.sha256()
        each: list[str] = []
        for point in read_all(docs, with_vectors=True):
            head = [repr(point.id), point.version, point.payload]
            raw = json.dumps(head, sort_keys=True).encode() + point.vector.tobytes()
            digest.update(raw)
            each.append(hashlib.sha256(raw).hexdigest()[:16])
        said.append(digest.hexdigest())
        said.append([docs.stats()["status"], each])
        said.append([docs.count(where=where) for where in (None, *FILTERS)])
        for query in QUERIES:
            for where in (None, FILTERS[0]):
                hits = docs.search(query, k=10, where=where, exact=True)
                said.append([[repr(h.id), float(h.distance), h.payload] for h in hits])
                # An approximate search may take another way through a graph that was made anew.
                near = docs.search(query, k=10, where=where)
                if len(near) != len(hits) or len({h.id for h in near}) != len(near):
                    said.append("an approximate search of another length")
                strangers = [h for h in near if h.payload is None]
                said.append(len(strangers))
        said.append(_snapshot(db, path))
    return json.dumps(said)


def _snapshot(db: Any, path: Path) -> list[str]:
    """What the snapshot holds, restored, or that it was refused."""
    target = path.with_name(path.name + "-restored")
    try:
        vicinal.restore(path / "snapshots" / "before", target)
    except VicinalError:
        return ["refused"]
    try:
        with vicinal.open(target, read_only=True) as restored:
            docs = restored.collection("c")
            points = [[repr(p.id), p.version, p.payload] for p in read_all(docs)]
    except VicinalError as fault:
        return [f"restored, and does not open: {fault}"]
    shutil.rmtree(target, ignore_errors=True)
    return [hashlib.sha256(json.dumps(points).encode()).hexdigest()]


# ---------------------------------------------------------------------- the damage

Damage = Callable[[bytes, random.Random], bytes | None]


def _flip(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]


def _over(raw: bytes, rng: random.Random, junk: bytes) -> bytes:
    place = rng.randrange(0, len(raw), SECTOR)
    return (raw[:place] + junk + raw[place + len(junk) :])[: len(raw)]


def _zeros(raw: bytes, rng: random.Random) -> bytes:
    return _over(raw, rng, bytes(SECTOR))


def _noise(raw: bytes, rng: random.Random) -> bytes:
    return _over(raw, rng, rng.randbytes(SECTOR))


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _longer(raw: bytes, rng: random.Random) -> bytes:
    return raw + rng.choice([bytes(SECTOR), rng.randbytes(SECTOR), raw[:SECTOR]])


def _swap(raw: bytes, rng: random.Random) -> bytes:
    block = 4096 if len(raw) >= 8192 else max(1, len(raw) // 2)
    a, b = sorted(rng.sample(range(max(2, len(raw) // block)), 2))
    blocks = bytearray(raw)
    one, other = raw[a * block : (a + 1) * block], raw[b * block : (b + 1) * block]
    n = min(len(one), len(other))
    blocks[a * block : a * block + n], blocks[b * block : b * block + n] = other[:n], one[:n]
    return bytes(blocks)


def _gone(raw: bytes, rng: random.Random) -> None:
    return None


DAMAGES: dict[str, Damage] = {
    "flipped bit": _flip,
    "zeroed sector": _zeros,
    "noise": _noise,
    "cut": _cut,
    "longer": _longer,
    "swapped blocks": _swap,
    "gone": _gone,
}


def kind_of(path: Path) -> str:
    """The kind of a file by its name; snapshots count as their own."""
    place, name = "", path.name
    if "snapshots" in path.parts:  # flat: 0.segment.1.rows.bin, 0.store.000009.sst
        place = "snapshot "
        name = re.sub(r"^\d+\.(store|segment\.\d+)\.", "", name)
    if name.startswith(("MANIFEST-", "OPTIONS-")):
        return place + name.partition("-")[0]
    suffix = Path(name).suffix
    return place + (suffix[1:] if suffix in (".sst", ".log") else name)


def files_by_kind(sound: Path) -> dict[str, list[Path]]:
    """Files of a database that hold something, by kind."""
    kinds: dict[str, list[Path]] = {}
    for file in sorted(sound.rglob("*")):
        relative = file.relative_to(sound)
        if file.is_file() and file.stat().st_size:
            kinds.setdefault(kind_of(relative), []).append(relative)
    kinds.pop("LOG", None)  # RocksDB's diary, which nothing reads
    return kinds


def damage(target: Path, kind: str, files: list[Path], seed: int, case: int) -> str:
    """Damage one file of a copy; returns what was done."""
    rng = random.Random(f"{seed} {kind} {case}")
    name = list(DAMAGES)[case % len(DAMAGES)]
    file = target / rng.choice(files)
    made = DAMAGES[name](file.read_bytes(), rng)
    # A new file: the copy's files may be links to those of the sound one.
    file.unlink()
    if made is not None:
        file.write_bytes(made)
    return f"{name} in {file.relative_to(target)}"


# ---------------------------------------------------------------------- the process that looks


def look(path: Path, bug: str | None) -> None:
    """Answer on the standard output: a JSON object with what was found."""
    if bug is not None:
        import planted

        planted.BUGS[bug]()
    found: dict[str, Any] = {}
    try:
        found["answers"] = answers(path)
    except VicinalError as fault:
        found["refused"] = f"{type(fault).__name__}: {fault}"
    try:
        report = examine(path)
        found["findings"] = [str(f) for f in report.findings]
        found["healthy"] = report.healthy
    except VicinalError as fault:
        found["doctor"] = f"{type(fault).__name__}: {fault}"
    sys.stdout.write(json.dumps(found))


class Looker(LineProcess):
    """Forks a process for each case from one that has imported everything."""

    def __init__(self, folder: Path, bug: str | None) -> None:
        super().__init__(Path(__file__), bug or "", errors=folder / "errors")

    def look(self, path: Path) -> dict[str, Any]:
        """What a process found; `status` and `memory_bytes` say how it went."""
        self.tell(str(path))
        return json.loads(self.hear())


def serve(bug: str | None) -> None:
    """Fork for each path on the standard input; one line of JSON each."""
    import signal
    import traceback

    for line in sys.stdin:
        path = Path(line.strip())
        out = path.with_name("found")
        out.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(CASE_S_MAX)  # ends the process, also inside of native code
                with out.open("w") as file:
                    sys.stdout = file
                    look(path, bug)
                status = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            os._exit(status)
        _, status, usage = os.wait4(pid, 0)
        text = out.read_text() if out.exists() else ""
        found = json.loads(text) if text.endswith("}") else {}
        found |= {
            "status": os.waitstatus_to_exitcode(status),
            "memory_bytes": usage.ru_maxrss * 1024,
        }
        os.write(1, json.dumps(found).encode() + b"\n")


def judge(found: dict[str, Any], sound: dict[str, Any]) -> tuple[str, str | None]:
    """(outcome, violation): how a case ended, and why that is wrong if it is."""
    if found["status"] != 0:
        return "crash", f"ended with {found['status']}"
    if found["memory_bytes"] > MEMORY_FACTOR * sound["memory_bytes"]:
        return "memory", f"took {found['memory_bytes']} bytes, sound {sound['memory_bytes']}"
    if "refused" in found:
        if found.get("healthy"):
            return "refused", f"the doctor finds nothing where opening says {found['refused']}"
        return "refused", None
    if found["answers"] == sound["answers"]:
        return (
            "found by the doctor" if found.get("healthy") is not True else "harmless or mended"
        ), None
    mine, right = json.loads(found["answers"]), json.loads(sound["answers"])
    if mine[1][0] == "degraded":
        if found.get("healthy"):
            return "degraded", "the doctor finds nothing where a segment is lost"
        strangers = set(mine[1][1]) - set(right[1][1])
        counted = mine[2][0] == len(mine[1][1])
        if strangers or not counted:
            return "degraded", f"{len(strangers)} points are not as they were"
        return "served in part", None
    if mine[:-1] == right[:-1] and mine[-1] == ["refused"]:
        if found.get("healthy"):
            return "snapshot", "the doctor calls a snapshot sound that cannot be restored"
        return "snapshot refused", None
    return "wrong", "a wrong answer"


def run(options: argparse.Namespace, folder: Path, bug: str | None = None) -> Result:
    """Every kind of file."""
    only = "".join(f" --kind '{kind}'" for kind in options.kind or ())
    result = Result("damage", f"damage --seed {options.seed} --cases {options.cases}{only}")
    make(folder / "made")
    sound = folder / "sound"
    looker = Looker(folder, bug)
    over = Deadline(options.seconds)
    try:
        case_folder = folder / "case" / "db"
        shutil.copytree(sound, case_folder)
        reference = looker.look(case_folder)
        if reference["status"] or "answers" not in reference or not reference.get("healthy"):
            raise RuntimeError(
                f"the sound database: {reference} {looker.errors.read_text()[-2000:]}"
            )
        outcomes: Counter[str] = Counter()
        for kind, files in files_by_kind(sound).items():
            if options.kind and kind not in options.kind:
                continue
            cases = range(options.cases) if options.case is None else [options.case]
            met: Counter[str] = Counter()
            for case in cases:
                if over:
                    break
                shutil.rmtree(case_folder.parent)
                shutil.copytree(sound, case_folder)
                done = damage(case_folder, kind, files, options.seed, case)
                found = looker.look(case_folder)
                if "refused" in found and found.get("healthy"):
                    # The doctor came second: what recovery could not explain at first, it may have mended.
                    again = looker.look(case_folder)
                    if again.get("answers") == reference["answers"]:
                        met["refused once, then whole"] += 1
                        continue
                outcome, violation = judge(found, reference)
                met[outcome] += 1
                if violation is not None:
                    errors = looker.errors.read_text()[-600:] if found["status"] else ""
                    result.violations.append(f"{kind} case {case}, {done}: {violation} {errors}")
            outcomes += met
            result.figures[kind] = ", ".join(f"{n} {what}" for what, n in sorted(met.items()))
        result.figures["cases"] = sum(outcomes.values())
    finally:
        looker.close()
    return result


if __name__ == "__main__":
    serve(sys.argv[1] or None)
