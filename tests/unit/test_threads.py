"""How many threads native code takes: what the process may use, unless the environment or a call says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import numpy as np
from vicinal.index import FlatIndex
from vicinal.native import _ext

threads = int(sys.argv[1])
index = FlatIndex(dim=8, metric="l2")
index.add(np.zeros((5_000, 8), np.float32))
before = len(os.listdir("/proc/self/task"))
index.search(np.zeros((64, 8), np.float32), k=1, threads=threads)
print(_ext.hardware_threads(), len(os.listdir("/proc/self/task")) - before + 1)
"""

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")


def threads_of(*, environment: dict[str, str], core: int | None = None) -> tuple[int, int]:
    """(threads worth running, threads that a batch search had) in a new process."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "0"],
        env={k: v for k, v in os.environ.items() if k != "VICINAL_THREADS"} | environment,
        preexec_fn=pin,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    worth, had = done.stdout.split()
    return int(worth), int(had)


@linux
def test_threads_are_as_many_as_the_process_may_use() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    worth, had = threads_of(environment={})
    assert 1 <= worth <= len(allowed)  # a quota of the container may lower it
    assert had == worth
    assert threads_of(environment={}, core=allowed[0]) == (1, 1)


@linux
@pytest.mark.parametrize("wanted", [1, 3])
def test_the_environment_overrides_the_number_of_threads(wanted: int) -> None:
    assert threads_of(environment={"VICINAL_THREADS": str(wanted)})[1] == wanted
