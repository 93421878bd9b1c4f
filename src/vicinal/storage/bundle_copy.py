"""Making bundles, copying them, and turning one into a database again; every byte on the way is summed and compared."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from vicinal.model.version import VERSION
from vicinal.storage.archive import CHUNK_BYTES
from vicinal.storage.bundle import (
    BUNDLE_FORMAT,
    MANIFEST_NAME,
    BundleCollection,
    BundleFile,
    BundleManifest,
    Meter,
    Progress,
    checked,
    encode_bundle,
    folders_of,
    place_of,
)
from vicinal.storage.bundle_places import (
    check_room,
    read_bundle,
    refuse_existing,
    write_bundle,
    write_chunks,
)
from vicinal.storage.files import REAL, FileSystem, os_errors, remove_tree, write_file
from vicinal.storage.layout import COLLECTIONS_NAME, FORMAT_VERSION, write_format

# What hard links may fail with: another disk, a file system without them, too many of them.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOTSUP}


def link_or_copy(fs: FileSystem, source: Path, target: Path) -> None:
    """Give an immutable file a second name, or a copy where that is not possible."""
    try:
        fs.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def finish_bundle(
    folder: Path,
    collections: Sequence[BundleCollection],
    progress: Progress | None,
    fs: FileSystem = REAL,
) -> BundleManifest:
    """Sum the files that lie in a folder and write the manifest; with it the folder is a bundle."""
    with os_errors(f"writing {folder}"):
        names = fs.listdir(folder)
        meter = Meter(sum((folder / name).stat().st_size for name in names), progress)
        files = tuple(_summed(folder / name, meter) for name in names)
        manifest = BundleManifest(
            format=BUNDLE_FORMAT,
            written_by=VERSION,
            database_format=FORMAT_VERSION,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            collections=tuple(collections),
            files=files,
        )
        for file in files:
            _sync_file(fs, folder / file.name)
        write_file(fs, folder / MANIFEST_NAME, encode_bundle(manifest))
    return manifest


def copy_bundle(source: Path, target: str | Path, progress: Progress | None) -> BundleManifest:
    """Copy a bundle; the target is a folder, an archive or an address, and new."""
    with read_bundle(source) as reading:
        manifest = reading.manifest
        meter = Meter(manifest.bytes, progress)
        with write_bundle(target, encode_bundle(manifest)) as writing:
            if "://" not in str(target):
                check_room(REAL, _existing(Path(target)), manifest.bytes)
            for file, chunks in reading.files():
                writing.put(file, _metered(checked(file, chunks, str(source)), meter))
    return manifest


def restore_bundle(
    source: str | Path, target: Path, progress: Progress | None, fs: FileSystem = REAL
) -> BundleManifest:
    """Make a database of a bundle; it appears under its name when it is whole, on the disk and checked.

    Raises
    ------
    NotFoundError : there is no bundle at source.
    InvalidArgumentError : there is something at target already.
    CorruptionError, FormatVersionError : the bundle is damaged, foreign or newer; nothing is left of the attempt.
    StorageError : the operating system refused, or the disk has no room.
    """
    target = target.absolute()
    refuse_existing(target)
    with read_bundle(source) as reading:
        manifest = reading.manifest
        folders = folders_of(manifest)
        meter = Meter(manifest.bytes, progress)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.restoring")
        with os_errors(f"restoring {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            check_room(fs, target.parent, manifest.bytes)
            if fs.exists(temporary):
                remove_tree(fs, temporary)
            fs.mkdir(temporary)
        try:
            (temporary / COLLECTIONS_NAME).mkdir()
            made: set[Path] = {temporary, temporary / COLLECTIONS_NAME}
            for file, chunks in reading.files():
                place = temporary / place_of(file.name, folders)
                place.parent.mkdir(parents=True, exist_ok=True)
                made.update(p for p in place.parents if p.is_relative_to(temporary))
                write_chunks(fs, place, _metered(checked(file, chunks, str(source)), meter))
            with os_errors(f"restoring {target}"):
                write_format(fs, temporary)
                for folder in made:
                    fs.fsync_dir(folder)
                if target.is_dir():
                    fs.rmdir(target)
                fs.rename(temporary, target)
                fs.fsync_dir(target.parent)
        except BaseException:
            remove_tree(fs, temporary)
            raise
    return manifest


def bundle_info(manifest: BundleManifest) -> dict[str, object]:
    """A manifest in few words: when, what, how much."""
    return {
        "created": manifest.created,
        "written_by": manifest.written_by,
        "collections": msgspec.to_builtins({c.name: c.points for c in manifest.collections}),
        "files": len(manifest.files),
        "bytes": manifest.bytes,
    }


def _metered(chunks: Iterable[bytes], meter: Meter) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        meter.add(len(chunk))


def _summed(path: Path, meter: Meter) -> BundleFile:
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
            size += len(chunk)
            meter.add(len(chunk))
    return BundleFile(path.name, size, sha.hexdigest())


def _sync_file(fs: FileSystem, path: Path) -> None:
    fd = fs.open_read(path)
    try:
        fs.fsync(fd)
    finally:
        fs.close(fd)


def _existing(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())
