"""API keys: shown once, kept as hashes, right or wrong, for a time, and gone when revoked."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import vicinal
from vicinal.server import keys as keys_module
from vicinal.server.config import ServerConfig
from vicinal.server.keys import KEYS_FILE, KeyStore
from vicinal.wire.operations import Role


class Clock:
    """A clock that stands until it is moved."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_found_and_its_secret_is_not_stored(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    text, key = store.create(name="app", role="write", collections=("docs",))
    assert store.find(text) == key == KeyStore(tmp_path).find(text)
    file = tmp_path / KEYS_FILE
    assert text.split("_", 2)[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(text.split("_", 2)[2]) == 43, "256 bits in base64"


def test_any_change_of_a_key_makes_it_wrong(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    text, key = store.create()
    other, _ = store.create()
    head, secret = f"vk_{key.id}_", text.split("_", 2)[2]
    swapped = head + other.split("_", 2)[2]
    flipped = ("B" if secret[0] == "A" else "A") + secret[1:]
    wrong = ["", "vk", "vk__", head, head + "é", head + secret[:-1], head + flipped, swapped]
    wrong += [text.upper(), "xx" + text[2:], text + "A", f"vk_{'0' * 12}_{secret}", text + "\n!"]
    assert [w for w in wrong if store.find(w) is not None] == []


def test_a_key_ends_when_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    store = KeyStore(tmp_path, clock)
    text, _ = store.create(valid_s=60)
    clock.now += 59
    assert store.find(text) is not None
    clock.now += 1
    assert store.find(text) is None


def test_a_revoked_key_is_refused_by_a_store_that_knew_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "RELOAD_S_MAX", 0.0)
    server, command_line = KeyStore(tmp_path), KeyStore(tmp_path)
    text, key = command_line.create()
    assert server.find(text) is not None
    command_line.revoke(key.id)
    assert server.find(text) is None
    assert command_line.list() == []
    with pytest.raises(vicinal.NotFoundError, match=key.id):
        command_line.revoke(key.id)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("read", {Role.READ}), ("write", {Role.READ, Role.WRITE}), ("admin", set(Role))],
)
def test_a_role_includes_those_before_it(tmp_path: Path, role: str, allowed: set[Role]) -> None:
    _, key = KeyStore(tmp_path).create(role=role, collections=("docs",))
    assert {r for r in Role if key.allows(r, "docs")} == allowed
    assert not any(key.allows(r, "other") for r in Role)


@pytest.mark.parametrize(
    "options",
    [{"role": "root"}, {"collections": ()}, {"valid_s": 0}, {"valid_s": -1}, {"name": "a\nb"}],
)
def test_options_out_of_range_make_no_key(tmp_path: Path, options: dict[str, object]) -> None:
    store = KeyStore(tmp_path)
    with pytest.raises(vicinal.InvalidArgumentError):
        store.create(**options)  # type: ignore[arg-type]
    assert store.list() == []


def test_a_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).write_text('{"version": 1, "keys": [{}]}')
    with pytest.raises(vicinal.CorruptionError, match=KEYS_FILE):
        KeyStore(tmp_path).find("vk_a_b")


@pytest.mark.parametrize(
    ("host", "auth", "keys", "needed"),
    [
        ("127.0.0.1", None, False, False),
        ("127.0.0.1", None, True, True),
        ("0.0.0.0", None, True, True),  # noqa: S104
        ("0.0.0.0", None, False, True),  # noqa: S104
        ("0.0.0.0", False, True, False),  # noqa: S104
        ("localhost", True, False, True),
    ],
)
def test_keys_are_needed_unless_told_otherwise_or_alone(
    tmp_path: Path, host: str, auth: bool | None, keys: bool, needed: bool
) -> None:
    store = KeyStore(tmp_path)
    if keys:
        store.create()
    assert store.needed(ServerConfig(host=host, auth=auth)) is needed
