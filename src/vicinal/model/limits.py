"""Every bound of the product, in one place. Each has a test; raising one is a decision, not a patch."""

from __future__ import annotations

DIM_MAX = 65_536
K_MAX = 10_000
EF_MAX = 100_000
BATCH_QUERIES_MAX = 1_000_000
SEARCHES_MANY_MAX = 1_000
"""Searches of different kinds in one call."""
TIME_MS_MAX = 86_400_000
RECALL_K_MAX = 100
"""Results for which recall is calibrated; the extension's table ends there too."""
CALIBRATION_QUERIES_MIN, CALIBRATION_QUERIES_MAX = 25, 2_000
THREADS_MAX = 256
M_MIN, M_MAX = 4, 128
EF_CONSTRUCTION_MAX = 4_096
ID_BYTES_MAX = 1_024
PAYLOAD_BYTES_MAX = 16 * 2**20
PAYLOAD_DEPTH_MAX = 128
NAME_BYTES_MAX = 128
FILTER_TEXT_BYTES_MAX = 1 << 20
FILTER_DEPTH_MAX = 64
FILTER_NODES_MAX = 10_000
FILTER_LIST_MAX = 100_000
FILTER_NUMBER_CHARS_MAX = 400
PATH_DEPTH_MAX = 16
INDEXED_FIELDS_MAX = 256
SCROLL_LIMIT_MAX = 100_000
SAMPLE_POINTS_MAX, SAMPLE_BYTES_MAX = 10_000, 64 * 2**20
"""Points, and bytes of their vectors, in one sample of a collection."""
INT_ID_MIN, INT_ID_MAX = -(2**63), 2**63 - 1
TTL_S_MAX = 100 * 366 * 86_400
EXPIRES_AT_S_MAX = 253_402_300_799
"""The last second of the year 9999, where datetimes end."""
MEMORY_BUDGET_BYTES_MIN = 16 * 2**20
BUNDLE_FILES_MAX = 1_000_000
BUNDLE_MANIFEST_BYTES_MAX = 256 * 2**20
