"""Runs `python -m bench ...` over another build of the core: `tools/with_symbols.py EXTENSION steady --kind search`.

The installed extension is stripped of its symbols; a profiler needs them.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "vicinal.native._ext"


def main() -> int:
    """Load the extension in the place of the installed one, then run the harness."""
    extension = Path(sys.argv[1]).resolve(strict=True)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    spec = importlib.util.spec_from_file_location(NAME, extension)
    if spec is None or spec.loader is None:
        raise ImportError(f"{extension} is no extension module")
    sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from bench.__main__ import main as bench

    return bench(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
