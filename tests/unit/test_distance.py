"""Kernels through the binding, against NumPy, and what the binding refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from vicinal.model.errors import DimensionError, InvalidArgumentError
from vicinal.native import (
    best_isa,
    check_rows,
    cpu_info,
    crc32c,
    distances,
    hardware_threads,
    inverse_norms,
    supported_isas,
)

DTYPES = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "u8": np.uint8}
RELATIVE_ERROR_MAX = 2e-6  # of the sum of magnitudes: float32 sums of some thousand terms


def sample(dtype: str, n: int, dim: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype in ("f32", "f16"):
        return rng.normal(size=(n, dim)).astype(DTYPES[dtype])
    info = np.iinfo(DTYPES[dtype])
    return rng.integers(info.min, info.max, size=(n, dim), dtype=DTYPES[dtype], endpoint=True)


def terms(query: np.ndarray, rows: np.ndarray, kernel: str) -> np.ndarray:
    q, r = query.astype(np.float64), rows.astype(np.float64)
    return {"l2": lambda: (q - r) ** 2, "dot": lambda: q * r, "l1": lambda: np.abs(q - r)}[kernel]()


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("kernel", ["l2", "dot", "l1"])
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("dim", [1, 3, 31, 64, 100, 384, 1001])
def test_distances_agree_with_numpy(dtype: str, kernel: str, dim: int, isa: str) -> None:
    rows = sample(dtype, 13, dim)
    query = sample("f32" if dtype == "f16" else dtype, 1, dim, seed=2)[0]
    expected = terms(query, rows, kernel)
    got = distances(query, rows, kernel, isa)
    assert got.dtype == np.float32
    if dtype in ("i8", "u8"):
        assert np.array_equal(got, expected.sum(1).astype(np.float32))
    else:
        error = np.abs(got - expected.sum(1))
        assert np.all(error <= RELATIVE_ERROR_MAX * np.abs(expected).sum(1)), error.max()


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("bits", [8, 64, 120, 1024, 4104])
def test_hamming_counts_differing_bits(bits: int, isa: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 2, size=(9, bits), dtype=np.uint8)
    query = rng.integers(0, 2, size=bits, dtype=np.uint8)
    got = distances(np.packbits(query), np.packbits(rows, axis=1), "hamming", isa)
    assert np.array_equal(got, (rows != query).sum(1).astype(np.float32))


def test_unaligned_and_read_only_rows_are_accepted() -> None:
    raw = bytes(3) + sample("f32", 4, 10).tobytes()
    rows = np.frombuffer(raw, np.float32, 40, offset=3).reshape(4, 10)
    assert not rows.flags.writeable
    assert not rows.flags.aligned
    got = distances(np.zeros(10, np.float32), rows, "l1")
    assert np.allclose(got, np.abs(rows).sum(1), rtol=1e-6)


def test_no_rows_give_no_distances() -> None:
    assert distances(np.zeros(5, np.float32), np.zeros((0, 5), np.float32), "l2").shape == (0,)


@pytest.mark.parametrize(
    ("query", "rows", "kernel", "message"),
    [
        (
            np.zeros(4),
            np.zeros((2, 4), np.float32),
            "l2",
            "query is float64 of shape .4.; pass float32",
        ),
        (np.zeros(4, np.float32), np.zeros((2, 4)), "l2", "pass float32, float16, int8 or uint8"),
        (np.zeros(4, np.float32), np.zeros(4, np.float32), "l2", "two dimensions"),
        (np.zeros(4, np.float32), np.zeros((4, 2), np.float32).T, "l2", "not C-contiguous"),
        (np.zeros(4, np.float32), np.zeros((2, 8), np.float32)[:, ::2], "l2", "ascontiguousarray"),
        (np.zeros(4, np.float32), np.zeros((2, 4), np.float32), "cosine", "known are l2, dot, l1"),
        (np.zeros(4, np.float32), np.zeros((2, 4), np.float32), "hamming", "pass uint8"),
    ],
)
def test_the_binding_casts_nothing_and_says_what_to_pass(
    query: np.ndarray, rows: np.ndarray, kernel: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        distances(query, rows, kernel)


def test_a_query_of_another_dimension_is_refused() -> None:
    with pytest.raises(DimensionError, match="query has 4 elements, rows have 5"):
        distances(np.zeros(4, np.float32), np.zeros((2, 5), np.float32), "l2")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_rows_finds_the_first_bad_row_of_each_kind(dtype: type, bad: float) -> None:
    rows = np.ones((50, 33), dtype)
    assert check_rows(rows) == (-1, -1)
    rows[[20, 41], 32] = bad
    rows[[7, 30]] = 0
    rows[7, 3] = -0.0
    assert check_rows(rows) == (20, 7)


def test_check_rows_of_integers_finds_zero_rows() -> None:
    rows = np.ones((5, 9), np.int8)
    rows[3] = 0
    assert check_rows(rows) == (-1, 3)


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_inverse_norms_agree_with_numpy(dtype: str) -> None:
    rows = sample(dtype, 20, 77)
    rows[4] = 0
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    expected = np.divide(1, norms, out=np.zeros(20), where=norms > 0)
    assert np.allclose(inverse_norms(rows), expected, rtol=RELATIVE_ERROR_MAX, atol=0)


def test_norms_of_bits_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="f32, f16 and i8"):
        inverse_norms(np.zeros((2, 4), np.uint8))


def run_with_isa(name: str) -> subprocess.CompletedProcess[str]:
    code = "from vicinal.native import best_isa; print(best_isa())"
    environment = {**os.environ, "VICINAL_ISA": name}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_environment_lowers_the_instruction_set() -> None:
    assert best_isa() in supported_isas()
    assert run_with_isa("scalar").stdout.strip() == "scalar"
    failed = run_with_isa("mmx")
    assert failed.returncode != 0
    assert "VICINAL_ISA=mmx is unknown" in failed.stderr


def test_crc32c_matches_the_published_value_and_chains() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(5).bytes(100_003)
    assert crc32c(memoryview(data)[777:], crc32c(data[:777])) == crc32c(data)
    with pytest.raises(TypeError):
        crc32c("text")  # type: ignore[arg-type]


def test_cpu_info_names_the_threads() -> None:
    assert cpu_info()["threads"] == hardware_threads() >= 1
