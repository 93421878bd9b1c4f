"""A script of fifty operations, interrupted at every call that changes the disk, one after the other.

Two ways. Through the file-system port, in process: our own files, whose n-th call fails with EIO or ENOSPC, is the
process's last, or is a power cut that takes what was not synced; and every write cut short. Through strace:
every system call of every file, RocksDB's included, at which the process is killed, or which fails with EIO or
ENOSPC. A call is named by its file, its kind and which of its kind on that file it is, since threads have counters
of their own.
"""

from __future__ import annotations

import argparse
import copy
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import journal
from line_process import LineProcess
from model import Model
from oracle import Violation, verify
from report import Deadline, Result
from script_process import DIM, DTYPE, METRIC

import vicinal

PURPOSE = "every system call of a script: killed, EIO, ENOSPC, short writes, a power cut"
CALLS = (
    "write,pwrite64,pwritev,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,fallocate"
)
FAULTS = {"kill": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}
PORT_FAULTS = {
    "EIO": str(errno.EIO),
    "ENOSPC": str(errno.ENOSPC),
    "crash": "crash",
    "power": "power",
}
RUN_S_MAX = 30.0
TRIES = 4
_LINE = re.compile(r"^(?P<tid>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
_NAMED_ANEW = re.compile(r"\.tmp-\d+-\d+$")  # by the process
_PATH = re.compile(r"\d+<([^>]*)>|\"((?:[^\"\\]|\\.)*)\"")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--operations", type=int, default=50)
    parser.add_argument("--every", type=int, default=25, help="every n-th call (1 is all of them)")
    parser.add_argument("--first", type=int, default=1, help="the call to begin with")
    parser.add_argument("--seconds", type=float, help="stop after so long, and say where")
    parser.add_argument("--durability", default="sync", choices=["sync", "interval", "none"])
    parser.add_argument("--way", default="both", choices=["both", "port", "strace"])
    parser.add_argument(
        "--call", action="append", help="only such system calls: rename, fsync, ..."
    )
    parser.add_argument("--file", help="only calls on files whose path contains this")
    parser.add_argument("--fault", action="append", help="of one way only: kill, EIO, ENOSPC, ...")


@dataclass(frozen=True)
class Point:
    """The `nth` call of a kind on a file by one thread, or on any file by the first, if its name is new each time."""

    call: str
    file: str
    nth: int
    is_named_anew: bool = False

    def __str__(self) -> str:
        return f"{self.call} {self.nth} of {self.file}"


class Script(LineProcess):
    """Runs the script with a fault, and compares what is left with its journal."""

    def __init__(
        self, folder: Path, seed: int, operations: int, durability: str, bug: str | None = None
    ) -> None:
        self.folder = folder
        self.directory, self.gate = folder / "db", folder / "gate"
        self.journal, self.counted = folder / "journal", folder / "counted"
        self.options: dict[str, Any] = {
            "directory": str(self.directory),
            "journal": str(self.journal),
            "gate": str(self.gate),
            "counted": str(self.counted),
            "seed": seed,
            "operations": operations,
            "durability": durability,
            "bug": bug,
            "fault": None,
            "nth": 0,
        }
        os.mkfifo(self.gate)
        super().__init__(Path(__file__).with_name("script_process.py"), errors=folder / "errors")

    def run(
        self, strace: list[str] | None = None, *, fault: str | None = None, nth: int = 0
    ) -> int:
        """Go through the script from an empty directory; returns the exit status."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for file in (self.journal, self.counted):
            file.unlink(missing_ok=True)
        options = self.options | {"fault": fault, "nth": nth}
        self.tell(json.dumps(options))
        pid = self.pid = int(self.hear().split()[0])
        tracer: subprocess.Popen[bytes] | None = None
        if strace is not None:
            tracer = subprocess.Popen(
                ["strace", *strace, "-p", str(pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _wait_for_tracer(pid, tracer)
        with self.gate.open("w"):  # the script goes on
            said = self.hear().split()
        if tracer is not None:
            tracer.wait()
        if said[1] != "dead":
            raise RuntimeError(f"the script says {said}: {self.errors.read_text()[-3000:]}")
        return int(said[2])

    def check(self, status: int) -> Counter[str]:
        """Compare the directory with the journal."""
        if status not in (0, -signal.SIGKILL):
            raise Violation(f"ended with {status}: {self.errors.read_text()[-2000:]}")
        done, pending = journal.read(self.journal)
        model = Model(DIM, METRIC, DTYPE)
        for operation, answer in done:
            expected = journal.replay(model, operation)
            if answer != expected:
                raise Violation(f"{operation['kind']} answered {answer}, not {expected}")
        candidates = [model]
        if pending is not None:
            candidates.append(copy.deepcopy(model))
            journal.replay(candidates[1], pending)
        met = Counter({"operations acknowledged": len(done)})
        try:
            verify(self.directory, candidates)
        except vicinal.NotADatabaseError:
            if model.points:
                raise Violation("the database is gone") from None
        except vicinal.VicinalError as fault:
            raise Violation(f"{type(fault).__name__}: {fault}") from fault
        return met


def _wait_for_tracer(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + RUN_S_MAX
    while time.monotonic() < end:
        if tracer.poll() is not None:
            raise RuntimeError("strace is not permitted here")
        status = Path(f"/proc/{pid}/status").read_text()
        if "TracerPid:\t0\n" not in status:
            return
        time.sleep(0.001)
    raise RuntimeError(f"strace did not attach within {RUN_S_MAX:.0f} s")


def points_of(script: Script) -> list[Point]:
    """The calls of an undisturbed run that touch the database, in their order."""
    trace = script.folder / "trace"
    status = script.run(["-f", "-y", "-o", str(trace), "-e", f"trace={CALLS}"])
    script.check(status)
    # strace counts the calls of each thread by themselves: a file that several threads touch, as RocksDB's
    # flushes do, has an n-th call for each of them.
    counts: Counter[tuple[str, str, str]] = Counter()
    points: dict[Point, None] = {}
    for line in trace.read_text(errors="replace").splitlines():
        found = _LINE.match(line)
        if found is None or "resumed>" in line[:40]:
            continue
        call, thread = found["call"], found["tid"]
        counts[thread, call, ""] += 1
        paths = [a or b for a, b in _PATH.findall(found["rest"])]
        mine = [p for p in paths if p.startswith(str(script.directory))]
        if not mine:
            continue
        # Of two paths strace compares the first.
        file = mine[0] if call.startswith(("rename", "link")) else mine[-1]
        if _NAMED_ANEW.search(file) and thread == str(script.pid):
            points[Point(call, file, counts[thread, call, ""], is_named_anew=True)] = None
            continue
        counts[thread, call, file] += 1
        points[Point(call, file, counts[thread, call, file])] = None
    return [*points]


def by_strace(
    script: Script, faults: list[str], options: argparse.Namespace, result: Result
) -> None:
    """Every system call; figures and violations go into result."""
    points = points_of(script)
    result.figures["system calls of the script"] = len(points)
    result.figures["of them RocksDB's"] = sum("/store/" in p.file for p in points)
    over = Deadline(options.seconds)
    met: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for number in range(options.first, len(points) + 1, options.every):
        if over:
            result.figures["stopped before call"] = number
            break
        point = points[number - 1]
        if options.call and point.call not in options.call:
            continue
        if options.file and options.file not in point.file:
            continue
        for fault in faults:
            met[f"{fault}: calls"] += 1
            came = False
            # Which thread of RocksDB's does a piece of work is the scheduler's choice: a call may come next time.
            for _ in range(TRIES):
                status, came = _interrupted(script, point, fault)
                met[f"{fault}: runs"] += 1
                try:
                    script.check(status)
                except Violation as fault_found:
                    result.violations.append(f"call {number} ({point}), {fault}: {fault_found}")
                if came:
                    break
            met[f"{fault}: calls that it came at"] += came
            if not came:
                missed[f"{point.call} of {_sort_of_file(point.file)}"] += 1
    result.figures.update(sorted(met.items()))
    if missed:
        result.figures["never came"] = ", ".join(f"{n} {what}" for what, n in missed.most_common())


def _interrupted(script: Script, point: Point, fault: str) -> tuple[int, bool]:
    """Run the script with a fault at a call; returns its exit status and whether the call came."""
    trace = script.folder / "trace"
    inject = f"inject={point.call}:{FAULTS[fault]}:when={point.nth}"
    where = [] if point.is_named_anew else ["-f", "-P", point.file]
    status = script.run([*where, "-o", str(trace), "-e", f"trace={point.call}", "-e", inject])
    return status, status == -signal.SIGKILL or "INJECTED" in trace.read_text(errors="replace")


def _sort_of_file(name: str) -> str:
    return re.sub(r"\d+", "N", Path(name).name)


def by_port(script: Script, faults: list[str], options: argparse.Namespace, result: Result) -> None:
    """Every call of our own files."""
    met: Counter[str] = Counter()
    status = script.run(fault="short")
    _judge(script, status, "short writes", result)
    calls = len(script.counted.read_text().split())
    result.figures["calls of our own files"] = calls
    over = Deadline(options.seconds)
    for fault in faults:
        for nth in range(options.first, calls + 1, options.every):
            if over:
                result.figures[f"own files, {fault}: stopped before call"] = nth
                break
            status = script.run(fault=PORT_FAULTS[fault], nth=nth)
            met[f"own files, {fault}: runs"] += 1
            _judge(script, status, f"own call {nth}, {fault}", result)
    result.figures.update(met)


def _judge(script: Script, status: int, what: str, result: Result) -> None:
    try:
        script.check(status)
    except Violation as fault:
        result.violations.append(f"{what}: {fault}")


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Both ways."""
    replay = (
        f"sweep --seed {options.seed} --operations {options.operations} --every {options.every} "
        f"--first {options.first} --durability {options.durability} --way {options.way}"
        + "".join(f" --call {call}" for call in options.call or ())
        + (f" --file {options.file}" if options.file else "")
    )
    result = Result("sweep", replay)
    folder = folder.resolve()
    script = Script(folder, options.seed, options.operations, options.durability)
    try:
        if options.way in ("both", "port"):
            chosen = [f for f in options.fault or PORT_FAULTS if f in PORT_FAULTS]
            by_port(script, chosen, options, result)
        if options.way in ("both", "strace"):
            if shutil.which("strace") is None:
                result.figures["system calls"] = "strace is not installed: not swept"
            else:
                by_strace(
                    script, [f for f in options.fault or FAULTS if f in FAULTS], options, result
                )
    finally:
        with suppress(BrokenPipeError):
            script.close()
    return result
