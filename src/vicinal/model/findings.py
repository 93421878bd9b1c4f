"""What an examination of a database found, in words for the person who has to act on it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad a finding is.

    DAMAGE : data that nothing else holds is lost or contradicts itself; a copy has to help.
    DERIVED : something that is made out of the data is damaged; `--repair` makes it anew.
    NOTE : no harm; something that lies about, or a part that was not looked at.
    """

    DAMAGE = "damage"
    DERIVED = "derived"
    NOTE = "note"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    Attributes
    ----------
    collection : where, None for the database itself.
    place : the file, or what stands for one.
    what, remedy : what is wrong, and what to do about it.
    mended : a repair has put it right.
    """

    level: Level
    collection: str | None
    place: str
    what: str
    remedy: str
    mended: bool = False


class Report(msgspec.Struct, frozen=True):
    """All findings of a database, and the points of each collection that could be examined."""

    path: str
    collections: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing but notes and mended things were found."""
        return all(f.mended or f.level is Level.NOTE for f in self.findings)
