"""Asserts of the conformance suite explain themselves like those of a test file."""

import pytest

pytest.register_assert_rewrite(
    "conformance",
    "conformance_errors",
    "conformance_expiry",
    "conformance_points",
    "conformance_snapshots",
    "conformance_updates",
    "model",
)
