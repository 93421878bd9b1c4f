"""The conformance suite over REST, and on a directory that is served while it stays open here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import Conformance
from conformance_points import UUID

import vicinal
from vicinal.client import remote


class TestRest(Conformance):
    """`http://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self, empty_server: Any) -> Iterator[Any]:
        with vicinal.open(empty_server.url) as db:
            yield db


@pytest.fixture
def served() -> Iterator[tuple[Any, Any]]:
    """(a database here, the same one through its server)."""
    with vicinal.open(":memory:") as local, local.serve(http_port=0) as server:
        docs = local.collection("docs", dim=1, metric="l2")
        docs.upsert(ids=[1, 2, UUID], vectors=[[1], [2], [3]])
        with vicinal.open(server.url) as db:
            yield local, db


def test_a_call_with_conditions_is_one_request_however_many_points_it_has(
    served: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "IDS_MAX", 1)
    docs = served[1].collection("docs")
    for write in (
        lambda: docs.delete([1, 2], if_version=[1, 9]),
        lambda: docs.update([1, 2], {"x": 1}, if_version=[1, 9]),
    ):
        with pytest.raises(vicinal.VersionConflictError):
            write()
        assert [p.version for p in docs.get([1, 2])] == [1, 1]
    assert docs.update([1, 2], {"x": 1}, if_version=[1, 1]) == 2
    assert docs.delete([1, 2], if_version=[2, 2]) == 2


def test_an_error_brings_the_id_that_it_is_about_with_its_type(served: tuple[Any, Any]) -> None:
    docs = served[1].collection("docs")
    for id_ in (1, UUID):
        with pytest.raises(vicinal.AlreadyExistsError) as exists:
            docs.upsert(ids=[id_], vectors=[[1]], mode="insert_only")
        with pytest.raises(vicinal.VersionConflictError) as conflict:
            docs.delete([id_], if_version=9)
        assert exists.value.id == conflict.value.id == id_
    with pytest.raises(vicinal.NotFoundError) as missing:
        docs.upsert(ids=["1"], vectors=[[1]], mode="update_only")
    assert missing.value.id == "1"


def test_a_missing_point_and_a_dropped_collection_are_told_apart(served: tuple[Any, Any]) -> None:
    local, db = served
    docs = db.collection("docs")
    with pytest.raises(vicinal.NotFoundError, match="update_only"):
        docs.upsert(ids=[9], vectors=[[1]], mode="update_only")
    local.drop("docs")
    with pytest.raises(vicinal.ClosedError, match="dropped"):
        docs.upsert(ids=[9], vectors=[[1]], mode="update_only")


def test_a_snapshot_is_made_at_the_server_and_restored_there(
    served: tuple[Any, Any], tmp_path: Path
) -> None:
    local, db = served
    told: list[tuple[int, int]] = []
    made = db.snapshot("mine", progress=lambda done, total: told.append((done, total)))
    assert told == [(made.bytes, made.bytes)]
    assert made == local.snapshots()[0]
    vicinal.restore(made.path, tmp_path / "copy")
    with vicinal.open(tmp_path / "copy") as copy:
        assert copy.collection("docs").count() == 3


def test_a_server_makes_no_backup_where_a_client_says(
    served: tuple[Any, Any], tmp_path: Path
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=r"snapshot\(\)"):
        served[1].backup(tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("names", [["docs", "\ud800"], [7]])
def test_names_that_no_message_can_hold_are_refused(
    served: tuple[Any, Any], names: list[Any]
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=r"ud800|7"):
        served[1].snapshot(collections=names)
    assert served[0].snapshots() == []


def test_the_servers_clock_decides_and_a_client_gives_none() -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="clock"):
        vicinal.open("http://127.0.0.1:1", clock=lambda: 0.0)
    now = [1_000.0]
    with (
        vicinal.open(":memory:", clock=lambda: now[0]) as local,
        local.serve(http_port=0) as server,
        vicinal.open(server.url) as db,
    ):
        docs = db.collection("docs", dim=1, metric="l2", ttl=10)
        docs.upsert(ids=["a", "b"], vectors=[[1], [2]], expires_at=[None, 1_020])
        assert [p.expires_at.timestamp() for p in docs.get(["a", "b"])] == [1_010, 1_020]
        now[0] = 1_010
        assert [p.id for p in docs.scroll()] == ["b"]
