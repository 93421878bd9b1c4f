"""Files in and out: what was written is read back equal; a bad file is refused with the place of the fault."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicinal.cli.formats import (
    FileError,
    ReadOptions,
    Rows,
    Shape,
    format_of,
    open_reader,
    open_writer,
)
from vicinal.cli.formats.fields import FieldKinds, id_kind, kind_of
from vicinal.cli.formats.rows import check_batch, escape_field, last_of_each, unescape_field

pa = pytest.importorskip("pyarrow", reason="the extra `arrow` is not installed")

FORMATS = ("parquet", "arrow", "jsonl", "npy")
AWKWARD: list[dict[str, Any]] = [
    {},
    {"a": None},
    {"a": 1, "b": 1.5, "c": True, "d": "x", "e": [1, 2], "f": []},
    {
        "a": "other kind",
        "nested": {"deep": [{"x": None}]},
        "id": "mine",
        "vector": [1],
        "payload.id": 3,
    },
    {"_payload": "taken", "e": [3], "g": [None, "x"], "h": 2.0, "i": [1, 2.5]},
    {
        "text": 'tab\tline\nquote" ünï 🐍',
        "big": 2**63 - 1,
        "small": -(2**63),
        "zero": -0.0,
        "tiny": 5e-324,
    },
]
IDS: list[Any] = ["a", "", "7", 7, -3, 2**63 - 1, uuid.UUID(int=5)]


def roundtrip(
    path: Path, name: str, ids: list[Any], vectors: np.ndarray, payloads: list[Any], dtype: str
) -> Rows:
    """Write rows in two parts, read them in batches of two, and put them together."""
    kinds = FieldKinds()
    for payload in payloads:
        kinds.add(payload)
    dim = vectors.shape[1] * (8 if dtype == "bit" else 1)
    shape = Shape(dim, "l2", dtype, len(ids), kinds.columns(), id_kind(ids))
    file = path / f"points.{name}"
    writer = open_writer(file, None, shape)
    half = len(ids) // 2
    for part in (slice(0, half), slice(half, None)):
        writer.write(Rows(1, ids[part], vectors[part], payloads[part]))
    made = writer.finish()
    options = ReadOptions(batch_size=2, ids=made[1] if len(made) > 1 else None)
    batches = list(open_reader(file, None, options).batches())
    assert sorted(p.name for p in path.iterdir()) == sorted(p.name for p in made), (
        "no temporary file stays"
    )
    return Rows(
        batches[0].start,
        [i for b in batches for i in b.ids],
        np.concatenate([b.vectors for b in batches if b.vectors is not None]),
        [p for b in batches for p in b.payloads],
    )


def same(a: Any, b: Any) -> bool:
    """Equal values of equal types, NaN equal to itself, key order aside."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    return a == b


@pytest.mark.parametrize("name", FORMATS)
def test_awkward_payload_comes_back_equal(tmp_path: Path, name: str) -> None:
    n = len(AWKWARD)
    vectors = np.random.default_rng(1).standard_normal((n, 3)).astype(np.float32)
    back = roundtrip(tmp_path, name, list(range(n)), vectors, AWKWARD, "f32")
    for expected, got in zip(AWKWARD, back.payloads, strict=True):
        assert same(expected, got), (expected, got)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "ids", [IDS, [1, 2, -5], ["x", "y", "1"], [uuid.UUID(int=i) for i in range(3)]], ids=str
)
def test_ids_come_back_with_their_kind(tmp_path: Path, name: str, ids: list[Any]) -> None:
    back = roundtrip(
        tmp_path, name, ids, np.ones((len(ids), 2), np.float32), [{}] * len(ids), "f32"
    )
    assert same(ids, back.ids)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "numpy"), [("f32", "<f4"), ("f16", "<f2"), ("i8", "i1"), ("bit", "u1")]
)
def test_vectors_come_back_bit_for_bit(tmp_path: Path, name: str, dtype: str, numpy: str) -> None:
    rng = np.random.default_rng(2)
    kind = np.dtype(numpy)
    if kind.kind == "f":
        vectors = (rng.standard_normal((50, 5)) * 10.0 ** rng.integers(-4, 4, (50, 5))).astype(kind)
    else:
        info = np.iinfo(kind)
        vectors = rng.integers(info.min, info.max, (50, 5), endpoint=True).astype(kind)
    back = roundtrip(tmp_path, name, list(range(50)), vectors, [{}] * 50, dtype)
    assert np.asarray(back.vectors).astype(kind).tobytes() == vectors.tobytes()


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("name", FORMATS)
@given(
    payloads=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "id", "vector", "payload.id", "_payload", "ü"]), JSON_VALUES
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_json_payload_comes_back_equal(
    tmp_path_factory: Any, name: str, payloads: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("roundtrip")
    vectors = np.ones((len(payloads), 2), np.float32)
    back = roundtrip(folder, name, list(range(len(payloads))), vectors, payloads, "f32")
    for expected, got in zip(payloads, back.payloads, strict=True):
        assert same(expected, got), (expected, got)


@pytest.mark.parametrize(
    "name", ["id", "vector", "payload.id", "payload.payload.vector", "payload", "ids", "x.id"]
)
def test_field_names_survive_standing_beside_id_and_vector(name: str) -> None:
    escaped = escape_field(name)
    assert escaped not in ("id", "vector")
    assert unescape_field(escaped) == name


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "bool"), (1, "int"), (1.0, "float"), ("x", "string"), ([1], "list:int"), ([], "list"),
        (None, ""), ({}, ""), ([1, "x"], ""), ([None], ""), (2**63, ""), ([True, 1], ""),
    ],
)  # fmt: skip
def test_kind_of_a_value_is_what_a_column_can_hold(value: object, kind: str) -> None:
    assert kind_of(value) == kind


def test_a_foreign_parquet_keeps_its_nulls_dates_and_column_names(tmp_path: Path) -> None:
    import datetime as dt

    import pyarrow.parquet as pq

    table = pa.table(
        {
            "key": ["a", "b"],
            "emb": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())),
            "day": [dt.date(2024, 1, 2), None],
            "tags": [["x"], []],
        }
    )
    pq.write_table(table, tmp_path / "foreign.parquet")
    reader = open_reader(
        tmp_path / "foreign.parquet", None, ReadOptions(id_column="key", vector_column="emb")
    )
    (rows,) = reader.batches()
    assert reader.n_rows == 2
    assert rows.ids == ["a", "b"]
    assert rows.vectors is not None
    assert rows.vectors.tolist() == [[1, 2], [3, 4]]
    assert rows.payloads == [{"day": dt.date(2024, 1, 2), "tags": ["x"]}, {"day": None, "tags": []}]


def test_an_arrow_stream_is_read_like_an_arrow_file(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "vector": pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1))})
    with pa.ipc.new_stream(tmp_path / "s.arrow", table.schema) as out:
        out.write_table(table)
    reader = open_reader(tmp_path / "s.arrow", None, ReadOptions(skip=1))
    (rows,) = reader.batches()
    assert (reader.n_rows, rows.ids, rows.start) == (2, [2], 2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1, "vector": [1, 2]}', "{"], "line 2: not JSON"),
        (["[1]"], "line 1: not a JSON object but list"),
        (['{"vector": [1]}'], "line 1: no field 'id'; it has 'vector'; --id-column"),
        (['{"id": 1, "v": [1]}'], "line 1: no field 'vector'; it has 'id', 'v'; --vector-column"),
        (
            ['{"id": 1, "vector": [1, 2]}', "", '{"id": 2, "vector": [1]}'],
            "line 3: the vector has 1 dimensions",
        ),
        (['{"id": 1, "vector": "x"}'], "line 1: the vector is 'x'"),
        (['{"id": 1, "vector": [1, "x"]}'], "line 1: the vector holds 'x' at position 1"),
        (['{"id": 1, "vector": [1, null]}'], "line 1: the vector holds None at position 1"),
        (['{"id": 1.5, "vector": [1]}'], "line 1: id 1.5 is neither"),
        (['{"id": true, "vector": [1]}'], "line 1: id True is neither"),
        (['{"id": "\udcff", "vector": [1]}'], "line 1: not UTF-8"),
        (["[" * 100_000], "line 1: nested too deep"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, lines: list[str], message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with pytest.raises(FileError) as caught:
        list(open_reader(file, None, ReadOptions()).batches())
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("vector", "dtype", "metric", "message"),
    [
        ([1.0], "f32", "l2", "row 8: the vector has 1 dimensions, the collection has 2"),
        ([1.0, math.nan], "f32", "l2", "row 8: the vector holds NaN"),
        (
            [1.0, 1e39],
            "f32",
            "l2",
            "row 8: the vector holds NaN, infinity or a number too large for f32",
        ),
        ([1.0, 7e4], "f16", "l2", "too large for f16"),
        ([0.0, 0.0], "f32", "cosine", "row 8: the vector is zero"),
    ],
)
def test_a_vector_that_does_not_fit_the_collection_is_named(
    tmp_path: Path, vector: list[float], dtype: str, metric: str, message: str
) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 2)))
    reader = open_reader(tmp_path / "x.npy", None, ReadOptions())
    rows = Rows(8, [1], np.asarray([vector]), [{}])
    with pytest.raises(FileError) as caught:
        check_batch(rows, reader, tmp_path / "x.npy", Shape(2, metric, dtype))
    assert message in str(caught.value)


def test_the_later_row_of_one_id_wins_within_a_batch() -> None:
    rows = Rows(1, ["a", 1, "a", "1"], np.arange(8.0).reshape(4, 2), [{"n": i} for i in range(4)])
    kept, replaced = last_of_each(rows)
    assert (kept.ids, replaced) == ([1, "a", "1"], 1)
    assert [p["n"] for p in kept.payloads] == [1, 2, 3]
    assert [kept.place(i) for i in range(3)] == [2, 3, 4]


def test_npy_ids_come_from_npy_and_text_files_or_row_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    np.save(tmp_path / "ids.npy", np.array([5, 6, 7]))
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    (tmp_path / "numbers.txt").write_text("3\n2\n1\n")

    def ids(file: str | None) -> list[Any]:
        options = ReadOptions(ids=None if file is None else tmp_path / file)
        return [
            i for rows in open_reader(tmp_path / "x.npy", None, options).batches() for i in rows.ids
        ]

    assert ids(None) == [0, 1, 2]
    assert ids("ids.npy") == [5, 6, 7]
    assert ids("names.txt") == ["a", "b", "c"]
    assert ids("numbers.txt") == [3, 2, 1]


@pytest.mark.parametrize("n", [2, 4])
def test_npy_refuses_another_number_of_ids(tmp_path: Path, n: int) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("\n".join("abcd"[:n]))
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"id": i}) for i in range(n)))
    for file in ("ids.txt", "ids.jsonl"):
        with pytest.raises(FileError, match="3"):
            list(open_reader(tmp_path / "x.npy", None, ReadOptions(ids=tmp_path / file)).batches())


def test_npy_never_unpickles(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match=r"not a readable .npy file"):
        open_reader(tmp_path / "x.npy", None, ReadOptions())


def test_an_abandoned_file_leaves_nothing(tmp_path: Path) -> None:
    for name in FORMATS:
        writer = open_writer(tmp_path / f"x.{name}", None, Shape(2, "l2", "f32", 2))
        writer.write(Rows(1, ["a"], np.ones((1, 2), np.float32), [{}]))
        writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_format_comes_from_the_suffix_or_the_option() -> None:
    assert format_of(Path("x.PARQUET"), None) == "parquet"
    assert format_of(Path("x.feather"), None) == "arrow"
    assert format_of(Path("x.csv"), "jsonl") == "jsonl"
    with pytest.raises(FileError, match=r"suffix '.csv' names no format; known are .parquet"):
        format_of(Path("x.csv"), None)
    with pytest.raises(FileError, match="unknown format 'csv'"):
        format_of(Path("x.csv"), "csv")


@pytest.mark.parametrize("name", ["parquet", "arrow", "npy"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"x.{name}"
    file.write_text("this is no such file")
    with pytest.raises(FileError, match="not a readable"):
        open_reader(file, None, ReadOptions())


def _table(path: Path, kind: str, table: Any) -> Path:
    import pyarrow.parquet as pq

    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_whose_bytes_are_damaged_behind_its_header_is_refused(
    tmp_path: Path, kind: str
) -> None:
    """Texts that are no UTF-8, and in Parquet pages that do not unpack, show only when rows are read."""
    words = ["find this text"] * 50
    file = _table(tmp_path / f"x.{kind}", kind, pa.table({"id": words, "vector": [[1.0]] * 50}))
    raw = file.read_bytes()
    assert b"find this text" in raw
    file.write_bytes(raw.replace(b"find this text", b"\xff" * 14))
    with pytest.raises(FileError, match=f"not a readable {kind} file"):
        list(open_reader(file, None, ReadOptions()).batches())


@pytest.mark.parametrize("made", [b"{", b"{}", b"[1]", b"\xff", b'{"dim": -1}'])
def test_a_table_whose_notes_of_its_collection_are_damaged_is_refused(
    tmp_path: Path, made: bytes
) -> None:
    table = pa.table({"id": [1], "vector": [[1.0]]}).replace_schema_metadata({b"vicinal": made})
    file = _table(tmp_path / "x.arrow", "arrow", table)
    with pytest.raises(FileError, match=r"collection it came from is damaged.*export it again"):
        open_reader(file, None, ReadOptions())


def test_a_column_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = _table(tmp_path / "x.arrow", "arrow", pa.table({"id": [1], "oddname": [1]}))
    file.write_bytes(file.read_bytes().replace(b"oddname", b"odd\xff\xffme"))
    with pytest.raises(FileError, match="not a readable arrow file"):
        open_reader(file, None, ReadOptions())


@pytest.mark.parametrize(
    "header",
    [b"{'descr': '<f4', 'shape': (", b"{'descr': '<f4'}", b"\xff\xfe", b"9" * 200, b"[" * 500],
)
def test_a_matrix_with_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "x.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FileError, match=r"not a readable \.npy file"):
        open_reader(file, None, ReadOptions())


def test_an_archive_of_arrays_is_no_matrix_and_no_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros(3))
    archive = (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(FileError, match="holds an archive"):
        open_reader(archive, None, ReadOptions())
    np.save(tmp_path / "matrix.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(FileError, match="holds an archive"):
        open_reader(tmp_path / "matrix.npy", None, ReadOptions(ids=archive))


def test_ids_that_are_no_text_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", np.zeros((2, 2), np.float32))
    (tmp_path / "ids.txt").write_bytes(b"good\nbad \xff\n")
    with pytest.raises(FileError, match="not UTF-8 at byte 9"):
        open_reader(tmp_path / "matrix.npy", None, ReadOptions(ids=tmp_path / "ids.txt"))


def test_a_table_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"key": [1], "emb": [[1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(
        FileError, match=r"no column 'id'; it has 'key', 'emb'; --id-column names another"
    ):
        open_reader(tmp_path / "x.parquet", None, ReadOptions())
    with pytest.raises(FileError, match=r"column 'vector'.*--vector-column"):
        open_reader(tmp_path / "x.parquet", None, ReadOptions(id_column="key"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 2], "vector": [[1.0], None]}, "row 2: the vector is null"),
        ({"id": [1, 2], "vector": [[1.0, 2.0], [1.0]]}, "row 2: the vector has 1 dimensions"),
        ({"id": [1, 2], "vector": [[1.0, 2.0], [1.0, None]]}, "row 2: the vector holds a null"),
        ({"id": [1, None], "vector": [[1.0], [1.0]]}, "row 2: id None"),
        ({"id": [1.5, 2.5], "vector": [[1.0], [1.0]]}, "row 1: id 1.5 is of type double"),
        ({"id": [1], "vector": [1.0]}, "column 'vector' is of type double"),
        ({"id": [1], "vector": [["x"]]}, "column 'vector' holds string"),
    ],
)
def test_a_bad_row_of_a_table_is_named_by_its_number(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(FileError) as caught:
        list(open_reader(tmp_path / "x.parquet", None, ReadOptions()).batches())
    assert message in str(caught.value)
