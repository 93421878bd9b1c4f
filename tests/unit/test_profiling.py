"""What profiles are made with: steady work, another build of the core, flame graphs, the script that runs them."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import steady
from bench.__main__ import main

from vicinal.native import _ext

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "profile.sh"
SMALL = ["--points", "1500", "--queries", "20", "--seconds", "0.05"]

STACKS = """python 7 1.0: 2004008 cpu-clock:
\t    7f01 scan(int)+0x10 (/x/_ext.so)
\t    7f02 search (/x/_ext.so)
\t    5501 [unknown] (/usr/bin/python3)

python 7 1.1: 2004008 cpu-clock:
\t    7f01 scan(int)+0x20 (/x/_ext.so)
\t    7f02 search (/x/_ext.so)
\t    5501 [unknown] (/usr/bin/python3)

python 7 1.2: 2004008 cpu-clock:
\t    7f03 x::(anonymous namespace)::merge<a&b>(int, float) (/x/_ext.so)
\t    5501 [unknown] (/usr/bin/python3)
"""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("build", r"build: [\d,]+ points/s, [1-9]"),
        ("search", r"recall@10 (1\.0|0\.9)"),
        ("calls", r"p50 \d+ us, p95 \d+ us, p99 \d+ us, recall@10 (1\.0|0\.9)"),
        ("write", r"write: [\d,]+ points/s, durable, [1-9]"),
    ],
)
def test_each_kind_of_steady_work_says_its_rate(
    kind: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["steady", *SMALL, "--kind", kind]) == 0
    out = capsys.readouterr().out
    assert re.search(says, out)
    assert re.search(r"processor: \d+ % of one core", out)


def test_pauses_for_collecting_garbage_are_counted() -> None:
    pauses = steady.Pauses()
    gc.callbacks.append(pauses)
    gc.collect()
    gc.callbacks.remove(pauses)
    gc.collect()
    assert str(pauses).startswith("1 collections of garbage, the longest ")
    assert pauses.seconds[0] > 0


def test_what_steady_work_needs_beforehand_is_made_once(tmp_path: Path) -> None:
    words = ["steady", *SMALL, "--keep", str(tmp_path)]
    assert main(words) == 0
    (made,) = tmp_path.iterdir()
    before = made.stat().st_mtime_ns
    assert main(words) == 0
    assert made.stat().st_mtime_ns == before


def test_the_harness_runs_over_another_build_of_the_core(tmp_path: Path) -> None:
    copy = tmp_path / Path(str(_ext.__file__)).name
    copy.write_bytes(Path(str(_ext.__file__)).read_bytes())
    words = [sys.executable, "tools/with_symbols.py", str(copy), "steady", *SMALL]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "queries/s" in done.stdout
    loaded = "import runpy, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    loaded += "except SystemExit: print(sys.modules['vicinal.native._ext'].__file__)"
    asked = [sys.executable, "-c", loaded, *words[1:3], "kernels", "--only", "none"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(copy)


def test_a_flame_graph_has_each_function_as_wide_as_its_share() -> None:
    words = [sys.executable, str(ROOT / "tools" / "flamegraph.py"), "search"]
    done = subprocess.run(words, input=STACKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    picture = ElementTree.fromstring(done.stdout)  # noqa: S314 - our own
    svg = "{http://www.w3.org/2000/svg}"
    wide = {
        str(group.findtext(f"{svg}title")): float(group.find(f"{svg}rect").attrib["width"])  # type: ignore[union-attr]
        for group in picture.iter(f"{svg}g")
    }
    whole = wide["all: 100.0%"]
    assert wide["[python3]: 100.0%"] == whole
    assert wide["scan: 66.7%"] == pytest.approx(whole * 2 / 3, abs=0.1)
    assert wide["x::merge<a&b>: 33.3%"] == pytest.approx(whole / 3, abs=0.1)


def test_no_stacks_are_no_picture() -> None:
    words = [sys.executable, str(ROOT / "tools" / "flamegraph.py")]
    done = subprocess.run(words, input="", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "perf script" in done.stderr


def test_the_script_lists_its_parts_and_the_page_explains_each() -> None:
    done = subprocess.run(["bash", str(SCRIPT), "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    parts = re.findall(r"tools/profile\.sh (\w+)", done.stdout)
    assert len(parts) == 9
    page = (ROOT / "docs" / "profiling.md").read_text()
    assert [part for part in parts if f"`{part}`" not in page] == []
