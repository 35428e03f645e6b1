"""When simulated requests come: rates, shapes, and files."""

import statistics
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.errors import ConfigError
from difs.simulation import arrivals
from difs.simulation.scenario import Arrivals


def cv_of(times: list[float]) -> float:
    gaps = [b - a for a, b in pairwise(times)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


@given(st.floats(0.5, 50), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_pattern_ascends_within_its_time(rate: float, seed: int) -> None:
    for pattern in ("poisson", "burst", "diurnal"):
        times = Arrivals(pattern=pattern, rate_hz=rate, seconds=40.0).times(Random(seed))
        assert times == sorted(times)
        assert all(0 <= at < 40.0 for at in times)


@pytest.mark.parametrize(("pattern", "slack"), [("poisson", 0.05), ("burst", 0.2), ("diurnal", 0.05)])
def test_a_pattern_has_the_rate_that_is_asked_for(pattern: str, slack: float) -> None:
    times = Arrivals(pattern=pattern, rate_hz=10.0, seconds=1200.0, period_s=300.0).times(Random(3))  # type: ignore[arg-type]
    assert len(times) / 1200.0 == pytest.approx(10.0, rel=slack)


def test_bursts_have_the_variation_that_is_asked_for() -> None:
    assert cv_of(list(arrivals.poisson(10, 2000, Random(1)))) == pytest.approx(1.0, rel=0.05)
    assert cv_of(list(arrivals.burst(10, 2000, 4.0, Random(1)))) == pytest.approx(4.0, rel=0.15)


def test_a_day_has_its_least_rate_at_both_ends_and_its_most_in_the_middle() -> None:
    times = list(arrivals.diurnal(2.0, 20.0, 600.0, 600.0, Random(1)))
    early, middle = sum(at < 60 for at in times), sum(270 <= at < 330 for at in times)
    assert early < 240 < 900 < middle


def test_a_trace_in_milliseconds_is_sorted_and_begins_at_0(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("500.0,17\n1500.0,3\n1000.0,4\n")
    assert arrivals.read(trace) == [0.0, 0.5, 1.0]
    assert arrivals.read(trace, speed=2.0) == [0.0, 0.25, 0.5]


def test_a_trace_may_be_seconds_alone_or_name_its_column(tmp_path: Path) -> None:
    plain, named = tmp_path / "plain", tmp_path / "named.csv"
    plain.write_text("2\n3.5\n")
    named.write_text("prompt,arrival_s\nx,1\ny,4\n")
    assert arrivals.read(plain) == [0.0, 1.5]
    assert arrivals.read(named) == [0.0, 3.0]


@pytest.mark.parametrize("text", ["", "soon,1\n", "nan,1\n", "1,2\nx,3\n"])
def test_what_is_no_trace_is_refused_in_words(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text(text)
    with pytest.raises(ConfigError, match=r"trace\.txt"):
        arrivals.read(trace)


def test_more_arrivals_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_ARRIVALS", 100)
    with pytest.raises(ConfigError, match="more than 100"):
        Arrivals(rate_hz=1000.0, seconds=1000.0).times(Random(1))
