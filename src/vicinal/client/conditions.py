"""The options of writes, turned into what the engine takes: modes, expected versions, changes of a payload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from vicinal.model.change import Change, WriteMode
from vicinal.model.clock import ExpiresAt, expiry_ms
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.naming import member

IfVersion: TypeAlias = int | Sequence[int | None]


def parse_mode(mode: str | WriteMode) -> WriteMode:
    """The mode of that name; InvalidArgumentError lists the known ones."""
    return member(WriteMode, mode, "mode")


def to_versions(if_version: Any, n: int) -> list[int | None] | None:
    """One version for each of n ids, or None where no version is asked for.

    Raises InvalidArgumentError where there are not n of them, or one is not an int of 0 or more.
    """
    if if_version is None:
        return None
    if isinstance(if_version, int | np.integer):
        if n != 1:
            raise InvalidArgumentError(
                f"if_version is one number, {if_version!r}, for {n} ids; give a list of {n}"
            )
        if_version = [if_version]
    if isinstance(if_version, str | bytes | Mapping) or not isinstance(if_version, Iterable):
        raise InvalidArgumentError(
            f"if_version is {if_version!r}; give an int, or a list of ints parallel to the ids"
        )
    given = list(cast("Iterable[object]", if_version))
    if len(given) != n:
        raise InvalidArgumentError(f"if_version has {len(given)} entries for {n} ids")
    return [_version(i, value) for i, value in enumerate(given)]


def to_change(
    payload: Mapping[str, Any] | None,
    *,
    replace: bool,
    delete_keys: Iterable[str] | None,
    expires_at: ExpiresAt | None = None,
) -> Change:
    """The change of an update; InvalidArgumentError where its parts contradict one another."""
    if payload is not None and not isinstance(cast("object", payload), Mapping):
        raise InvalidArgumentError(
            f"payload is of type {type(payload).__name__}; give a dict of the fields to set"
        )
    if isinstance(delete_keys, str | bytes):
        raise InvalidArgumentError(
            f"delete_keys is one value, {delete_keys!r}; give a list of field names"
        )
    fields = {} if payload is None else dict(payload)
    expires_ms = None if expires_at is None else expiry_ms(expires_at)
    if delete_keys is None:
        if payload is None and (replace or expires_ms is None):
            raise InvalidArgumentError(
                "nothing to change; give payload=, delete_keys= or expires_at="
            )
        return Change(fields, replace=bool(replace), expires_ms=expires_ms)
    if replace:
        raise InvalidArgumentError(
            "delete_keys does not apply to replace=True, which leaves only the given fields"
        )
    remove = tuple(dict.fromkeys(delete_keys))
    for name in remove:
        if not isinstance(cast("object", name), str):
            raise InvalidArgumentError(f"delete_keys holds {name!r}; field names are str")
        if name in fields:
            raise InvalidArgumentError(f"field {name!r} is both set and deleted; choose one")
    if not remove and payload is None:
        raise InvalidArgumentError("delete_keys is empty; name at least one field")
    return Change(fields, remove=remove, expires_ms=expires_ms)


def _version(place: int, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise InvalidArgumentError(
            f"if_version[{place}] is {value!r}; a version is an int of 0 (does not exist) or more"
        )
    return int(cast("int", value))
