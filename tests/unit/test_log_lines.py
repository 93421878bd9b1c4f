"""Lines of the log: one line each, JSON that parses, the request's id, and no more of them than the limit."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from vicinal.model.errors import InvalidArgumentError
from vicinal.telemetry.log import (
    REQUEST_ID,
    LineLimit,
    configure,
    event,
    get_logger,
    unconfigure,
)


@pytest.fixture(params=["text", "json"])
def lines(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    stream = io.StringIO()
    handler = configure(request.param, "info", stream)
    yield request.param, stream
    unconfigure(handler)


def test_a_line_has_its_time_level_logger_message_fields_and_request(
    lines: tuple[str, io.StringIO],
) -> None:
    form, stream = lines
    token = REQUEST_ID.set("r-1")
    event(get_logger("x"), logging.INFO, "made", name="ä b", n=3, none=None)
    event(get_logger("x"), logging.DEBUG, "not shown")
    REQUEST_ID.reset(token)
    (line,) = stream.getvalue().splitlines()
    if form == "text":
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO vicinal\.x: made "
            r'name="ä b" n=3 none=null request_id=r-1',
            line,
        )
    else:
        found = json.loads(line)
        assert found.pop("time").endswith("Z")
        assert found == {
            "level": "info",
            "logger": "vicinal.x",
            "message": "made",
            "request_id": "r-1",
            "name": "ä b",
            "n": 3,
            "none": None,
        }


def test_what_a_stranger_sent_makes_no_line_of_its_own(lines: tuple[str, io.StringIO]) -> None:
    form, stream = lines
    get_logger("x").warning("bad name %s", "a\nERROR forged\r\nb")
    event(get_logger("x"), logging.WARNING, "bad", name='x\ny="1"')
    assert len(stream.getvalue().splitlines()) == 2
    if form == "json":
        first, second = map(json.loads, stream.getvalue().splitlines())
        assert first["message"] == "bad name a\nERROR forged\r\nb"
        assert second["name"] == 'x\ny="1"'


def test_a_fault_brings_its_trace(lines: tuple[str, io.StringIO]) -> None:
    form, stream = lines
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("x").exception("failed")
    text = stream.getvalue()
    assert "ValueError: boom" in (json.loads(text)["trace"] if form == "json" else text)


def test_forms_and_levels_that_are_not_known_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="text, json"):
        configure("xml", "info", io.StringIO())
    with pytest.raises(InvalidArgumentError, match="debug, info"):
        configure("json", "loud", io.StringIO())


def test_line_limit_counts_what_it_leaves_out() -> None:
    now = [0.0]
    limit = LineLimit(2, lambda: now[0])
    assert [limit.turn() for _ in range(5)] == [0, 0, None, None, None]
    now[0] = 1.0
    assert [limit.turn() for _ in range(3)] == [3, 0, None]
