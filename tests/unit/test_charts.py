"""The trade-off as a picture: the front is right, and both forms are drawn."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from difs import charts
from difs.errors import Unsupported
from difs.messages import Alternative


def point(total_s: float, quality: float | None, **facts: Any) -> Alternative:
    known: dict[str, Any] = {"variant": "base", "device": "cpu-0", "steps": 4, "guidance_scale": 1.0}
    return Alternative(**known | {"why_not": "later"} | facts, total_s=total_s, expected_quality=quality)


QUALITIES = st.none() | st.floats(0, 1)


@given(st.lists(st.builds(point, st.floats(0.01, 100), QUALITIES), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[Alternative]) -> None:
    front = charts.front(points)
    places = [(f.total_s, f.expected_quality or 0.0) for f in front]
    for p in points:
        if p.expected_quality is None:
            assert p not in front
        else:
            assert any(soon <= p.total_s and good >= p.expected_quality for soon, good in places)
    seconds = [soon for soon, _ in places]
    qualities = [good for _, good in places]
    assert seconds == sorted(set(seconds))
    assert qualities == sorted(set(qualities))


POINTS = [
    point(0.4, 0.6, why_not=""),
    point(2.0, 0.9, steps=20),
    point(3.0, None, variant="stranger"),
]


def test_both_forms_are_drawn(tmp_path: Path) -> None:
    charts.tradeoff(tmp_path / "a.svg", "red apple", POINTS, 0.5)
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert text.startswith("<?xml")
    charts.tradeoff(tmp_path / "a.png", "red apple", POINTS, None)
    with Image.open(tmp_path / "a.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20, "not a blank sheet"


def test_a_point_of_unknown_quality_does_not_stop_the_picture(tmp_path: Path) -> None:
    charts.tradeoff(tmp_path / "a.png", "red apple", POINTS[2:], None)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_other_forms_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"tradeoff\.pdf: a chart is one of \.png, \.svg"):
        charts.check(tmp_path / "tradeoff.pdf")
    charts.check(tmp_path / "tradeoff.SVG")
