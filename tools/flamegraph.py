"""Draws a flame graph: `perf script | tools/flamegraph.py TITLE > profile.svg`. No script in it, no font to load.

Each box is a function, as wide as its share of the samples; what it called stands above it. Hovering shows the name
and the share (an SVG title).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html import escape
from zlib import crc32

WIDTH, ROW, CHAR = 1200, 17, 6.6
SHARE_MIN = 0.002
"""Boxes below this share of the samples are left out."""

FRAME = re.compile(r"\s*[0-9a-f]+ (?P<name>.+?)(?:\+0x[0-9a-f]+)? \((?P<file>.*)\)\s*$")


@dataclass
class Box:
    """A function at one place of the stacks."""

    samples: int = 0
    calls: dict[str, Box] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Rows that it and its calls take."""
        return 1 + max((box.depth for box in self.calls.values()), default=0)


def fold(lines: list[str]) -> Box:
    """The stacks that `perf script` prints, outermost call first, put together."""
    root = Box()
    stack: list[str] = []
    for line in [*lines, ""]:
        frame = FRAME.match(line)
        if frame:
            name, file = frame["name"], frame["file"].rpartition("/")[2]
            name = re.sub(r"\(.*", "", name.replace("(anonymous namespace)::", ""))
            stack.append(f"[{file}]" if name == "[unknown]" else name)
        elif not line.strip() and stack:
            box = root
            box.samples += 1
            for name in reversed(stack):
                box = box.calls.setdefault(name, Box())
                box.samples += 1
            stack = []
    return root


def draw(root: Box, title: str) -> str:
    """The picture as SVG."""
    rows = root.depth
    height = (rows + 2) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="{ROW - 4}">'
        f"{escape(title)}: {root.samples:,} samples</text>",
    ]

    def put(name: str, box: Box, x: float, row: int) -> None:
        wide = WIDTH * box.samples / root.samples
        y = height - (row + 1) * ROW
        share = box.samples / root.samples
        hue = 10 + crc32(name.encode()) % 45
        letters = int((wide - 4) / CHAR)
        label = name if len(name) <= letters else name[: max(0, letters - 1)] + "…"
        parts.append(
            f"<g><title>{escape(name)}: {share:.1%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 1}" fill="hsl({hue} 85% 68%)"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(label)}</text>' if letters > 2 else "")
            + "</g>"
        )
        at = x
        for called, inner in sorted(box.calls.items(), key=lambda item: -item[1].samples):
            if inner.samples >= SHARE_MIN * root.samples:
                put(called, inner, at, row + 1)
            at += WIDTH * inner.samples / root.samples

    put("all", root, 0.0, 0)
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Standard input to standard output."""
    root = fold(sys.stdin.read().splitlines())
    if root.samples == 0:
        sys.stderr.write("no stacks: give the output of `perf script` of a recording with -g\n")
        return 2
    sys.stdout.write(draw(root, " ".join(sys.argv[1:]) or "profile"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
