"""difs.actors.reporting: steps that nobody watches are counted together, and none is lost."""

from functools import cache
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Counted, Ended, Execute, Stepped
from difs.actors.reporting import REST_S, Reporter
from difs.actors.units import Report
from tests.builders import CLIENT, only, served


@cache
def order(attempt: int = 1, **delivery: Any) -> Execute:
    """Return what an actor is sent for a request with this delivery."""
    return replace(only(served().ask("a", CLIENT, **delivery), Execute), attempt=attempt)


def reporter(*orders: Execute) -> Reporter:
    found = Reporter()
    for asked in orders:
        found.begin(asked)
    return found


def step(asked: Execute, number: int) -> Stepped:
    return Stepped(asked.attempt, 0, number, 50)


def test_all_steps_that_a_client_watches_are_passed_on() -> None:
    for watched in (order(progress=True), order(preview_every=2)):
        steps: list[Report] = [step(watched, number) for number in range(1, 5)]
        assert reporter(watched).pass_on(steps, 0.0) == steps


@given(st.lists(st.tuples(st.floats(0.0, 2 * REST_S), st.sets(st.integers(1, 3))), max_size=40))
def test_steps_that_nobody_watches_are_counted_together_and_none_is_lost(
    calls: list[tuple[float, set[int]]],
) -> None:
    it, now, told, done = reporter(*(order(n) for n in (1, 2, 3))), 1.0, [], dict.fromkeys((1, 2, 3), 0)
    for gap, sharers in calls:
        now += gap
        for number in sharers:
            done[number] += 1
        for report in it.pass_on([step(order(n), done[n]) for n in sharers], now):
            assert isinstance(report, Counted)
            told.append((now, dict(report.calls)))
    assert all(b[0] - a[0] >= REST_S for a, b in pairwise(told))
    rest = it.pass_on([Ended(9, "cancelled", "")], now)
    if isinstance(rest[0], Counted):
        told.append((now, dict(rest[0].calls)))
    assert {n: sum(count.get(n, 0) for _, count in told) for n in done} == done


def test_slow_steps_are_told_one_by_one() -> None:
    it = reporter(order())
    for number in range(1, 5):
        assert it.pass_on([step(order(), number)], 2 * number * REST_S) == [Counted(((1, 1),))]


def test_whatever_is_said_takes_the_count_of_all_others_along() -> None:
    it = reporter(order(1), order(2), order(3, progress=True))
    it.pass_on([step(order(1), 1)], 1.0)
    assert it.pass_on([step(order(1), 2), step(order(2), 1)], 1.0) == []
    end = Ended(1, "cancelled", "")
    assert it.pass_on([end], 1.0) == [Counted(((2, 1),)), end]
    watched = step(order(3), 1)
    assert it.pass_on([step(order(2), 2), watched], 1.0) == [Counted(((2, 1),)), watched]


def test_a_new_broker_hears_nothing_of_the_work_of_the_old_one() -> None:
    it = reporter(order(1), order(2))
    it.pass_on([step(order(1), 1)], 1.0)
    it.pass_on([step(order(2), 1)], 1.0)
    it.forget()
    end = Ended(9, "cancelled", "")
    assert it.pass_on([end], 2.0) == [end]
