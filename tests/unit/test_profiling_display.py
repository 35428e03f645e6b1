"""difs.profiling.display: what people read of a profile that is being measured."""

import io

import pytest
from rich.console import Console

from difs.profiling import reports
from difs.profiling.cells import ErrorOf
from difs.profiling.display import Display, duration, words_of
from difs.profiling.reports import Broken, Doing, Judged, Noted, Timed

OFF = ErrorOf(30, 0.021, 0.087, 0.2)
WHOLE = Timed("tiny", "/models/tiny/profiles/1.json", 30, 4, OFF, None)
JUDGED = Judged("tiny", "/models/tiny/quality.json", "agreement", "likeness to itself", True)


def test_the_error_is_stated() -> None:
    said = words_of(WHOLE, "tiny on cpu-0")
    assert "30 cells, 4 measured now" in said
    assert "8.7% (90 % of 30; median 2.1%, worst 20.0%)" in said
    assert "/models/tiny/profiles/1.json" in said


def test_what_nothing_was_measured_of_is_up_to_date_and_claims_no_error() -> None:
    said = words_of(Timed("tiny", "x", 3, 0, None, None), "tiny")
    assert "up to date" in said
    assert "%" not in said


def test_where_a_quality_comes_from_is_said() -> None:
    assert "quality by agreement: likeness to itself" in words_of(JUDGED, "tiny")
    other = Judged("tiny", "x", "clip", "CLIPScore", False)
    assert "kept beside what is used" in words_of(other, "tiny")


@pytest.mark.parametrize("report", [Broken("tiny", "no memory"), Noted("tiny", "no memory")])
def test_what_went_wrong_is_said(report: Broken | Noted) -> None:
    assert "tiny" in words_of(report, "tiny")
    assert "no memory" in words_of(report, "tiny")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (7325, "2 h 02 min")]
)
def test_time_is_told_roughly(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_terminal_sees_a_bar_with_the_time_left_and_then_what_came_of_it(is_quiet: bool) -> None:
    live, said = io.StringIO(), list[str]()
    console = Console(file=live, force_terminal=True, width=150)
    with Display(console, said.append, is_quiet=is_quiet) as display:
        display.show(Doing("tiny", "full: step 64x64 x2", 3, 30, 95.0), "cpu-0")
        display.show(Doing("tiny", "full: step 64x64 x4", 4, 30, 90.0), "cpu-0")
        display.show(WHOLE, "cpu-0")
    seen = live.getvalue()
    assert ("4/30" in seen, "about 1 min 30 s left" in seen) == (not is_quiet, not is_quiet)
    assert said == ([] if is_quiet else [words_of(WHOLE, "tiny on cpu-0")])


def test_what_is_no_terminal_sees_no_bar() -> None:
    live = io.StringIO()
    with Display(Console(file=live), lambda words: None, is_quiet=False) as display:
        display.show(Doing("tiny", "loading", 0, 1), "cpu-0")
    assert live.getvalue().strip() == ""


@pytest.mark.parametrize("line", [b"", b"{}", b"Warning: a library speaks", b'{"type": "strange"}'])
def test_a_line_that_is_no_report_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        reports.decode(line)
