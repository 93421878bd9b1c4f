"""Section files: what goes in comes out, and nothing damaged or hostile does."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    FormatVersionError,
    InvalidArgumentError,
    LimitError,
    StorageError,
)
from vicinal.storage.checksum import crc32c
from vicinal.storage.section_header import ALIGN_BYTES, BLOCK_BYTES, SECTIONS_MAX
from vicinal.storage.sections import Chunks, open_sections, write_sections

RNG = np.random.default_rng(7)
# Not a multiple of the block, so that the last block of the section is a short one.
ROWS = (3 * BLOCK_BYTES + 12_345) // 256


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "vectors.bin"
    write_sections(
        target,
        "vectors",
        {
            "vectors": RNG.standard_normal((ROWS, 64)).astype(np.float32),
            "ids": np.arange(100, dtype=np.int64),
            "none": np.empty((0, 5), np.uint8),
        },
        {"n": 100, "name": "ü", "nested": {"list": [1, 2.5, None, True]}, "raw": b"\x00\xff"},
    )
    return target


def test_arrays_and_meta_come_back(path: Path) -> None:
    with open_sections(path, "vectors") as sections:
        assert sections.names == ["vectors", "ids", "none"]
        assert sections["vectors"].shape == (ROWS, 64)
        assert sections["vectors"].dtype == np.float32
        assert np.array_equal(sections["ids"], np.arange(100))
        assert sections["none"].shape == (0, 5)
        assert sections.meta == {
            "n": 100,
            "name": "ü",
            "nested": {"list": [1, 2.5, None, True]},
            "raw": b"\x00\xff",
        }
        assert sections.kind == "vectors"
        assert sections.file_bytes == path.stat().st_size
        assert "ids" in sections
        assert "other" not in sections


@given(
    arrays=st.lists(
        hnp.arrays(
            st.one_of(
                hnp.boolean_dtypes(),
                hnp.integer_dtypes(endianness="<"),
                hnp.unsigned_integer_dtypes(endianness="<"),
                hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64)),
            ),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
        ),
        max_size=5,
    ),
    fortran=st.booleans(),
)
def test_any_array_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, arrays: list[np.ndarray[Any, Any]], fortran: bool
) -> None:
    path = tmp_path_factory.mktemp("sections") / "x"
    given_arrays = {
        f"s{i}": np.asfortranarray(array) if fortran else array for i, array in enumerate(arrays)
    }
    write_sections(path, "any", given_arrays, {})
    with open_sections(path, "any") as sections:
        for name, array in given_arrays.items():
            assert sections[name].shape == array.shape
            assert sections[name].dtype == array.dtype
            assert sections[name].tobytes() == array.tobytes()


def test_sections_are_aligned_and_read_only(path: Path) -> None:
    with open_sections(path, "vectors") as sections:
        for name in sections.names:
            array = sections[name]
            assert not array.flags.writeable
            if array.size:
                assert array.ctypes.data % ALIGN_BYTES == 0


def test_arrays_outlive_the_closed_file(path: Path) -> None:
    sections = open_sections(path, "vectors")
    ids = sections["ids"]
    sections.close()
    sections.close()
    assert ids.sum() == 4950
    with pytest.raises(ClosedError):
        sections["ids"]
    with pytest.raises(ClosedError):
        sections.verify()


def test_chunks_write_the_same_bytes_as_the_whole_array(tmp_path: Path) -> None:
    whole = RNG.integers(0, 255, (30_001, 100), dtype=np.uint8)

    def pieces() -> Iterator[np.ndarray[Any, Any]]:
        for start in range(0, len(whole), 777):
            yield whole[start : start + 777]

    write_sections(tmp_path / "a", "k", {"x": whole}, {})
    write_sections(tmp_path / "b", "k", {"x": Chunks(np.uint8, whole.shape, pieces())}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros(5, np.int64)], "hold 40 bytes"),
        ([np.zeros(8, np.int64), np.zeros(8, np.int64)], "more than the announced"),
        ([np.zeros(10, np.int32)], "dtype int32"),
    ],
)
def test_chunks_that_are_not_what_they_announce_are_refused(
    tmp_path: Path, arrays: list[np.ndarray[Any, Any]], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        write_sections(tmp_path / "a", "k", {"x": Chunks(np.int64, (10,), arrays)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["O", "U4", "S4", ">f4", "M8[s]", "c8", [("a", "i4")]])
def test_a_dtype_that_is_no_plain_number_is_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be stored"):
        write_sections(tmp_path / "a", "k", {"x": np.zeros(3, dtype)}, {})
    assert list(tmp_path.iterdir()) == []


def test_bounds_are_errors(tmp_path: Path) -> None:
    one = np.zeros(1, np.uint8)
    with pytest.raises(LimitError, match="sections"):
        write_sections(tmp_path / "a", "k", {str(i): one for i in range(SECTIONS_MAX + 1)}, {})
    with pytest.raises(LimitError, match="axes"):
        write_sections(tmp_path / "a", "k", {"x": one.reshape((1,) * 9)}, {})
    with pytest.raises(LimitError, match="meta"):
        write_sections(tmp_path / "a", "k", {"x": one}, {"big": bytes(65 * 2**20)})


def test_meta_larger_than_a_page_comes_back(tmp_path: Path) -> None:
    meta = {"ids": list(range(10_000))}
    write_sections(tmp_path / "a", "k", {"x": np.arange(3)}, meta)
    with open_sections(tmp_path / "a", "k") as sections:
        assert sections.meta == meta
        assert list(sections["x"]) == [0, 1, 2]


def test_another_kind_is_refused(path: Path) -> None:
    with pytest.raises(CorruptionError, match="holds 'vectors', expected 'graph'"):
        open_sections(path, "graph")


def test_an_unknown_section_is_named(path: Path) -> None:
    with (
        open_sections(path, "vectors") as sections,
        pytest.raises(CorruptionError, match="no section 'graph'"),
    ):
        sections["graph"]


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        open_sections(tmp_path / "none", "k")
    with pytest.raises(StorageError):
        open_sections(tmp_path, "k")


def test_writing_replaces_the_old_file_and_leaves_nothing_else(path: Path) -> None:
    with open_sections(path, "vectors") as old:
        ids = old["ids"]
        write_sections(path, "vectors", {"ids": np.zeros(3, np.int64)}, {})
        assert ids.sum() == 4950
    with open_sections(path, "vectors") as new:
        assert new.names == ["ids"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------------- damage


def test_each_flipped_bit_is_detected(path: Path) -> None:
    content = path.read_bytes()
    positions = {0, 7, 8, 12, 16, 24, 28, 32, 35, 36, 100, ALIGN_BYTES - 1, len(content) - 1}
    positions |= {ALIGN_BYTES, ALIGN_BYTES + BLOCK_BYTES - 1, ALIGN_BYTES + BLOCK_BYTES}
    positions |= {int(p) for p in RNG.integers(0, len(content), 150)}
    with path.open("r+b", buffering=0) as file:
        for position in sorted(positions):
            file.seek(position)
            file.write(bytes([content[position] ^ (1 << (position % 8))]))
            with pytest.raises((CorruptionError, FormatVersionError), match=r"vectors\.bin"):
                open_sections(path, "vectors")
            file.seek(position)
            file.write(content[position : position + 1])
    open_sections(path, "vectors").close()


def test_every_byte_of_a_small_file_is_under_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_sections(path, "k", {"a": np.arange(10), "b": np.arange(3, dtype=np.uint8)}, {"m": 1})
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            file.seek(position)
            file.write(bytes([byte ^ 0x80]))
            with pytest.raises((CorruptionError, FormatVersionError)):
                open_sections(path, "k")
            file.seek(position)
            file.write(bytes([byte]))


def test_damage_is_named_by_section_and_block(path: Path) -> None:
    with open_sections(path, "vectors", verify=False) as sections:
        offset = ALIGN_BYTES + 2 * BLOCK_BYTES + 5
        assert sections["vectors"].nbytes > 2 * BLOCK_BYTES
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
        with pytest.raises(CorruptionError, match=r"vectors\.bin: section 'vectors', block 2 "):
            sections.verify()


@pytest.mark.parametrize("keep", [0, 1, 35, 36, 4095, 4096, 5000, -1, -4096])
def test_a_cut_file_is_refused(path: Path, keep: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(CorruptionError):
        open_sections(path, "vectors", verify=False)


def test_a_grown_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(CorruptionError, match="written were"):
        open_sections(path, "vectors", verify=False)


def test_zeroed_and_swapped_blocks_are_detected(path: Path) -> None:
    content = path.read_bytes()
    first, second = ALIGN_BYTES, ALIGN_BYTES + BLOCK_BYTES
    zeroed = content[:first] + bytes(512) + content[first + 512 :]
    swapped = (
        content[:first]
        + content[second : second + BLOCK_BYTES]
        + content[first:second]
        + content[second + BLOCK_BYTES :]
    )
    for damaged in (zeroed, swapped):
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match="block 0"):
            open_sections(path, "vectors")


def test_a_newer_version_says_so(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 8, 2)
    struct.pack_into("<I", content, 32, crc32c(bytes(content[:32])))
    path.write_bytes(content)
    with pytest.raises(FormatVersionError, match="section format 2"):
        open_sections(path, "vectors")


# ---------------------------------------------------------------------- hostility


def _hostile(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the header body with valid checksums, as somebody would who means harm."""
    content = bytearray(path.read_bytes())
    region, body_bytes = struct.unpack_from("<I", content, 12)[0], 0
    body_bytes = struct.unpack_from("<I", content, 24)[0]
    body = msgspec.msgpack.decode(bytes(content[36 : 36 + body_bytes]))
    change(body)
    _store_body(path, content, region, msgspec.msgpack.encode(body))


def _store_body(path: Path, content: bytearray, region: int, body: bytes) -> None:
    content[36:region] = body.ljust(region - 36, b"\x00")
    struct.pack_into("<I", content, 24, len(body))
    struct.pack_into("<I", content, 28, crc32c(bytes(content[36:region])))
    struct.pack_into("<I", content, 32, crc32c(bytes(content[:32])))
    path.write_bytes(content)


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "huge shape": lambda b: b["sections"][0].update(shape=[2**62, 2**62]),
    "wrapping shape": lambda b: b["sections"][0].update(shape=[2**32, 2**32, 2**32]),
    "huge axis beside a zero": lambda b: b["sections"][2].update(shape=[0, 2**62]),
    "negative axes": lambda b: b["sections"][0].update(shape=[-1, -64]),
    "many axes": lambda b: b["sections"][0].update(shape=[1] * 100),
    "float axis": lambda b: b["sections"][0].update(shape=[1.5]),
    "offset past the end": lambda b: b["sections"][0].update(offset=2**50),
    "negative offset": lambda b: b["sections"][0].update(offset=-4096),
    "offset in the header": lambda b: b["sections"][0].update(offset=0),
    "overlap": lambda b: b["sections"][1].update(offset=b["sections"][0]["offset"]),
    "duplicate name": lambda b: b["sections"][1].update(name="vectors"),
    "object dtype": lambda b: b["sections"][0].update(dtype="|O8"),
    "huge dtype": lambda b: b["sections"][0].update(dtype="|V2147483647"),
    "long dtype": lambda b: b["sections"][0].update(dtype="f4," * 100_000),
    "strange dtype": lambda b: b["sections"][0].update(dtype="<f3"),
    "other digits": lambda b: b["sections"][0].update(dtype="<f٤"),
    "no sections": lambda b: b.update(sections=[]),
    "sections of another type": lambda b: b.update(sections={"a": 1}),
    "table at the front": lambda b: b.update(table_offset=0),
    "table past the end": lambda b: b.update(table_offset=2**60),
    "table not aligned": lambda b: b.update(table_offset=b["table_offset"] + 4),
    "table off by one page": lambda b: b.update(table_offset=b["table_offset"] - 4096),
    "wrong table checksum": lambda b: b.update(table_crc=1),
    "negative table checksum": lambda b: b.update(table_crc=-1),
    "unknown field": lambda b: b.update(extra=1),
    "missing field": lambda b: b.pop("kind"),
    "meta of another type": lambda b: b.update(meta=[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(path: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _hostile(path, HOSTILE[name])
    with pytest.raises(CorruptionError):
        open_sections(path, "vectors", verify=False)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 3000,
        b"\x81\xa4meta" + b"\x91" * 3000,
        b"\x81\xa4kind\xa1\xff",
    ],
)
def test_a_header_body_that_is_no_body_is_refused(path: Path, body: bytes) -> None:
    _store_body(path, bytearray(path.read_bytes()), ALIGN_BYTES, body)
    with pytest.raises(CorruptionError, match="cannot be read"):
        open_sections(path, "vectors")


@pytest.mark.parametrize(
    ("at", "value"), [(12, 0), (12, 100), (12, 2**32 - 4096), (24, 2**32 - 1), (24, 5000)]
)
def test_hostile_lengths_are_refused(path: Path, at: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, at, value)
    struct.pack_into("<I", content, 32, crc32c(bytes(content[:32])))
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="header of"):
        open_sections(path, "vectors")


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "x"
    path.write_bytes(b"VICSECT\x00" + data)
    with pytest.raises(CorruptionError):
        open_sections(path, "k")
