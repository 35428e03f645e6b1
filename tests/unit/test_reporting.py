"""difs.actors.reporting: steps that nobody watches go together, and none is lost from the count."""

from functools import cache
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Ended, Execute, Stepped
from difs.actors.reporting import REST_S, Reporter
from tests.builders import CLIENT, only, served


@cache
def order(**delivery: Any) -> Execute:
    """Return what an actor is sent for a request with this delivery."""
    return only(served().ask("a", CLIENT, **delivery), Execute)


def test_all_steps_that_a_client_watches_are_passed_on() -> None:
    for watched in (order(progress=True), order(preview_every=2)):
        reporter = Reporter()
        reporter.begin(watched, 0.0)
        steps = [Stepped(watched.attempt, 0, step, 4) for step in range(1, 5)]
        assert [reporter.pass_on(step, 0.0) for step in steps] == steps


@given(st.lists(st.floats(0.0, 2 * REST_S), max_size=40))
def test_steps_that_nobody_watches_go_together_and_are_all_counted(gaps: list[float]) -> None:
    asked = order()
    reporter, now, passed = Reporter(), 0.0, []
    reporter.begin(asked, now)
    for step, gap in enumerate(gaps, 1):
        now += gap
        report = reporter.pass_on(Stepped(asked.attempt, 0, step, 50), now)
        if isinstance(report, Stepped):
            passed.append((now, report))
    assert all(b[0] - a[0] >= REST_S for a, b in pairwise(passed))
    if passed:
        assert sum(report.calls for _, report in passed) == passed[-1][1].step


def test_slow_steps_are_reported_one_by_one() -> None:
    asked = order()
    reporter = Reporter()
    reporter.begin(asked, 0.0)
    for step in range(1, 5):
        report = Stepped(asked.attempt, 0, step, 4)
        assert reporter.pass_on(report, 2 * step * REST_S) == report


def test_ends_are_passed_on_at_once_and_what_was_held_back_goes_with_them() -> None:
    asked = order()
    reporter = Reporter()
    reporter.begin(asked, 0.0)
    assert reporter.pass_on(Stepped(asked.attempt, 0, 1, 4), 0.0) is None
    end = Ended(asked.attempt, "cancelled", "")
    assert reporter.pass_on(end, 0.0) == end
    reporter.begin(asked, 1.0)
    later = Stepped(asked.attempt, 0, 1, 4)
    assert reporter.pass_on(later, 1.0 + REST_S) == replace(later, calls=1)
