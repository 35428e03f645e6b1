"""What Open WebUI asks of its image engines, request by request (recordings/open_webui.json)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.door import Door, left_idle, opened, shown

pytestmark = pytest.mark.process

RECORDED = json.loads((Path(__file__).parent / "recordings" / "open_webui.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def running() -> Iterator[Door]:
    with opened() as door:
        yield door


@pytest.fixture
def door(running: Door) -> Iterator[Door]:
    yield from left_idle(running)


@pytest.mark.parametrize("sequence", RECORDED["sequences"], ids=lambda sequence: sequence["name"])
def test_every_request_of_open_webui_is_answered_as_it_expects(
    door: Door, sequence: dict[str, Any]
) -> None:
    before: Any = None
    for asked in sequence["requests"]:
        before = _replayed(door, asked, before)


def _replayed(door: Door, asked: dict[str, Any], before: Any) -> Any:
    """Make one request and check its answer; `before` is the answer before it, which some echo."""
    body: dict[str, Any] = {}
    if "form" in asked:
        body = {"data": asked["form"], "files": {"image[]": ("a.png", b"x", "image/png")}}
    elif "echoes" in asked:
        body = {"json": before | asked["echoes"]}
    elif "json" in asked:
        body = {"json": asked["json"]}
    got = door.http.request(asked["method"], asked["path"], headers=asked["headers"], **body)
    assert got.status_code == asked.get("status", 200), got.text
    answer = got.json()
    for entry in answer if isinstance(answer, list) else [answer]:
        assert set(asked.get("has", ())) <= set(entry)
    if "pictures" in asked:
        made = answer.get("images") or [datum["b64_json"] for datum in answer["data"]]
        assert [shown(text).ndim for text in made] == [3] * asked["pictures"]
    return answer
