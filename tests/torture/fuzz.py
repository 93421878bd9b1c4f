"""Every parser against mutated input: an answer or one of our errors, in a second and in 512 MiB.

A target has a corpus of sound inputs and a function that reads one. Case n of a target is made from the seed and n
alone, so that a failure is one command to repeat. Half of the cases of a format under checksums get new checksums
after the mutation, so that what lies behind the check is reached too. The reading happens in a process of its
own, limited in memory and in processor time for each case, so that a crash or a hang ends only it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from fuzz_outside import OUTSIDE
from fuzz_parts import Target
from fuzz_targets import OWN
from report import Result

from vicinal.model.errors import VicinalError

PURPOSE = "mutated input to every parser"
CASE_S_MAX = 1.0
MEMORY_BYTES_MAX = 512 * 2**20
FAILURES_MAX = 3
WAIT_FACTOR = 2
"""A target that waits for the disk gets so many times its budget by the clock."""
TARGETS = {target.name: target for target in [*OWN, *OUTSIDE]}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--target", action="append", choices=sorted(TARGETS))
    parser.add_argument(
        "--budget",
        type=float,
        default=3.0,
        help="seconds of processor time for each target, twice that at most where it waits for the disk (60)",
    )
    parser.add_argument("--case", type=int, help="only this case")


def mutate(raw: bytes, others: list[bytes], tokens: list[bytes], rng: random.Random) -> bytes:
    """One to a few changes of every kind."""
    made = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        size = len(made)
        at = rng.randrange(size + 1)
        # Headers are at the front, and most of what there is to break with them.
        at = min(at, rng.choice([size, size, 64, 256, 4096]))
        kind = rng.randrange(9)
        if kind == 0 and at < size:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < size:
            made[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind == 2:
            width = rng.choice([2, 4, 8])
            value = rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.randrange(2**64)])
            made[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif kind == 3:
            del made[at : at + rng.choice([1, 2, 16, 512])]
        elif kind == 4:
            made[at:at] = rng.randbytes(rng.choice([1, 2, 16]))
        elif kind == 5:
            made[at:at] = made[at : at + rng.choice([1, 8, 64, 512])] * rng.choice([1, 2, 50])
        elif kind == 6 and tokens:
            made[at:at] = rng.choice(tokens) * rng.choice([1, 1, 1, 3, 200])
        elif kind == 7:
            other = rng.choice(others)
            made[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            del made[at:]
    return bytes(made[: 4 * 2**20])


def case_of(target: Target, corpus: list[bytes], seed: int, number: int) -> bytes:
    """Input `number`."""
    rng = random.Random(f"{seed} {target.name} {number}")
    made = mutate(rng.choice(corpus), corpus, target.tokens, rng)
    if target.repair is not None and rng.random() < 0.5:
        made = target.repair(made)
    return made


def work(name: str, seed: int, first: int, budget_s: float, only: bool, folder: Path) -> None:
    """Run cases from `first` on until the budget is over; the last line of `progress` is the case under way."""
    target = TARGETS[name]
    corpus = target.corpus(folder)
    for raw in corpus:
        target.read(raw, folder)  # sound input is read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if not target.reserves:
        limit = mapped + MEMORY_BYTES_MAX
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    progress = os.open(folder / "progress", os.O_WRONLY | os.O_CREAT)
    end, late = time.process_time() + budget_s, time.monotonic() + WAIT_FACTOR * budget_s
    number, refused = first, 0
    while only or (time.process_time() < end and time.monotonic() < late):
        raw = case_of(target, corpus, seed, number)
        os.pwrite(progress, b"%020d" % number, 0)
        signal.setitimer(signal.ITIMER_PROF, CASE_S_MAX)  # kills, also inside of native code
        try:
            target.read(raw, folder)
        except VicinalError:
            refused += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        number += 1
        if only:
            break
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    sys.stdout.write(json.dumps({"cases": number - first, "refused": refused, "grown": grown}))


def _children_s() -> float:
    """Processor time of the reading processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_target(name: str, options: argparse.Namespace, folder: Path, result: Result) -> None:
    """One target to the end of its budget; a failure costs its case."""
    first = options.case or 0
    end = _children_s() + options.budget
    cases = refused = failures = 0
    folder.mkdir(exist_ok=True)
    while True:
        left = max(0.05, end - _children_s())
        command = [__file__, name, options.seed, first, left, int(options.case is not None), folder]
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": "1"},
        )
        if done.returncode == 0:
            told = json.loads(done.stdout)
            cases += told["cases"]
            refused += told["refused"]
            if told["grown"] > MEMORY_BYTES_MAX:
                result.violations.append(f"{name}: memory grew by {told['grown']} bytes")
            break
        progress = folder / "progress"
        if not progress.exists():
            raise RuntimeError(f"fuzz target {name} does not start: {done.stderr[-3000:]}")
        case = int(progress.read_text())
        how = "no answer within a second" if done.returncode == -signal.SIGPROF else "failed"
        last = "\n      ".join(done.stderr.strip().splitlines()[-4:])
        result.violations.append(
            f"{name} {how} (status {done.returncode}): fuzz --seed {options.seed} --target {name} "
            f"--case {case}\n      {last}"
        )
        cases += case - first + 1
        failures += 1
        first = case + 1
        if failures == FAILURES_MAX or options.case is not None or _children_s() > end:
            break
    result.figures[name] = f"{cases} cases, {refused} refused, {failures} failures"


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Every target."""
    result = Result("fuzz", f"fuzz --seed {options.seed} --budget {options.budget}")
    for name in options.target or sorted(TARGETS):
        run_target(name, options, folder / name, result)
    return result


if __name__ == "__main__":
    try:
        work(
            sys.argv[1],
            int(sys.argv[2]),
            int(sys.argv[3]),
            float(sys.argv[4]),
            sys.argv[5] == "1",
            Path(sys.argv[6]),
        )
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
