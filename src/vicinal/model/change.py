"""What a write may demand and do: modes of an upsert, versions that must hold, changes of a payload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vicinal.model.errors import AlreadyExistsError, NotFoundError, VersionConflictError
from vicinal.model.ids import decode_id
from vicinal.model.payload import Payload


class WriteMode(StrEnum):
    """Which ids an upsert may meet: any, only new ones, or only those that exist."""

    UPSERT = "upsert"
    INSERT_ONLY = "insert_only"
    UPDATE_ONLY = "update_only"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for a batch to be written; otherwise none of it is.

    Attributes
    ----------
    mode : which ids it may meet.
    versions : for each id the version it must have, 0 where it must not exist, None for any.
    """

    mode: WriteMode = WriteMode.UPSERT
    versions: Sequence[int | None] | None = None

    @property
    def any(self) -> bool:
        """Whether there is something to check."""
        return self.mode is not WriteMode.UPSERT or self.versions is not None

    def part(self, start: int, end: int) -> Conditions:
        """The conditions of the ids from start to end."""
        versions = self.versions
        return Conditions(self.mode, None if versions is None else versions[start:end])

    def check(self, keys: Sequence[bytes], found: Sequence[int]) -> None:
        """Raise for the first id whose found version (0: it does not exist) breaks a condition.

        Raises
        ------
        VersionConflictError : a version is another one.
        AlreadyExistsError, NotFoundError : the mode forbids an id that exists, or that does not.
        """
        for i, expected in enumerate(self.versions or ()):
            if expected is not None and found[i] != expected:
                raise VersionConflictError(decode_id(keys[i]), expected, found[i])
        if self.mode is WriteMode.INSERT_ONLY:
            there = [i for i, version in enumerate(found) if version]
            if there:
                raise AlreadyExistsError(decode_id(keys[there[0]]), len(there) - 1)
        elif self.mode is WriteMode.UPDATE_ONLY:
            missing = [i for i, version in enumerate(found) if not version]
            if missing:
                more = f" (nor do {len(missing) - 1} more)" if len(missing) > 1 else ""
                first = decode_id(keys[missing[0]])
                raise NotFoundError(
                    f"id {first!r} does not exist{more}; nothing was written: "
                    "mode='update_only' replaces existing points, mode='upsert' also makes new ones",
                    first,
                )


ANY = Conditions()
"""No condition."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an update does to each payload: fields to set, fields to remove, or a new payload.

    Attributes
    ----------
    fields : top-level fields and their new values.
    replace : whether they become the whole payload.
    remove : top-level fields to take away; a point need not have them.
    expires_ms : the new expiry, NEVER_MS for none; None leaves it as it is.
    """

    fields: Payload
    replace: bool = False
    remove: tuple[str, ...] = ()
    expires_ms: int | None = None

    @property
    def touches_payload(self) -> bool:
        """Whether payloads change, not the expiry alone."""
        return bool(self.fields or self.replace or self.remove) or self.expires_ms is None

    def apply(self, old: Payload) -> Payload:
        """The payload after the change."""
        if self.replace:
            return self.fields
        merged = old | self.fields
        for field in self.remove:
            merged.pop(field, None)
        return merged
