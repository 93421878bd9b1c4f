"""A pytest plugin that plants the bug named by VICINAL_BUG, so that a test file can show that it sees it."""

from __future__ import annotations

import os

import planted


def pytest_configure() -> None:
    """Plant it before any test is collected."""
    planted.BUGS[os.environ["VICINAL_BUG"]]()
