"""A bundle: collections as a flat set of named files and a manifest with the SHA-256 of each.

Snapshots and backups are bundles. A name says where its file belongs, and only names of this grammar
are ever written or read, so that nothing of a foreign bundle can land outside the database:

    <collection number>.store.<file of RocksDB>
    <collection number>.segment.<segment number>.<name>.bin

What a bundle says of itself is checked before a byte of it is used: format, names, sizes, sums.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from vicinal.model.errors import CancelledError, CorruptionError, FormatVersionError, VicinalError
from vicinal.model.limits import BUNDLE_FILES_MAX
from vicinal.model.version import VERSION
from vicinal.storage.layout import COLLECTIONS_NAME, FORMAT_VERSION, SEGMENTS_NAME, STORE_NAME
from vicinal.storage.names import check_name, escape_name

BUNDLE_FORMAT = 1
MANIFEST_NAME = "MANIFEST.json"

Progress = Callable[[int, int], bool | None]
"""Called with bytes done and bytes in all; returning False stops the work."""

_STORE_FILE = r"CURRENT|IDENTITY|(?:MANIFEST|OPTIONS)-[0-9]{1,20}|[0-9]{1,20}\.(?:sst|blob|log)"
_SEGMENT_FILE = r"[a-z0-9_]{1,40}\.bin"
_NAME = re.compile(
    rf"([0-9]{{1,6}})\.(?:store\.({_STORE_FILE})|segment\.([0-9]{{1,18}})\.({_SEGMENT_FILE}))"
)
_IS_STORE_FILE = re.compile(_STORE_FILE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its flat name, length and SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


class BundleCollection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A collection: its name, the number its files begin with, and how many points it had."""

    name: str
    number: int
    points: int


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle holds; `created` is UTC, ISO 8601."""

    format: int
    written_by: str
    database_format: int
    created: str
    collections: tuple[BundleCollection, ...]
    files: tuple[BundleFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.bytes for file in self.files)


def store_name(number: int, file: str) -> str | None:
    """The flat name of a file of RocksDB, None for one that a bundle does not carry (locks, diagnostics)."""
    return f"{number}.store.{file}" if _IS_STORE_FILE.fullmatch(file) else None


def segment_name(number: int, segment: int, file: str) -> str:
    """The flat name of a segment's file."""
    return f"{number}.segment.{segment}.{file}"


def place_of(name: str, folders: dict[int, str]) -> Path:
    """Where in a database the file of that name belongs; `folders` has the folder of each collection number.

    Raises CorruptionError for a name outside the grammar, or of no known collection.
    """
    found = _NAME.fullmatch(name)
    folder = None if found is None else folders.get(int(found[1]))
    if found is None or folder is None:
        raise CorruptionError(
            f"the bundle holds a file {name[:100]!r}, which no bundle of ours does; it is not restored"
        )
    collection = Path(COLLECTIONS_NAME) / folder
    if found[2] is not None:
        return collection / STORE_NAME / found[2]
    return collection / SEGMENTS_NAME / found[3] / found[4]


def folders_of(manifest: BundleManifest) -> dict[int, str]:
    """The folder of each collection number."""
    return {c.number: escape_name(c.name) for c in manifest.collections}


def encode_bundle(manifest: BundleManifest) -> bytes:
    """The bytes of a manifest, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode_bundle(raw: bytes, where: str) -> BundleManifest:
    """The manifest of raw, all of it checked.

    Raises
    ------
    CorruptionError : it cannot be read, or says something that no bundle of ours says.
    FormatVersionError : it was written by a newer version.
    """
    try:
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if msgspec.json.decode(found.get("format", b"0"), type=int) > BUNDLE_FORMAT:
            raise FormatVersionError(
                f"{where} has a newer bundle format than {BUNDLE_FORMAT}; this is Vicinal {VERSION}, "
                "install a newer one"
            )
        manifest = msgspec.json.decode(raw, type=BundleManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise CorruptionError(f"{where}: {MANIFEST_NAME} cannot be read: {fault}") from None
    if manifest.database_format > FORMAT_VERSION:
        raise FormatVersionError(
            f"{where} holds a database of format {manifest.database_format}, written by Vicinal "
            f"{manifest.written_by}; this is {VERSION} and reads up to format {FORMAT_VERSION}"
        )
    _check(manifest, where)
    return manifest


class Meter:
    """Counts bytes for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        """Count; CancelledError where the callback asks to stop."""
        self._done += count
        if self._progress is not None and self._progress(self._done, self._total) is False:
            raise CancelledError(
                f"stopped by the progress callback after {self._done} of {self._total} bytes; "
                "nothing is left of it"
            )


def checked(file: BundleFile, chunks: Iterable[bytes], where: str) -> Iterable[bytes]:
    """Yield the chunks of a file; CorruptionError as soon as there are too many bytes, or at the end."""
    sha, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > file.bytes:
            break
        sha.update(chunk)
        yield chunk
    if size != file.bytes:
        relation = "more than" if size > file.bytes else f"{size} of"
        raise CorruptionError(
            f"{where}: {file.name} has {relation} the {file.bytes} bytes that the manifest says"
        )
    if sha.hexdigest() != file.sha256:
        raise CorruptionError(f"{where}: {file.name} fails its SHA-256; take another backup")


def _check(manifest: BundleManifest, where: str) -> None:
    def refuse(reason: str) -> CorruptionError:
        return CorruptionError(f"{where}: {MANIFEST_NAME} {reason}; it is not restored")

    if manifest.format < 1 or manifest.database_format < 1:
        raise refuse(f"says format {manifest.format} of a database {manifest.database_format}")
    if len(manifest.files) > BUNDLE_FILES_MAX:
        raise refuse(f"names {len(manifest.files)} files; the limit is {BUNDLE_FILES_MAX}")
    numbers = {c.number for c in manifest.collections}
    names = {c.name for c in manifest.collections}
    if len(numbers) != len(manifest.collections) or len(names) != len(manifest.collections):
        raise refuse("names a collection twice")
    for collection in manifest.collections:
        try:
            check_name(collection.name)
        except VicinalError as fault:
            raise refuse(f"names a collection that none may have: {fault}") from None
    folders = folders_of(manifest)
    seen: set[str] = set()
    for file in manifest.files:
        place_of(file.name, folders)
        if file.name in seen:
            raise refuse(f"names the file {file.name!r} twice")
        if file.bytes < 0 or not _SHA256.fullmatch(file.sha256):
            raise refuse(f"gives {file.name!r} {file.bytes} bytes and the sum {file.sha256[:70]!r}")
        seen.add(file.name)
    for number in numbers:
        if f"{number}.store.CURRENT" not in seen:
            raise refuse(f"lacks the store of collection number {number}")
