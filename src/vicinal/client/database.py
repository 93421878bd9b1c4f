"""The public face of a database: `open`, and what hangs from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vicinal.client.batch import Progress
from vicinal.client.collection import Collection
from vicinal.client.local import LocalDatabase
from vicinal.client.transport import DatabaseTransport
from vicinal.engine.database import Database as EngineDatabase
from vicinal.engine.slow import SlowLog
from vicinal.model.clock import SYSTEM_CLOCK, Clock, ttl_seconds
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.memory import parse_budget
from vicinal.model.metric import parse_metric, parse_vector_type
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Status
from vicinal.storage.durability import Durability

if TYPE_CHECKING:
    from vicinal.server.running import Running

TIMEOUT_S = 30.0
"""Time for one call of a served database, tries included."""

RETRIES = 3


def open(
    path: str | Path,
    *,
    read_only: bool = False,
    durability: str | Durability | None = None,
    api_key: str | None = None,
    timeout_s: float | None = None,
    retries: int | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    hedge_ms: float | str | None = None,
    compression: str | None = None,
    clock: Clock | None = None,
    memory_budget: int | str | None = None,
    slow_query_ms: float | None = None,
) -> Database:
    """Open a database, making it where there is none; or connect to one that is served.

    Parameters
    ----------
    path : a directory, ":memory:" for one that vanishes when it is closed, or the address of a server
        (`http://host:7333`, `grpc://host:7334`, `flight://host:7335`; over TLS `https`, `grpcs`, `flights`): the
        same API, the same answers and errors.
    read_only : look without taking the lock, beside a process that writes; shows the state at the time of opening.
    durability : what an acknowledged write survives. "sync": power loss. "interval": a crash of
    the process; a power cut may take
        the last 100 ms (up to 400 ms under sustained writes). "none": a crash of the process; a
        power cut may take whatever the operating system had not written, usually up to 30 s. In
        every mode a batch is whole or absent. Default: "sync". (A server has its own.)
    api_key : of a server; made with `vicinal keys create`. timeout_s : of a server: seconds for one call, tries
        included. Default 30; larger for slow work such as `optimize`. retries : of a server: how often a call
        is tried again after the first time. Default 3. Only what is harmless is tried
        again: reads after a broken connection, anything that the server says it did not begin.
    tls_ca : of a server over TLS: PEM file of who signed its certificate. Default: those whom the system (over
        gRPC and Flight: the gRPC library) trusts. tls_cert, tls_key : PEM files of a certificate that this client
        proves itself with.
    hedge_ms : of a server: a read (search, get, scroll, count) that is not answered after so many milliseconds is asked
        once more over another connection, and the first answer wins; "auto" is the 95th percentile of this
        client's recent reads. At most 3 % of the reads are asked twice. Default: none are.
    compression : of a server: "gzip" packs what is larger than 16 KiB, both ways. For thin lines: packing takes longer
        than a local network, and vectors hardly shrink. Default: nothing is packed.
    clock : returns seconds since the epoch; decides when points expire. For tests that move time.
    memory_budget : the most memory that its collections hold together, in bytes or as "512MiB", "2GiB"; None is no
        limit. A write or an index build that would go over it raises MemoryLimitError before anything is changed;
        searching, reading and deleting go on. Mapped files are not counted: see `Database.stats`.
    slow_query_ms : searches that take longer are written to the logger `vicinal.slow` (Python's logging), with their
        plan, costs and filter, without vectors. Default: none are.

    Raises
    ------
    LockedError : another process writes to it; names the process and the host.
    NotADatabaseError : the directory holds something else; it is not touched.
    FormatVersionError : it was written by a newer version.
    StorageError : the operating system refuses.
    MemoryLimitError : later, of a collection that the budget has no room for.
    UnavailableError, UnauthenticatedError : the server cannot be reached, or wants another key.
    """
    if "://" in str(path):
        local = (durability, clock, memory_budget, slow_query_ms)
        if read_only or any(given is not None for given in local):
            raise InvalidArgumentError(
                "read_only, durability, clock, memory_budget and slow_query_ms are the server's to decide; leave "
                "them out with an address"
            )
        from vicinal.client.channel import ChannelOptions
        from vicinal.client.remote import connect

        options = ChannelOptions(
            api_key=api_key,
            timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
            retries=RETRIES if retries is None else retries,
            tls_ca=None if tls_ca is None else str(tls_ca),
            tls_cert=None if tls_cert is None else str(tls_cert),
            tls_key=None if tls_key is None else str(tls_key),
            hedge_ms=hedge_ms,
            compression=compression,
        )
        return Database(connect(str(path), options))
    remote = (api_key, timeout_s, retries, tls_ca, tls_cert, tls_key, hedge_ms, compression)
    if any(given is not None for given in remote):
        raise InvalidArgumentError(
            "api_key, timeout_s, retries, tls_ca, tls_cert, tls_key, hedge_ms and compression go with an address "
            f"such as http://localhost:7333, not with {str(path)!r}"
        )
    try:
        mode = Durability.SYNC if durability is None else Durability(durability)
    except ValueError:
        known = ", ".join(d.value for d in Durability)
        raise InvalidArgumentError(
            f"unknown durability {durability!r}; known are {known}"
        ) from None
    slow = None if slow_query_ms is None else SlowLog(slow_query_ms)
    engine = EngineDatabase(
        path,
        read_only=read_only,
        durability=mode,
        clock=clock or SYSTEM_CLOCK,
        memory_budget=None if memory_budget is None else parse_budget(memory_budget),
    )
    if slow is not None:
        engine.watchers.add(slow)
    return Database(LocalDatabase(engine))


def restore(source: str | Path, path: str | Path, *, progress: Progress | None = None) -> Snapshot:
    """Make a database of a snapshot or backup, and check every byte of it on the way.

    Parameters
    ----------
    source : what `Database.backup` or `snapshot` made: a folder, an archive or an address.
    path : the directory of the new database; nothing may be there.
    progress : called with (bytes done, bytes in all); returning False stops, and nothing is left of it.

    Raises
    ------
    NotFoundError : there is no backup at source. InvalidArgumentError : there is something at path.
    CorruptionError, FormatVersionError : it is damaged, foreign or newer; nothing was made.
    """
    # Here, since they import tar, gzip and hashes.
    from vicinal.engine.snapshots import describe
    from vicinal.storage.bundle_copy import restore_bundle

    manifest = restore_bundle(source, Path(path), progress)
    return describe(Path(path).name, path, manifest)


class Database:
    """An open database; a context manager. Made by `open`; thread-safe."""

    def __init__(self, transport: DatabaseTransport) -> None:
        self._transport = transport

    @property
    def path(self) -> Path:
        """Its directory; InvalidArgumentError for a served one, which has an `address`."""
        return self._local("path").engine.path

    @property
    def engine(self) -> EngineDatabase:
        """The engine below, for what serves it; InvalidArgumentError for a database that is served elsewhere."""
        return self._local("the engine").engine

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._transport.closed

    @property
    def address(self) -> str:
        """Where it is: a path or a URL, as `vicinal.open` takes it."""
        return self._transport.address

    @property
    def read_only(self) -> bool:
        """Whether it was opened read-only."""
        return self._transport.read_only

    def collection(
        self,
        name: str,
        *,
        dim: int | None = None,
        metric: str | None = None,
        dtype: str | None = None,
        strict: bool | None = None,
        M: int | None = None,
        ef_construction: int | None = None,
        ttl: float | dt.timedelta | None = None,
    ) -> Collection:
        """Return the collection of that name, made with these options where there is none.

        Parameters
        ----------
        dim : dimensions of its vectors; needed to make one.
        metric : l2, ip, cosine (default), hamming, manhattan.
        dtype : f32 (default), f16, i8, bit (packed; hamming only).
        strict : filters on a field that no point has raise instead of matching nothing (default False).
        ttl : seconds, or a timedelta, after which a point expires unless its upsert says otherwise (default: never).
        M, ef_construction : edges of a node in the graph (default 32), and the beam width that builds it (default 256).

        Raises
        ------
        CollectionMismatchError : it exists, and an option given here differs from what it has.
        NotFoundError : it does not exist, and dim was not given.
        InvalidArgumentError, LimitError : an option is out of range.
        """
        given: dict[str, object] = {
            "dim": dim,
            "metric": None if metric is None else parse_metric(metric),
            "dtype": None if dtype is None else parse_vector_type(dtype),
            "strict": strict,
            "M": M,
            "ef_construction": ef_construction,
            "ttl": None if ttl is None else ttl_seconds(ttl),
        }
        options = {option: value for option, value in given.items() if value is not None}
        config = None
        if dim is not None:
            if type(dim) is not int:
                raise InvalidArgumentError(f"dim is {dim!r}; it is an int")
            if options.get("dtype") == "bit" and "metric" not in options:
                options["metric"] = parse_metric("hamming")
            config = CollectionConfig(**options)  # pyright: ignore[reportArgumentType]
            config.check()
        transport = self._transport.collection(name, config, options)
        return Collection(transport, self._transport.snapshot)

    def collections(self) -> list[str]:
        """Names of the collections, sorted."""
        return self._transport.collections()

    def snapshot(
        self,
        name: str | None = None,
        *,
        collections: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Snapshot:
        """Keep this moment of the collections, in hard links inside the database; writes go on.

        Parameters
        ----------
        name : letters, digits, `.`, `-`, `_`; None is the time.
        collections : their names; None is all. Each is caught at one moment of its own.
        progress : called with (bytes summed, bytes in all); returning False stops, and nothing is left of it.

        Returns
        -------
        Snapshot : with `.path`, from which `vicinal.restore` makes a database; of a served one it is a path of the
            server's machine, and progress is told the end only.

        Raises
        ------
        InvalidArgumentError : the name is taken, or none. CorruptionError : a collection is quarantined.
        """
        return self._transport.snapshot(name, collections, progress)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots there are, oldest first."""
        return self._transport.snapshots()

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot; NotFoundError where there is none."""
        self._transport.drop_snapshot(name)

    def backup(
        self,
        target: str | Path,
        *,
        collections: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Snapshot:
        """Write a copy of the collections to another place; writes go on. Not over a connection to a server, which
        writes no files where a client says: take a `snapshot` there.

        Parameters
        ----------
        target : a folder, an archive (`.tar`, `.tar.gz`), or an address that fsspec knows, such as
            "s3://bucket/name" (`pip install 'vicinal[backup]'`). Nothing may be there.
        collections, progress : as for `snapshot`; progress counts the bytes copied.

        Raises
        ------
        InvalidArgumentError : there is something at target, or the database is a served one.
        StorageError : no room, or refused.
        """
        return self._transport.backup(target, collections, progress)

    def status(self) -> dict[str, Status]:
        """How each collection is: `.health` is "serving", "full", "read_only" or "quarantined", `.reason` says why.

        A collection whose primary files are damaged is quarantined: opening it raises CorruptionError with the
        same reason until the database is reopened, its files are not touched, and the others serve.
        """
        return self._transport.status()

    def stats(self) -> dict[str, Any]:
        """Who holds how much memory, in bytes.

        Returns
        -------
        "memory_budget" : its "limit" (None: none), what is "used" of it now, of that what is "reserved" for work under
            way and what RocksDB's "block_cache" holds.
        "collections" : for each "points", "memory_bytes" and "mapped_bytes" (files, which the budget does not
            count), by structure, and "status". Collections that are not open yet are opened.
        """
        return self._transport.stats()

    def drop(self, name: str) -> None:
        """Delete a collection with all its points; NotFoundError where there is none."""
        self._transport.drop(name)

    def serve(self, **options: Any) -> Running:
        """Serve this database over HTTP from a background thread, while it stays usable here.

        Parameters ---------- options : fields of `vicinal.server.config.ServerConfig`, such as `host`,
        `http_port` (0 is any free one), `auth`.
            A collection is found by clients under its name; API keys are those of `vicinal keys`.

        Returns
        -------
        Running : its `url`, `wait()` and `close()`; also a context manager. Needs `pip install 'vicinal[server]'`.

        Raises
        ------
        InvalidArgumentError : the database is itself a served one, or an option is unknown or out of range.
        """
        from vicinal.server.running import serve

        return serve(self.engine, **options)

    def close(self) -> None:
        """Close the database; memory, files and the lock are given back. Idempotent."""
        self._transport.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._transport.closed else "open"
        return f"Database({self.address!r}, {state})"

    def _local(self, what: str) -> LocalDatabase:
        if not isinstance(self._transport, LocalDatabase):
            raise InvalidArgumentError(
                f"{what} is of databases in a directory; {self.address} is served elsewhere"
            )
        return self._transport
