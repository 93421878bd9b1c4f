"""The import contracts hold, and each of them fails when it is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = (
    "import sys\n"
    "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"  # the editable install
    "sys.path.insert(0, 'src')\n"
    "from importlinter.cli import lint_imports\n"
    "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))\n"
)


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=root, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "src" / "vicinal",
        tmp_path / "src" / "vicinal",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    return tmp_path


def test_import_contracts_hold(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("model/metric.py", "import vicinal.engine", "layers point down"),
        ("engine/planner.py", "import vicinal.client.collection", "layers point down"),
        ("storage/names.py", "import vicinal.index", "layers point down"),
        ("engine/planner.py", "import vicinal.native", "only index touches the extension"),
        ("storage/names.py", "import vicinal.native", "storage knows no distances"),
        ("model/metric.py", "from vicinal import open", "layers point down"),
        ("engine/planner.py", "import grpc", "protocols stay at the door"),
        ("client/database.py", "import google.protobuf", "protocols stay at the door"),
    ],
)
def test_a_planted_violation_fails(copy: Path, file: str, statement: str, contract: str) -> None:
    target = copy / "src" / "vicinal" / file
    assert target.is_file(), f"{file} moved: plant the violation elsewhere"
    target.write_text(target.read_text() + f"\n{statement}\n")
    result = lint(copy)
    assert result.returncode != 0, "the contracts let a violation pass"
    assert f"{contract} BROKEN" in " ".join(result.stdout.split()), result.stdout


def test_a_folder_that_no_layer_names_fails(copy: Path) -> None:
    (copy / "src" / "vicinal" / "extras").mkdir()
    (copy / "src" / "vicinal" / "extras" / "__init__.py").write_text(
        '"""Nobody said where I stand."""\n'
    )
    assert lint(copy).returncode != 0


def test_native_code_outside_the_bindings_knows_no_python() -> None:
    guilty = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "native" / "src").rglob("*.?pp")
        if any(word in file.read_text() for word in ("<Python.h>", "nanobind", "pybind11"))
    ]
    assert guilty == []
