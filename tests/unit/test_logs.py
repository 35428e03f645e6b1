"""difs.logs: lines for people, or one JSON object each."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from difs import logs


@contextmanager
def a_fresh_root() -> Iterator[io.StringIO]:
    """Yield what is logged within, where the root logger has no handlers yet."""
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(logging.root, "handlers", [])
        before = logging.root.level
        try:
            yield stream
        finally:
            logging.root.setLevel(before)


def test_a_json_line_is_one_object_with_the_ids_that_are_known() -> None:
    with a_fresh_root() as root:
        logs.to_stderr("broker", "info", "json")
        ids = {"request_id": "r1", "attempt": 2, "actor": "", "canary": "kept out"}
        logging.getLogger("difs.test").info("a\nb %d", 7, extra=ids)
        (line,) = root.getvalue().splitlines()
        found = json.loads(line)
        assert found.pop("time").endswith("+00:00")
        assert found == {
            "process": "broker",
            "level": "info",
            "message": "a\nb 7",
            "request_id": "r1",
            "attempt": 2,
        }


def test_a_traceback_stays_within_its_line() -> None:
    with a_fresh_root() as root:
        logs.to_stderr("broker", "info", "json")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("difs.test").exception("it broke")
        (line,) = root.getvalue().splitlines()
        assert "ValueError: broken" in json.loads(line)["traceback"]


def test_by_default_lines_are_for_people() -> None:
    with a_fresh_root() as root:
        logs.to_stderr("cpu-0", "warning")
        logging.getLogger("difs.test").info("too quiet")
        logging.getLogger("difs.test").warning("loud")
        (line,) = root.getvalue().splitlines()
        assert line.endswith(" cpu-0 WARNING: loud")
