"""Log names: every logger of the product is a child of `vicinal`, silent unless the application configures logging."""

from __future__ import annotations

import logging


def get_logger(name: str) -> logging.Logger:
    """The logger `vicinal.<name>`."""
    return logging.getLogger(f"vicinal.{name}")


logging.getLogger("vicinal").addHandler(logging.NullHandler())
