"""Examines a database as a whole, and mends what can be made anew from data that is sound.

An examination changes nothing and works beside a process that writes. A repair takes the writer's
lock; it sets derived files aside and makes new ones, and drops nothing that was acknowledged unless it
is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from vicinal.engine.collection import Collection
from vicinal.engine.doctor_checks import RESTORE, SHOWN_MAX, Checks
from vicinal.engine.expiry import due_key
from vicinal.engine.lineage import LINEAGE_KEY, new_token
from vicinal.engine.loss import GIVEN_UP_NAME, REMEDY
from vicinal.engine.records import POINT_HEADER
from vicinal.model.errors import NotFoundError, VicinalError
from vicinal.model.findings import Finding, Level, Report
from vicinal.model.ids import decode_id
from vicinal.storage.bundle import checked
from vicinal.storage.bundle_places import read_bundle
from vicinal.storage.durability import Durability
from vicinal.storage.layout import SNAPSHOTS_NAME, DatabaseDir, open_database_dir
from vicinal.storage.mark import KEPT_WAL_NAME
from vicinal.storage.store import Store

Tell = Callable[[str], None]


def examine(
    path: str | Path,
    *,
    repair: bool = False,
    accept_loss: bool = False,
    tell: Tell | None = None,
) -> Report:
    """Check every file and invariant of a database.

    Parameters
    ----------
    repair : make derived things anew where they are damaged, then examine again.
    accept_loss : drop the points whose segment cannot be read, and open stores that lost acknowledged writes; the
        damaged files are kept. It includes repair.
    tell : called with what is being done.

    Raises
    ------
    NotADatabaseError, FormatVersionError : there is no database of ours at path. CorruptionError : its FORMAT file
        cannot be read. LockedError : repair, and another process writes.
    """
    say: Tell = tell or (lambda _: None)
    repair = repair or accept_loss
    findings: list[Finding] = []
    points: dict[str, int] = {}
    with open_database_dir(path, read_only=not repair, create=False) as folder:
        for name in folder.collections():
            say(f"examining collection {name!r}")
            place = folder.collection_path(name)
            count, found = _examine(name, place)
            if accept_loss and any(f.level is Level.DAMAGE for f in found):
                say(f"giving up what cannot be read of collection {name!r}")
                given_up = list(_give_up(name, place))
                count, left = _examine(name, place)
                found = given_up + left
            if repair and any(f.level is Level.DERIVED for f in found):
                say(f"mending collection {name!r}")
                _mend(name, place, found)
                count, left = _examine(name, place)
                still = {(f.place, f.what) for f in left}
                gone = [f for f in found if (f.place, f.what) not in still]
                found = [msgspec.structs.replace(f, mended=True) for f in gone] + left
            findings += found
            if count is not None:
                points[name] = count
        findings += _snapshots(folder, say)
        return Report(str(folder.path), points, tuple(findings))


def _examine(name: str, path: Path) -> tuple[int | None, list[Finding]]:
    """Points of a collection, None where it does not open, and all findings."""
    notes = list(_leftovers(name, path))
    try:
        collection = _open(name, path, read_only=True)
    except NotFoundError as fault:
        what = f"its making was cut short before anything was in it ({fault})"
        remedy = "nothing is lost: make it again, or drop it"
        return None, [*notes, Finding(Level.NOTE, name, "store", what, remedy)]
    except (VicinalError, OSError, ValueError) as fault:
        return None, [*notes, Finding(Level.DAMAGE, name, "store or segments", str(fault), RESTORE)]
    try:
        lost = [
            Finding(Level.DAMAGE, name, f"segments/{each.entry.number}", str(each), REMEDY)
            for each in collection.state.lost
        ]
        found = list(Checks(collection).all())
        return collection.reader.count(None), [*lost, *found, *notes]
    except (VicinalError, ValueError) as fault:
        return None, [*notes, Finding(Level.DAMAGE, name, "store", str(fault), RESTORE)]
    finally:
        collection.close()


def _give_up(name: str, path: Path) -> Iterable[Finding]:
    """Let go of what cannot be read, and say what it was."""
    try:
        collection = _open(name, path, read_only=False, accept_loss=True)
    except (VicinalError, OSError, ValueError) as fault:
        yield Finding(Level.DAMAGE, name, "store", str(fault), RESTORE)
        return
    try:
        lost = collection.state.lost
        dropped = collection.give_up() if lost else []
    finally:
        collection.close()
    shown = ", ".join(repr(decode_id(key)) for key in dropped[:SHOWN_MAX])
    more = ", ..." if len(dropped) > SHOWN_MAX else ""
    for each in lost:
        yield Finding(
            Level.DAMAGE,
            name,
            f"segments/{each.entry.number}",
            f"{each}; it was given up, with the other such segments {len(dropped)} points: {shown}{more}",
            f"its files are kept in {GIVEN_UP_NAME}/{each.entry.number} of the collection's folder",
            mended=True,
        )


def _open(name: str, path: Path, *, read_only: bool, accept_loss: bool = False) -> Collection:
    return Collection(
        name,
        path,
        create=None,
        read_only=read_only,
        durability=Durability.SYNC,
        on_write=lambda: None,
        accept_loss=accept_loss,
    )


def _leftovers(name: str, path: Path) -> Iterable[Finding]:
    if (path / "store" / KEPT_WAL_NAME).exists():
        yield Finding(
            Level.NOTE,
            name,
            f"store/{KEPT_WAL_NAME}",
            "an opening did not come to its end; the write-ahead log as it was before is kept here",
            "it goes when the database is opened for writing and nothing acknowledged is missing",
        )
    for file in sorted((path / "segments").glob("*/*.damaged")):
        yield Finding(
            Level.NOTE,
            name,
            str(file.relative_to(path)),
            "a derived file that was damaged, set aside when it was made anew",
            "delete it when you have seen it; it goes with its segment",
        )


def _mend(name: str, path: Path, findings: list[Finding]) -> None:
    """Make damaged derived things anew: files that pass their checksums and are wrong go aside first."""
    for place in {f.place for f in findings if f.level is Level.DERIVED and f.place != "due"}:
        file = path / place
        if file.exists():
            file.replace(file.with_name(file.name + ".damaged"))
    collection = _open(name, path, read_only=False)
    try:
        if any(f.place == "due" for f in findings):
            _mend_due(collection.state.store)
    finally:
        collection.close()


def _mend_due(store: Store) -> None:
    """Write the index of what is due anew, from the points."""
    due: dict[bytes, bytes | None] = {key: None for key, _ in store.scan_due()}
    for key, raw in store.scan_points():
        row, _, expires_ms = POINT_HEADER.unpack_from(raw)
        if expires_ms:
            due[due_key(expires_ms, row)] = key
    # Other points may expire from now on, so what was named before has no name any more.
    store.write(due=due.items(), meta={LINEAGE_KEY: new_token()})


def _snapshots(folder: DatabaseDir, tell: Tell) -> Iterable[Finding]:
    """Every byte of every snapshot against its sum."""
    place = folder.path / SNAPSHOTS_NAME
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith("."):
            continue
        tell(f"examining snapshot {path.name!r}")
        try:
            with read_bundle(path) as reading:
                for file, chunks in reading.files():
                    for _ in checked(file, chunks, str(path)):
                        continue
        except VicinalError as fault:
            remedy = "do not rely on it: drop it and take another"
            yield Finding(Level.DAMAGE, None, f"{SNAPSHOTS_NAME}/{path.name}", str(fault), remedy)
