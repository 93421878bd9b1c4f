"""Evaluates a filter over a consistent state of the field indexes of one segment."""

from __future__ import annotations

from typing import NamedTuple, cast

from pyroaring import BitMap

from vicinal.engine.payload_run import Run
from vicinal.model.filter import (
    And,
    Constant,
    Filter,
    Leaf,
    Not,
    Or,
    Path,
    Payload,
    PointId,
    compile_predicate,
)

# The runs of one field, each with the rows of it that a later run holds anew.
# Nothing in it is ever changed once published, so readers need no lock.
FieldRuns = tuple[tuple[Run, BitMap], ...]


class View(NamedTuple):
    """A state of n rows: runs of the fields in question, and the pending rows with payloads."""

    n: int
    generation: int
    fields: dict[Path, FieldRuns]
    pending: BitMap
    payloads: list[tuple[int, Payload, PointId]]


def evaluate(where: Filter, view: View) -> BitMap:
    """Return the rows of the view that pass, as a new bitmap."""
    # The pending rows are in no run, or in one that is out of date.
    indexed = len(view.pending) < view.n
    result = _evaluate(where, view) - view.pending if indexed else BitMap()
    if view.payloads:
        predicate = compile_predicate(where)
        result |= BitMap([row for row, payload, pid in view.payloads if predicate(payload, pid)])
    return result


def _evaluate(where: Filter, view: View) -> BitMap:
    if isinstance(where, And):
        result = _evaluate(where.parts[0], view)
        for part in where.parts[1:]:
            if not result:
                break
            result = result & _evaluate(part, view)
        return result
    if isinstance(where, Or):
        return BitMap.union(*[_evaluate(part, view) for part in where.parts])
    if isinstance(where, Not):
        return _evaluate(where.part, view).flip(0, view.n)
    if isinstance(where, Constant):
        return BitMap(range(view.n)) if where.value else BitMap()
    leaf = cast("Leaf", where)
    found: list[BitMap] = []
    for run, dead in view.fields[leaf.path]:
        rows = run.select(leaf, view.n)
        found.append(rows - dead if dead else rows)
    return found[0] if len(found) == 1 else BitMap.union(*found)
