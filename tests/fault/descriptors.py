"""How many descriptors this process has open below a folder, for tests of what gives them back."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def open_below(folder: Path) -> int:
    """Those of files that are deleted count too. Others of the process come and go with what its other tests left."""
    targets: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as that of the listing is
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(target.startswith(f"{folder}/") for target in targets)
