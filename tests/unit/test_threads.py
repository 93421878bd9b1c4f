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

threads, queries = int(sys.argv[1]), int(sys.argv[2])
index = FlatIndex(dim=8, metric="l2")
index.add(np.zeros((5_000, 8), np.float32))
before = len(os.listdir("/proc/self/task"))
index.search(np.zeros((queries, 8), np.float32), k=1, threads=threads)
print(_ext.hardware_threads(), len(os.listdir("/proc/self/task")) - before + 1)
"""

WAKING = """
import resource, sys
import numpy as np
from vicinal.index import GraphIndex

index = GraphIndex(8, "l2")
index.add(np.random.default_rng(1).random((2_000, 8), np.float32))
queries = np.zeros((int(sys.argv[1]), 8), np.float32)
index.search(np.zeros((600, 8), np.float32), k=1, threads=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
for _ in range(200):
    index.search(queries, k=1, threads=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
"""

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")


def threads_of(
    *, environment: dict[str, str], core: int | None = None, queries: int = 64
) -> tuple[int, int]:
    """(threads worth running, threads that a search had) in a new process."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "0", str(queries)],
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


@linux
def test_a_single_search_wakes_no_thread() -> None:
    def switches(queries: int) -> int:
        """Voluntary context switches of 200 searches, with a pool of three threads that is there."""
        done = subprocess.run(
            [sys.executable, "-c", WAKING, str(queries)],
            env=os.environ | {"VICINAL_THREADS": "3"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert switches(1) < 20 < switches(600)
