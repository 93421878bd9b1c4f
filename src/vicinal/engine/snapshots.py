"""Snapshots of an open database: one moment of each collection, in hard links, while writes go on.

A snapshot is a bundle (`vicinal.storage.bundle`) in the folder `snapshots/`. The store's part is a
RocksDB checkpoint, the segments' files are links to files that never change; so it costs no disk
until the originals are compacted away.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vicinal.engine.collection import Collection
from vicinal.engine.segment_files import segment_path
from vicinal.model.errors import InvalidArgumentError, NotFoundError
from vicinal.model.snapshot import Snapshot
from vicinal.storage.bundle import (
    BundleCollection,
    BundleManifest,
    Progress,
    segment_name,
    store_name,
)
from vicinal.storage.bundle_copy import bundle_info, copy_bundle, finish_bundle, link_or_copy
from vicinal.storage.bundle_places import read_bundle
from vicinal.storage.files import REAL, make_dirs, os_errors, remove_tree

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def describe(name: str, path: str | Path, manifest: BundleManifest) -> Snapshot:
    """The snapshot that a manifest stands for."""
    info = {key: value for key, value in bundle_info(manifest).items() if key != "written_by"}
    return msgspec.convert({"name": name, "path": str(path), **info}, Snapshot)


class Snapshots:
    """The snapshots of one database directory; one is made at a time, under the caller's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(
        self, name: str | None, collections: Sequence[Collection], progress: Progress | None
    ) -> Snapshot:
        """Make a snapshot; InvalidArgumentError where the name is taken or may not be."""
        name = self._free_name(name)
        target = self._folder / name
        manifest = self._take(target, collections, progress)
        return describe(name, target, manifest)

    def backup(
        self, target: str | Path, collections: Sequence[Collection], progress: Progress | None
    ) -> Snapshot:
        """Take a snapshot, copy it to a folder, an archive or an address, and let go of it."""
        passing = self._folder / f".backup-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            self._take(passing, collections, None)
            manifest = copy_bundle(passing, target, progress)
        finally:
            if passing.exists():
                remove_tree(REAL, passing)
        return describe(Path(str(target)).name, target, manifest)

    def list(self) -> list[Snapshot]:
        """The snapshots there are, oldest first."""
        if not self._folder.is_dir():
            return []
        found: list[Snapshot] = []
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                with read_bundle(path) as reading:
                    found.append(describe(path.name, path, reading.manifest))
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.name))

    def drop(self, name: str) -> None:
        """Delete a snapshot; NotFoundError where there is none."""
        path = self._folder / _checked(name)
        with os_errors(f"deleting snapshot {name!r}"):
            if not path.is_dir():
                known = ", ".join(repr(s.name) for s in self.list()) or "none"
                raise NotFoundError(f"there is no snapshot {name!r}; there are: {known}")
            passing = path.with_name(f".dropped-{os.urandom(4).hex()}")
            REAL.rename(path, passing)
            remove_tree(REAL, passing)

    def remove_leftovers(self) -> None:
        """Delete what a crash left of snapshots and backups under way."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.startswith("."):
                    remove_tree(REAL, path)

    def _take(
        self, target: Path, collections: Sequence[Collection], progress: Progress | None
    ) -> BundleManifest:
        temporary = target.with_name(f".{target.name}.tmp")
        with os_errors(f"making the snapshot {target}"):
            make_dirs(REAL, temporary)
            try:
                held = [link_collection(c, temporary, i) for i, c in enumerate(collections)]
                manifest = finish_bundle(temporary, held, progress)
                REAL.rename(temporary, target)
                REAL.fsync_dir(self._folder)
            except BaseException:
                remove_tree(REAL, temporary)
                raise
        return manifest

    def _free_name(self, name: str | None) -> str:
        if name is None:
            stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
            return self._first_free(stamp, lambda i: stamp if i == 1 else f"{stamp}-{i}")
        if (self._folder / _checked(name)).exists():
            raise InvalidArgumentError(f"there is a snapshot {name!r} already; choose another name")
        return name

    def _first_free(self, stamp: str, numbered: Callable[[int], str]) -> str:
        for i in range(1, 1_000):
            if not (self._folder / numbered(i)).exists():
                return numbered(i)
        raise InvalidArgumentError(f"there are too many snapshots of {stamp}; give a name")


def link_collection(collection: Collection, folder: Path, number: int) -> BundleCollection:
    """Put one moment of a collection into a bundle's folder. Writes go on; compaction waits."""
    state = collection.state
    with state.maintenance:
        points = collection.reader.count(None)
        checkpoint = folder / f"{number}.checkpoint"
        # The store first: whatever manifest it has, `maintenance` keeps the segments it names.
        state.store.checkpoint(checkpoint)
        for path in sorted(checkpoint.iterdir()):
            flat = store_name(number, path.name)
            if flat is None:
                path.unlink()
            else:
                path.replace(folder / flat)
        checkpoint.rmdir()
        for segment in state.view.sealed:
            for path in sorted(segment_path(state.path, segment.number).glob("*.bin")):
                link_or_copy(REAL, path, folder / segment_name(number, segment.number, path.name))
    return BundleCollection(collection.name, number, points)


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"snapshot name {name!r}: use 1 to 100 letters, digits, '.', '-' and '_', not '.' first"
        )
    return name
