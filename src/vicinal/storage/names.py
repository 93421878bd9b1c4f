"""Collection names and the directory names they become: reversible, safe on any file system.

Lower-case letters, digits, `-` and `_` stand for themselves and every other UTF-8 byte becomes
`%xx`, upper case included, so that `Docs` and `docs` stay apart where the file system ignores case.
A name that grows past what a file name may hold becomes `=` and its base32 instead.
"""

from __future__ import annotations

import base64
import re
import unicodedata

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import NAME_BYTES_MAX

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_ESCAPED = re.compile(r"(?:[a-z0-9_-]|%[0-9a-f]{2})+")
_FILE_NAME_MAX = 200
# Control characters, unpaired surrogates, line and paragraph separators.
_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_name(name: str) -> str:
    """Return the name; InvalidArgumentError or LimitError where it may not name a collection."""
    for character in name:
        if unicodedata.category(character) in _FORBIDDEN:
            raise InvalidArgumentError(
                f"collection name {name!r} holds {character!r}; control characters are not allowed"
            )
    size = len(name.encode())
    if size == 0:
        raise InvalidArgumentError("a collection name is empty; give it at least one character")
    if size > NAME_BYTES_MAX:
        raise LimitError(
            f"collection name {name[:32]!r}... has {size} bytes in UTF-8, at most {NAME_BYTES_MAX}"
        )
    return name


def escape_name(name: str) -> str:
    """Return the directory name of a collection."""
    raw = check_name(name).encode()
    escaped = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in raw)
    if len(escaped) <= _FILE_NAME_MAX:
        return escaped
    return "=" + base64.b32encode(raw).decode().rstrip("=").lower()


def unescape_name(file_name: str) -> str | None:
    """Return the collection name of a directory name, None for what `escape_name` never makes."""
    try:
        if file_name.startswith("="):
            body = file_name[1:].upper()
            raw = base64.b32decode(body + "=" * (-len(body) % 8))
        elif _ESCAPED.fullmatch(file_name):
            raw = re.sub(
                rb"%(..)", lambda found: bytes.fromhex(found[1].decode()), file_name.encode()
            )
        else:
            return None
        name = raw.decode()
        return name if escape_name(name) == file_name else None
    except (ValueError, InvalidArgumentError, LimitError):  # base64 and UTF-8 raise ValueError
        return None
