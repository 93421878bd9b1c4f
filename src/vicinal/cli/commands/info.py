"""`vicinal info`: everything there is to know about a collection."""

from __future__ import annotations

from typing import Any, cast

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption


def info(
    database: DatabaseArgument, collection: CollectionOption = None, json: JsonOption = False
) -> None:
    """Show a collection's configuration, segments, memory and disk."""
    from vicinal.cli.console import print_json, print_table
    from vicinal.cli.opening import choose, opened, read_note

    with opened(database) as db:
        chosen = choose(db, collection)
        stats = chosen.stats()
        note = read_note(db.path, chosen.name)
    if note.embedder is not None:
        stats["embedder"] = note.embedder
    if json:
        print_json(stats)
        return
    segments: list[dict[str, Any]] = stats.pop("segments")
    print_table(["property", "value"], [(name, _text(name, value)) for name, value in _flat(stats)])
    if segments:
        print()
        columns = [name for name in segments[0] if not isinstance(segments[0][name], dict | list)]
        rows = [[_text(name, segment[name]) for name in columns] for segment in segments]
        print_table([f"#{name}" for name in columns], rows)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value))
    return rows


def _text(name: str, value: Any) -> Any:
    from vicinal.cli.console import bytes_text

    if isinstance(value, bool) or value is None:
        return "tail" if value is None and name == "number" else str(value).lower()
    if "bytes" in name:
        return bytes_text(int(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
