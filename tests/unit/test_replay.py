"""The log is replayed in groups, which is the same as record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.engine import replay
from vicinal.storage.records import decode_records, encode_record, seq_key

DIM = 4
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


def write(docs: Any) -> dict[int, tuple[list[float], int]]:
    """Hundreds of small batches: new points, replacements, deletions, changed payloads, some of them sealed."""
    left: dict[int, tuple[list[float], int]] = {}
    for step in range(300):
        ids = [int(i) for i in RNG.choice(60, size=3, replace=False)]
        kind = step % 4
        if kind in (0, 1):
            vectors = RNG.standard_normal((3, DIM)).astype(np.float32)
            docs.upsert(ids=ids, vectors=vectors, payload=[{"step": step}] * 3)
            left |= {i: (v.tolist(), step) for i, v in zip(ids, vectors, strict=True)}
        elif kind == 2:
            docs.delete(ids)
            for i in ids:
                left.pop(i, None)
        else:
            docs.update(ids, {"step": step})
            left |= {i: (left[i][0], step) for i in ids if i in left}
        if step == 100:
            docs.optimize()
    return left


@pytest.mark.parametrize("records", [1, 3, 50_000])
def test_what_is_left_does_not_depend_on_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    with vicinal.open(tmp_path / "db", durability="none") as db:
        left = write(db.collection("docs", dim=DIM, metric="l2"))
    monkeypatch.setattr(replay, "GROUP_RECORDS", records)
    for _ in range(2):
        with vicinal.open(tmp_path / "db", durability="none") as db:
            docs = db.collection("docs")
            assert docs.count() == len(left)
            found = docs.get(list(left), with_vectors=True)
            assert {p.id: (p.vector.tolist(), p.payload["step"]) for p in found} == left
            for id, (vector, _) in left.items():
                assert docs.search(vector, k=1).ids[0] == id
            steps = [step for _, step in left.values()]
            assert docs.count("step >= 150") == sum(step >= 150 for step in steps)


def test_a_group_is_applied_when_its_vectors_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vicinal.open(tmp_path / "db", durability="none") as db:
        docs = db.collection("docs", dim=DIM, metric="l2")
        for i in range(10):
            docs.upsert(ids=[i], vectors=[[i, 0, 0, 0]])
    applied: list[int] = []
    apply = replay._apply
    monkeypatch.setattr(replay, "GROUP_BYTES", 3 * DIM * 4)
    monkeypatch.setattr(
        replay, "_apply", lambda state, group: (applied.append(group.records), apply(state, group))
    )
    with vicinal.open(tmp_path / "db", read_only=True) as db:
        assert db.collection("docs").count() == 10
    assert applied == [3, 3, 3, 1]


GOOD = [(seq_key(seq), encode_record(seq, b"payload %d" % seq)) for seq in (5, 6, 7)]


def test_records_come_back_in_order() -> None:
    assert decode_records(GOOD, first=5, where="here") == [b"payload 5", b"payload 6", b"payload 7"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"short", GOOD[1][1], "a log key has 5 bytes"),
        (seq_key(8), encode_record(8, b"x"), "log record 6 is missing, the next one is 8"),
        (seq_key(6), b"tiny", "log record 6 has 4 bytes"),
        (seq_key(6), encode_record(5, b"x"), "log record 6 fails its checksum"),
        (seq_key(6), GOOD[1][1][:-1] + b"?", "log record 6 fails its checksum"),
        (seq_key(6), b"\0\0\0\0" + GOOD[1][1][4:], "log record 6 fails its checksum"),
    ],
)
def test_a_damaged_record_is_named(key: bytes, value: bytes, message: str) -> None:
    with pytest.raises(vicinal.CorruptionError, match=f"here: {message}.*restore"):
        decode_records([GOOD[0], (key, value), GOOD[2]], first=5, where="here")
