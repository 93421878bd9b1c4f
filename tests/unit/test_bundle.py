"""Foreign and damaged bundles: refused before anything lands outside its place, and nothing is left of the attempt."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.model.errors import CorruptionError, FormatVersionError, VicinalError
from vicinal.storage.bundle import MANIFEST_NAME, decode_bundle, place_of, store_name

CURRENT = "0.store.CURRENT"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle in a folder."""
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("c", dim=4)
        docs.upsert(ids=range(20), vectors=np.eye(20, 4, dtype=np.float32) + 1)
        docs.optimize()
        db.backup(tmp_path / "bundle")
    return tmp_path / "bundle"


def change(bundle: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the manifest."""
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    edit(manifest)
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))


def refused(source: Path, tmp_path: Path, error: type[VicinalError], words: str) -> bool:
    """Whether restoring raises that error in such words, and leaves no trace, here or elsewhere."""
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    try:
        vicinal.restore(source, tmp_path / "new")
    except error as fault:
        said = re.search(words, str(fault)) is not None
        return said and sorted(str(p) for p in tmp_path.rglob("*")) == before
    return False


@pytest.mark.parametrize(
    "name",
    [
        "../../evil", "/etc/passwd", "0.store.../x", "0.store.CURRENT/../x", "0.store.LOCK", "..",
        "0.store.000001.sst\n", "0.store.rocksdict-config.json", "0.segment.1.../x.bin",
        "0.segment.1.graph.bin.damaged", "0.segment.-1.graph.bin", "0.segment.1.graph.so", "",
        "9.store.CURRENT", "0.store.\x00CURRENT", "0.store.CURRENT ", "٠.store.CURRENT",
    ],
)  # fmt: skip
def test_a_name_that_no_file_of_ours_has_is_refused(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(CorruptionError):
        place_of(name, {0: "c"})
    change(bundle, lambda m: m["files"].append(dict(m["files"][0], name=name)))
    assert refused(bundle, tmp_path, CorruptionError, "which no bundle of ours does")


def test_names_of_ours_have_their_place() -> None:
    folders = {3: "c"}
    assert place_of("3.store.000012.sst", folders) == Path("collections/c/store/000012.sst")
    assert place_of("3.segment.7.rows.bin", folders) == Path("collections/c/segments/7/rows.bin")
    assert store_name(3, "MANIFEST-000005") == "3.store.MANIFEST-000005"
    for name in ("LOCK", "LOG", "ACKED", "rocksdict-config.json", "LOG.old.1"):
        assert store_name(3, name) is None


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[VicinalError], str]] = {
    "newer": (lambda m: m.update(format=2, more=1), FormatVersionError, "newer bundle format"),
    "newer database": (lambda m: m.update(database_format=99), FormatVersionError, "format 99"),
    "format 0": (lambda m: m.update(format=0), CorruptionError, "says format"),
    "a key too many": (lambda m: m.update(extra=1), CorruptionError, "cannot be read"),
    "a key too few": (lambda m: m.pop("created"), CorruptionError, "cannot be read"),
    "file twice": (lambda m: m["files"].append(m["files"][0]), CorruptionError, "twice"),
    "negative": (lambda m: m["files"][0].update(bytes=-1), CorruptionError, "-1 bytes"),
    "no sum": (lambda m: m["files"][0].update(sha256="x"), CorruptionError, "the sum 'x'"),
    "other sum": (lambda m: m["files"][0].update(sha256="0" * 64), CorruptionError, "SHA-256"),
    "more bytes": (lambda m: m["files"][0].update(bytes=10**6), CorruptionError, "of the 1000000"),
    "fewer bytes": (lambda m: m["files"][0].update(bytes=3), CorruptionError, "more than the 3"),
    "too much": (lambda m: m["files"][0].update(bytes=2**60), vicinal.StorageError, "are free"),
    "bad name": (
        lambda m: m["collections"][0].update(name="a\nb"), CorruptionError, "that none may have",
    ),
    "name twice": (
        lambda m: m["collections"].append(m["collections"][0]), CorruptionError, "twice",
    ),
    "no store": (
        lambda m: m.update(files=[f for f in m["files"] if f["name"] != CURRENT]),
        CorruptionError, "lacks the store",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_a_manifest_that_is_not_true_is_refused(bundle: Path, tmp_path: Path, case: str) -> None:
    edit, error, words = EDITS[case]
    change(bundle, edit)
    assert refused(bundle, tmp_path, error, words)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"{", b'{"format": "1"}', b"nul"])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptionError, match="cannot be read"):
        decode_bundle(raw, "here")


def test_a_flipped_bit_in_any_file_is_found(bundle: Path, tmp_path: Path) -> None:
    for file in sorted(bundle.iterdir()):
        whole = file.read_bytes()
        if not whole or file.name == MANIFEST_NAME:
            continue
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        file.write_bytes(damaged)
        assert refused(bundle, tmp_path, CorruptionError, "SHA-256")
        file.write_bytes(whole)
    vicinal.restore(bundle, tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_missing_file_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (bundle / CURRENT).unlink()
    assert refused(bundle, tmp_path, vicinal.StorageError, "No such file")


def test_links_and_pipes_in_a_folder_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle / CURRENT).read_bytes())
    (bundle / CURRENT).unlink()
    (bundle / CURRENT).symlink_to(secret)
    assert refused(bundle, tmp_path, CorruptionError, "is a link")
    (bundle / CURRENT).unlink()
    os.mkfifo(bundle / CURRENT)
    assert refused(bundle, tmp_path, CorruptionError, "no plain file")


def archive(bundle: Path, target: Path, extra: tarfile.TarInfo | None = None) -> None:
    """A tar of a bundle by other means than ours, with something that does not belong."""
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as tar:
        names = sorted(p.name for p in bundle.iterdir() if p.name != MANIFEST_NAME)
        for name in [MANIFEST_NAME, *names]:
            data = (bundle / name).read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if extra is not None:
            tar.addfile(extra, io.BytesIO(bytes(extra.size)))


def test_a_tar_by_other_means_restores(bundle: Path, tmp_path: Path) -> None:
    archive(bundle, tmp_path / "b.tar.gz")
    vicinal.restore(tmp_path / "b.tar.gz", tmp_path / "new")
    with vicinal.open(tmp_path / "new") as db:
        assert db.collection("c").count() == 20


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (member("../../evil", size=4), "no name of a file"),
        (member("/etc/evil", size=4), "no name of a file"),
        (member("a/b", size=4), "no name of a file"),
        (member("a..b", size=4), "no name of a file"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "plain files only"),
        (member(CURRENT, tarfile.LNKTYPE, "../../secret"), "plain files only"),
        (member("folder", tarfile.DIRTYPE), "plain files only"),
        (member("device", tarfile.CHRTYPE), "plain files only"),
        (member("pipe", tarfile.FIFOTYPE), "plain files only"),
        (member("x" * 150, size=4), "plain files only"),
        (member("stranger", size=4), "not what the manifest names"),
        (member(CURRENT, size=4), "not what the manifest names"),
    ],
)
def test_a_tar_with_anything_but_our_files_is_refused(
    bundle: Path, tmp_path: Path, extra: Any, words: str
) -> None:
    archive(bundle, tmp_path / "b.tar", extra)
    assert refused(tmp_path / "b.tar", tmp_path, CorruptionError, words)


@pytest.mark.parametrize("keep", [0, 100, 512, 1500, -2000])
def test_a_tar_that_ends_early_is_refused(bundle: Path, tmp_path: Path, keep: int) -> None:
    archive(bundle, tmp_path / "b.tar")
    raw = (tmp_path / "b.tar").read_bytes()
    last = raw.rindex(b"\0" * 1024)
    while raw[last - 512 : last].strip(b"\0") == b"":
        last -= 512
    (tmp_path / "b.tar").write_bytes(raw[: keep if keep >= 0 else last + keep])
    assert refused(tmp_path / "b.tar", tmp_path, CorruptionError, "early|missing|no backup")
    archive(bundle, tmp_path / "c.tar.gz")
    packed = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(packed[: len(packed) // 2])
    assert refused(tmp_path / "c.tar.gz", tmp_path, CorruptionError, "early|gzip")


def test_a_flipped_bit_in_a_tar_header_is_found(bundle: Path, tmp_path: Path) -> None:
    archive(bundle, tmp_path / "b.tar")
    raw = bytearray((tmp_path / "b.tar").read_bytes())
    raw[5] ^= 1
    (tmp_path / "b.tar").write_bytes(raw)
    assert refused(tmp_path / "b.tar", tmp_path, CorruptionError, "header fails its checksum")


def test_bombs_are_refused_when_they_grow_not_when_they_have_grown(
    bundle: Path, tmp_path: Path
) -> None:
    # A manifest of zeros, before anybody has said how much there should be.
    huge = tmp_path / "huge.tar.gz"
    with gzip.open(huge, "wb") as out:
        info = member(MANIFEST_NAME, size=200 * 2**20)
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            out.write(bytes(2**20))
    assert huge.stat().st_size < 2**20
    assert refused(huge, tmp_path, CorruptionError, "unfold")
    # More behind the last file than the manifest has announced.
    archive(bundle, tmp_path / "b.tar.gz", member("stuffing", size=64 * 2**20))
    assert refused(tmp_path / "b.tar.gz", tmp_path, CorruptionError, "not what the manifest|unfold")


def test_a_file_that_compresses_a_thousand_times_is_restored(bundle: Path, tmp_path: Path) -> None:
    zeros = bytes(8 * 2**20)
    (bundle / "0.store.999999.sst").write_bytes(zeros)
    sha = hashlib.sha256(zeros).hexdigest()
    entry = {"name": "0.store.999999.sst", "bytes": len(zeros), "sha256": sha}
    change(bundle, lambda m: m["files"].append(entry))
    archive(bundle, tmp_path / "b.tar.gz")
    vicinal.restore(tmp_path / "b.tar.gz", tmp_path / "new")
    assert (tmp_path / "new/collections/c/store/999999.sst").read_bytes() == zeros


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for raw in (b"", b"hello", bytes(1024), b"\x1f\x8bnot gzip"):
        (tmp_path / "x.tar").write_bytes(raw)
        assert refused(tmp_path / "x.tar", tmp_path, CorruptionError, "x.tar")


def test_an_address_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="nobody://"):
        vicinal.restore("nobody://x/y", tmp_path / "new")
