"""An open database directory: its collections and the background thread that looks after them."""

from __future__ import annotations

import errno
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vicinal.engine.background import Background
from vicinal.engine.collection import Collection
from vicinal.engine.memory import MemoryBudget
from vicinal.engine.segment_files import Progress, remove_tree
from vicinal.engine.watch import Watchers
from vicinal.model.clock import SYSTEM_CLOCK, Clock
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    ClosedError,
    CollectionMismatchError,
    CorruptionError,
    InvalidArgumentError,
    MemoryLimitError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from vicinal.model.memory import pick_memory
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Health, Status
from vicinal.storage.durability import Durability
from vicinal.storage.layout import SNAPSHOTS_NAME, open_database_dir
from vicinal.storage.space import RESERVE_BYTES, Space

if TYPE_CHECKING:
    from vicinal.engine.snapshots import Snapshots

MEMORY = ":memory:"

READ_ONLY_ATTEMPTS = 5
"""A reader may meet a writer that swaps segments; it then reads the new manifest."""


class Database:
    """All collections of one directory."""

    def __init__(
        self,
        path: str | Path,
        *,
        read_only: bool = False,
        durability: Durability = Durability.SYNC,
        clock: Clock = SYSTEM_CLOCK,
        memory_budget: int | None = None,
    ) -> None:
        """Open or create the database; see `vicinal.open` for the errors."""
        self.budget = MemoryBudget(memory_budget)
        reserve_bytes = RESERVE_BYTES
        self._remove_temporary: Callable[[], object] = lambda: None
        if str(path) == MEMORY:
            if read_only:
                raise InvalidArgumentError("':memory:' is empty at first; read_only makes no sense")
            import tempfile  # here, since it imports random and hashlib

            temporary = tempfile.mkdtemp(prefix="vicinal-")
            # Also where the process ends without a close.
            self._remove_temporary = weakref.finalize(self, remove_tree, Path(temporary))
            path, durability, reserve_bytes = Path(temporary), Durability.NONE, 0
        self._dir = open_database_dir(Path(path), read_only=read_only)
        self.path = self._dir.path
        self.read_only = read_only
        self.durability = durability
        self._clock = clock
        self.watchers = Watchers()
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}
        self._quarantined: dict[str, CorruptionError] = {}
        self._space: Space | None = None
        self._snapshot_lock = threading.Lock()
        if not read_only:
            if (self.path / SNAPSHOTS_NAME).is_dir():
                self._snapshots.remove_leftovers()
            self._space = Space(self.path, reserve_bytes=reserve_bytes)
        self._closed = False
        self._background = None if read_only else Background(self._step)

    def collection(
        self, name: str, config: CollectionConfig | None, changes: dict[str, object]
    ) -> Collection:
        """Return the collection, making it with config where there is none.

        changes : the options that the caller named; each must agree with what exists.

        Raises CollectionMismatchError naming the option that differs, NotFoundError where there
        is none and config is None.
        """
        with self._lock:
            self._check_open()
            found = self._collections.get(name)
            if found is None:
                exists = name in self._dir.collections()
                if not exists and config is None:
                    known = ", ".join(map(repr, self._dir.collections())) or "none"
                    raise NotFoundError(
                        f"there is no collection {name!r} (there are: {known}); give dim= to create it"
                    )
                if not exists and self.read_only:
                    raise ReadOnlyError(
                        f"there is no collection {name!r}, and the database was opened read-only"
                    )
                found = self._open(name, config)
                self._collections[name] = found
            for option, value in changes.items():
                has = getattr(found.config, option)
                if has != value:
                    raise CollectionMismatchError(
                        f"collection {name!r} has {option}={_plain(has)}, not {_plain(value)}; "
                        f"open it without {option}=, or drop it, or use another name"
                    )
            return found

    def opened(self, name: str) -> Collection | None:
        """The collection if it is open already: a look into a dict, without lock or disk."""
        return self._collections.get(name)

    def collections(self) -> list[str]:
        """Names of the collections, sorted."""
        with self._lock:
            self._check_open()
            return sorted(self._dir.collections())

    def status(self) -> dict[str, Status]:
        """How each collection is; those that are not open yet are opened to see."""
        found: dict[str, Status] = {}
        for name in self.collections():
            try:
                found[name] = self.collection(name, None, {}).state.status()
            except (CorruptionError, MemoryLimitError) as fault:
                found[name] = Status(Health.QUARANTINED, str(fault))
            except NotFoundError:  # dropped meanwhile, or its making was cut short
                continue
        return found

    def stats(self) -> dict[str, Any]:
        """Memory of the database and of each collection, by structure; those that are not open yet are opened."""
        held: dict[str, dict[str, Any]] = {}
        for name, status in self.status().items():
            found = self.opened(name)
            if found is None or status.health is Health.QUARANTINED:
                held[name] = {"status": status.health.value, "reason": status.reason}
            else:
                held[name] = pick_memory(found.stats())
        return {"memory_budget": self.budget.stats(), "collections": held}

    def snapshot(
        self, name: str | None, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Make a snapshot of the collections, all where None; see `Snapshots.take`."""
        with self._snapshot_lock:
            return self._snapshots.take(name, self._chosen(collections), progress)

    def backup(
        self, target: str | Path, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Write a backup of the collections, all where None; see `Snapshots.backup`."""
        with self._snapshot_lock:
            return self._snapshots.backup(target, self._chosen(collections), progress)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots there are, oldest first."""
        self._check_open()
        return self._snapshots.list()

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot."""
        with self._snapshot_lock:
            self._check_open()
            if self.read_only:
                raise ReadOnlyError(
                    f"cannot delete snapshot {name!r}: the database was opened read-only"
                )
            self._snapshots.drop(name)

    @cached_property
    def _snapshots(self) -> Snapshots:
        from vicinal.engine.snapshots import (
            Snapshots,
        )  # here, since it imports tar, gzip and hashes

        return Snapshots(self.path / SNAPSHOTS_NAME)

    def _chosen(self, names: Sequence[str] | None) -> list[Collection]:
        self._check_open()
        if self.read_only:
            raise ReadOnlyError(
                "a database that was opened read-only makes no snapshots or backups; "
                "ask the process that writes, or open it for writing"
            )
        chosen = self.collections() if names is None else list(names)
        for i, name in enumerate(chosen):
            if name in chosen[:i]:
                raise InvalidArgumentError(f"collections names {name!r} twice; give each one once")
        found = [self.collection(name, None, {}) for name in chosen]
        for collection in found:
            if collection.state.lost:  # a copy of damage would pass for a sound one
                collection.state.check_writable()
        return found

    def drop(self, name: str) -> None:
        """Delete a collection and its files; NotFoundError where there is none."""
        with self._lock:
            self._check_open()
            if self.read_only:
                raise ReadOnlyError(f"cannot drop {name!r}: the database was opened read-only")
            if name not in self._dir.collections():
                raise NotFoundError(f"there is no collection {name!r}")
            self._quarantined.pop(name, None)
            found = self._collections.pop(name, None)
            if found is not None:
                found.close()
            self._dir.drop_collection(name)

    def close(self) -> None:
        """Close every collection and give the lock back. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with ExitStack() as stack:  # one that fails does not keep the others, or the lock
            stack.callback(self._remove_temporary)
            stack.callback(self._dir.close)
            for collection in self._collections.values():
                stack.callback(collection.close)
            if self._background is not None:
                stack.callback(self._background.stop)
        self._collections.clear()

    def wake(self) -> None:
        """Tell the background thread that there may be work."""
        if self._background is not None:
            self._background.wake()

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._closed

    def _open(self, name: str, create: CollectionConfig | None) -> Collection:
        """Open a collection; one that is damaged is not touched again until the database is reopened."""
        damage = self._quarantined.get(name)
        if damage is not None:
            raise CorruptionError(str(damage)) from damage
        try:
            return self._open_files(name, create)
        except CorruptionError as fault:
            self._quarantined[name] = fault
            raise
        except StorageError as fault:
            # Recovery writes tables; on a full disk it may use what is kept for deletes.
            if fault.errno != errno.ENOSPC or self._space is None or not self._space.release():
                raise
            return self._open_files(name, create)

    def _open_files(self, name: str, create: CollectionConfig | None) -> Collection:
        attempts = READ_ONLY_ATTEMPTS if self.read_only else 1
        while True:
            attempts -= 1
            try:
                return Collection(
                    name,
                    self._dir.collection_path(name),
                    create=create,
                    read_only=self.read_only,
                    durability=self.durability,
                    on_write=self.wake,
                    clock=self._clock,
                    space=self._space,
                    budget=self.budget,
                    watchers=self.watchers,
                )
            except FileNotFoundError:
                if attempts <= 0:
                    raise

    def _step(self) -> bool:
        busy = False
        for collection in list(self._collections.values()):
            if self._closed:
                return False
            busy = collection.maintenance.step() or busy
        return busy

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"database {str(self.path)!r} is closed; call vicinal.open again")


def _plain(value: object) -> str:
    return repr(msgspec.to_builtins(value))
