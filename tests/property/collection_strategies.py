"""Random ids, vectors, payloads and conditions that meet often: few fields, few values, all kinds."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from conditions import (
    FORMS,
    Between,
    Both,
    Compare,
    Condition,
    Contains,
    Either,
    In,
    IsNull,
    Like,
    Not,
)
from hypothesis import strategies as st

SPACES = [
    ("l2", "f32"),
    ("cosine", "f32"),
    ("ip", "f32"),
    ("manhattan", "f32"),
    ("l2", "f16"),
    ("cosine", "f16"),
    ("l2", "i8"),
    ("cosine", "i8"),
    ("ip", "i8"),
    ("hamming", "bit"),
]
"""Metric and dtype of an example."""

BULK_ROWS = 3_000

ID_KINDS = ("ints", "strings", "mixed")
SMALL_IDS = 30
BULK_BASE = 1_000
numbers_of_ids = st.integers(0, SMALL_IDS - 1) | st.integers(BULK_BASE, BULK_BASE + BULK_ROWS - 1)
id_lists = st.lists(numbers_of_ids, min_size=1, max_size=8, unique=True)

WORDS = ["en", "fr", "de", "news", "new", "", "it's", "é", "50%", "a_b"]
NUMBERS = [2019, 2020, 2020.0, 2020.5, 2021, 0, -3, 7, 2**53, 2**53 + 1, 1e300]
words = st.sampled_from(WORDS)
numbers = st.sampled_from(NUMBERS)
scalars = words | numbers | st.booleans()
missing_or_null = st.none()

payloads = st.fixed_dictionaries(
    {},
    optional={
        "lang": words | st.none(),
        "year": numbers | st.none() | words,
        "tags": st.lists(scalars | st.none(), max_size=3),
        "flag": st.booleans(),
        "meta": st.fixed_dictionaries(
            {}, optional={"author": words, "n": numbers | st.none(), "deep": st.just({"x": [1]})}
        ),
        "any": scalars | st.none() | st.lists(numbers, max_size=2) | st.just({"k": "v"}),
    },
)

paths = st.sampled_from(
    ["lang", "year", "tags", "flag", "meta.author", "meta.n", "meta", "any", "tags.0", "nowhere"]
)
order_paths = st.sampled_from(
    ["lang", "year", "flag", "meta.n", "meta.author", "any", "nowhere", "id"]
)
seeds = st.integers(0, 2**32 - 1)
forms = st.sampled_from(FORMS)
operators = st.sampled_from(["=", "<", "<=", ">", ">="])

_on_id = st.builds(
    Compare, st.just("id"), operators, st.integers(0, SMALL_IDS) | st.sampled_from(["k1", "k17"])
)
_leaves = st.one_of(
    st.builds(Compare, paths, operators, scalars),
    st.builds(Compare, st.sampled_from(["lang", "year"]), operators, words | numbers),
    st.builds(lambda p, b: Between(p, *b), paths, st.tuples(words, words)),
    st.builds(lambda p, b: Between(p, *b), paths, st.tuples(numbers, numbers)),
    st.builds(In, paths, st.lists(scalars, min_size=1, max_size=4).map(tuple)),
    st.builds(Like, paths, st.sampled_from(["%", "n%", "%w_", "_n", "", "%a%_%", "fr"])),
    st.builds(Contains, paths, scalars),
    st.builds(IsNull, paths),
    _on_id,
)
_joined: st.SearchStrategy[Condition] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Both, inner, inner), st.builds(Either, inner, inner)
    ),
    max_leaves=3,
)
# Shares of a bulk load (see make_payloads) for which the planner has a choice: 10 % to 85 %.
_shares = st.sampled_from(
    [
        Compare("year", "=", 2019),
        Compare("meta.n", "<", 1),
        Compare("meta.n", "<", 2),
        Compare("lang", "=", "fr"),
        Compare("lang", "=", "en"),
        IsNull("tags"),
        Not(Contains("tags", "de")),
        In("lang", ("de", "fr")),
    ]
)
conditions: st.SearchStrategy[Condition] = _shares | _joined


def point_id(kind: str, number: int) -> Any:
    """The id of a number: one of the three types, or all of them by turns."""
    if kind == "strings" or (kind == "mixed" and number % 3 == 1):
        return f"k{number}"
    return uuid.UUID(int=number) if kind == "mixed" and number % 3 == 2 else number


def make_vectors(seed: int, n: int, dim: int, metric: str, dtype: str) -> np.ndarray:
    """(n, columns) rows; even seeds draw from a coarse grid, so that there are ties and doubles."""
    rng = np.random.default_rng(seed)
    if dtype == "bit":
        return rng.integers(0, 256, (n, dim // 8), dtype=np.uint8)
    if dtype == "i8":
        rows = rng.integers(-3, 4, (n, dim)) if seed % 2 == 0 else rng.integers(-128, 128, (n, dim))
    elif seed % 2 == 0:
        rows = rng.integers(-4, 5, (n, dim)) / 2
    else:
        rows = rng.standard_normal((n, dim))
    if metric == "cosine":
        rows[~rows.any(axis=1)] = 1
    return rows.astype({"f32": np.float32, "f16": np.float16, "i8": np.int8}[dtype])


def make_payloads(seed: int, n: int) -> list[dict[str, Any]]:
    """Payloads of a bulk load, quick to draw."""
    rng = np.random.default_rng(seed)
    years = rng.choice([2019, 2020, 2020.5, 2021], n).tolist()
    langs = rng.choice(WORDS[:4], n, p=[0.6, 0.25, 0.13, 0.02]).tolist()
    counts = rng.integers(0, 10, n).tolist()
    return [
        {"year": year, "lang": lang, "meta": {"n": count}} | ({"tags": [lang]} if count < 3 else {})
        for year, lang, count in zip(years, langs, counts, strict=True)
    ]
