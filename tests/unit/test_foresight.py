"""A schedule run ahead: what waits, what rides along, what is promised."""

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actor_messages import Costs, RowCost
from difs.foresight import CROWD, Outlook, Pace, Task, pace_of, run_ahead, task_of
from difs.places import CROWDED, Bounds
from difs.profiles import Work

COSTS = Costs(64 * 64, 0.01, (RowCost(1, 0.1), RowCost(2, 0.12), RowCost(4, 0.16)), 0.05, 1.0)
PACE = pace_of(COSTS, 64 * 64)


def task(group: str = "a", calls: int = 4, **changes: Any) -> Task:
    alone = task_of(COSTS, Work(64 * 64, 1, "ddim", 1.0, 1), group)
    return alone._replace(**{"group": group, "calls": calls, "due": 10.0, **changes})


def ahead(*tasks: Task, now: float = 0.0, begun: float = 0.0, rest_s: float = 0.0) -> Outlook:
    paces = {t.group: PACE for t in tasks}
    return run_ahead(
        tasks, paces, now=now, begun=begun, rest=[(rest_s, Bounds(math.inf))] if rest_s else ()
    )


def test_an_idle_device_is_done_when_the_work_is() -> None:
    idle = ahead(now=5.0, begun=5.0)
    assert idle.ends == 5.0
    assert math.isclose(idle.done_in_s(task(), PACE, 5.0), 0.01 + 4 * 0.1 + 0.05)


def test_what_is_late_anyhow_is_waited_for_during_one_call_only() -> None:
    late = task("b", calls=9, encode_s=0.0, due=99.0, lost_until=100.0, gives_way=True)
    own_s = 0.01 + 4 * 0.1 + 0.05
    assert math.isclose(ahead(late).done_in_s(task("a"), PACE, 0.0), 0.1 + own_s)
    last = late._replace(calls=1)
    assert math.isclose(ahead(last).done_in_s(task("a"), PACE, 0.0), 0.15 + own_s), "and its decoding"
    urgent = task("c", encode_s=0.0, due=1.0)
    assert math.isclose(ahead(late, urgent).done_in_s(task("a"), PACE, 0.0), 0.45 + own_s)
    its_turn = ahead(late._replace(due=0.9))
    assert math.isclose(its_turn.done_in_s(task("a"), PACE, 0.0), 0.95 + own_s)
    before_others = ahead(late, rest_s=5.0)
    assert before_others.done_in_s(task("a"), PACE, 0.0) > 5.0, "who waits behind it is not passed"


def test_another_group_is_waited_for() -> None:
    found = ahead(task("b", encode_s=0.0))
    assert math.isclose(found.ends, 4 * 0.1 + 0.05)
    assert math.isclose(found.done_in_s(task("a"), PACE, 0.0), found.ends + 0.01 + 4 * 0.1 + 0.05)


def test_a_newcomer_rides_along_and_is_done_before_a_sum_of_seconds_says() -> None:
    found = ahead(task("a", calls=8, encode_s=0.0))
    alone_s = 0.01 + 4 * 0.1 + 0.05
    assert math.isclose(found.done_in_s(task("a"), PACE, 0.0), 0.01 + 4 * 0.12 + 0.05)
    assert found.done_in_s(task("a"), PACE, 0.0) < found.ends + alone_s


def test_a_call_that_has_begun_is_not_joined() -> None:
    found = ahead(task("a", calls=8, encode_s=0.0))
    assert math.isclose(found.done_in_s(task("a"), PACE, 0.05), 0.05 + 0.01 + 4 * 0.12 + 0.05)


def test_nobody_joins_who_would_break_a_promise() -> None:
    promised = task("a", calls=4, encode_s=0.0, latest=0.46)  # 0.45 alone, 0.53 shared
    found = ahead(promised)
    assert math.isclose(found.done_in_s(task("a", calls=1), PACE, 0.0), 0.01 + 0.45 + 0.1 + 0.05)


def test_who_can_wait_does_not_break_what_another_was_told_and_who_cannot_does() -> None:
    newcomer = task("a", calls=1)
    found = ahead(task("a", calls=4, encode_s=0.0, told=0.46))  # 0.45 alone, 0.53 shared
    assert math.isclose(found.done_in_s(newcomer, PACE, 0.0), 0.01 + 0.45 + 0.1 + 0.05)
    assert math.isclose(found.done_in_s(newcomer, PACE, 0.0, is_in_haste=True), 0.01 + 0.12 + 0.05)
    firm = ahead(task("a", calls=4, encode_s=0.0, told=0.46, latest=0.46))
    assert math.isclose(firm.done_in_s(newcomer, PACE, 0.0, is_in_haste=True), 0.01 + 0.45 + 0.1 + 0.05)


def test_who_can_wait_joins_once_what_another_has_to_spare_suffices() -> None:
    """0.04 s to spare are two shared calls of four; with the newcomer's encoding only one."""
    told = task("a", calls=4, encode_s=0.0, told=0.49, due=1.0)
    newcomer = task("a", calls=1)
    assert math.isclose(ahead(told).done_in_s(newcomer, PACE, 0.0), 0.01 + 0.3 + 0.12 + 0.05 + 0.05)
    here = ahead(told, task("a", calls=2, encode_s=0.0))
    assert [(s.rows, s.calls) for s in here.stretches] == [(1, 2), (2, 2)]


def test_what_is_run_ahead_keeps_what_was_told_as_the_engine_does() -> None:
    told, other = task("a", encode_s=0.0, told=0.46, due=1.0), task("a", encode_s=0.0)
    assert [s.rows for s in ahead(told, other).stretches] == [1, 1]
    assert [s.rows for s in ahead(told, other._replace(is_in_haste=True)).stretches] == [2]
    assert [s.rows for s in ahead(told, other._replace(told=0.6)).stretches] == [2]


def test_in_a_crowd_all_share_calls_whatever_they_were_told() -> None:
    told = task("a", encode_s=0.0, told=0.46, due=1.0)
    others = [task("b", encode_s=0.0, due=9.0) for _ in range(CROWD - 1)]
    newcomer = task("a", calls=1)
    few, many = ahead(told, *others[:-1]), ahead(told, *others)
    assert many.done_in_s(newcomer, PACE, 0.0) < 0.2 < few.done_in_s(newcomer, PACE, 0.0)
    rider = task("a", encode_s=0.0)
    assert ahead(told, rider, *others[:-1]).stretches[0].rows == 1
    assert ahead(told, rider, *others).stretches[0].rows == 2


def test_a_full_call_is_not_joined() -> None:
    found = ahead(*[task("a", encode_s=0.0) for _ in range(4)])
    assert len(found.stretches) == 1
    assert found.done_in_s(task("a", calls=1), PACE, 0.0) > found.ends


def test_who_is_due_first_goes_first() -> None:
    late, early = task("a", encode_s=0.0, due=9.0), task("b", encode_s=0.0, due=3.0)
    groups = [s.group for s in ahead(late, early).stretches]
    assert groups == ["b", "a"]


def test_what_came_after_a_call_began_is_not_in_it() -> None:
    there, later = task("a", encode_s=0.0), task("b", encode_s=0.0, due=1.0, since=0.02)
    groups = [s.group for s in ahead(there, later, now=0.02).stretches]
    assert groups == ["a", "b", "a"]


def test_a_call_that_takes_too_long_is_not_taken_for_done() -> None:
    found = ahead(task("a", calls=1, encode_s=0.0), now=5.0, begun=1.0)
    assert math.isclose(found.ends, 5.05)


def test_what_stands_behind_is_a_sum() -> None:
    assert math.isclose(ahead(task("a"), rest_s=2.0).ends, ahead(task("a")).ends + CROWDED * 2.0)


TASKS = st.lists(
    st.builds(
        task,
        group=st.sampled_from("abc"),
        calls=st.integers(0, 20),
        due=st.floats(0, 5),
        latest=st.one_of(st.just(math.inf), st.floats(0, 5)),
        told=st.one_of(st.just(math.inf), st.floats(0, 5)),
        is_in_haste=st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(TASKS, st.integers(1, 10))
def test_every_call_is_made_and_nobody_is_done_sooner_than_alone(tasks: list[Task], calls: int) -> None:
    found = ahead(*tasks)
    for group in "abc":
        made = sum(s.calls * s.rows for s in found.stretches if s.group == group)
        assert made == sum(t.calls for t in tasks if t.group == group)
    assert all(
        a.ends <= b.begins + 1e-9 for a, b in zip(found.stretches, found.stretches[1:], strict=False)
    )
    newcomer = task("a", calls=calls)
    assert found.done_in_s(newcomer, PACE, 0.0) >= newcomer.calls * 0.1 + 0.06 - 1e-9


@settings(max_examples=300)
@given(TASKS, st.integers(1, 10))
def test_more_calls_are_never_done_sooner(tasks: list[Task], calls: int) -> None:
    found = ahead(*tasks)
    few, more = task("a", calls=calls), task("a", calls=calls + 1)
    assert found.done_in_s(few, PACE, 0.0) <= found.done_in_s(more, PACE, 0.0) + 1e-9


def test_a_pace_tells_how_many_rows_pay() -> None:
    assert Pace((RowCost(1, 0.1), RowCost(2, 0.2)), 1).seconds(2) == 0.2
    assert PACE.most_rows == 4


# ---- going before others --------------------------------------------------------------------------


SOON = 1.0
"""By then the hasty ones want to be done."""


def test_who_hurries_goes_before_what_can_wait_and_is_done_first() -> None:
    patient = task("a", calls=20, due=2.0, bears_until=30.0, encode_s=0.0)
    turn = ahead(patient).turn_before(0.5, 0.0, SOON)
    assert turn is not None
    hasty = task("b", calls=5, due=turn.due, encode_s=0.0)
    first = ahead(patient, hasty).stretches[0]
    assert first.group == "b"
    assert first.calls == 5, "it is served to its end"


def test_who_goes_first_waits_for_the_call_under_way_and_what_it_is_the_last_of() -> None:
    def in_s(calls: int) -> float:
        patient = task("b", calls=calls, encode_s=0.0, bears_until=9.0)
        turn = ahead(patient).turn_before(0.2, 0.04, 1.0)
        assert turn is not None
        return turn.in_s

    assert math.isclose(in_s(2), 0.1 - 0.04)
    assert math.isclose(in_s(1), 0.1 + 0.05 - 0.04), "it is decoded first: nothing steps meanwhile"


def test_nobody_goes_before_a_promise_that_would_be_lost() -> None:
    tight = task("a", calls=20, due=2.0, encode_s=0.0)
    ends = ahead(tight).ends
    assert ahead(tight._replace(bears_until=ends + 0.4)).turn_before(0.5, 0.0, SOON) is None
    assert ahead(tight._replace(bears_until=ends + 0.6)).turn_before(0.5, 0.0, SOON) is not None


def test_what_is_lost_anyhow_lets_others_pass_for_a_while() -> None:
    late = task("a", calls=20, due=2.0, bears_until=0.1, lost_until=30.0, encode_s=0.0)
    assert ahead(late).turn_before(0.5, 0.0, SOON) is not None
    assert ahead(late._replace(lost_until=0.2)).turn_before(0.5, 0.0, SOON) is None


def test_the_turn_comes_after_those_that_cannot_wait() -> None:
    tight = task("a", calls=5, due=0.5, encode_s=0.0)
    patient = task("b", calls=20, due=5.0, bears_until=60.0, encode_s=0.0)
    turn = ahead(tight, patient).turn_before(0.2, 0.0, SOON)
    assert turn is not None
    assert turn.in_s >= ahead(tight).ends - 1e-9
    hasty = task("c", calls=2, due=turn.due, encode_s=0.0)
    assert [s.group for s in ahead(tight, patient, hasty).stretches] == ["a", "c", "b"]


def test_who_wants_to_be_done_sooner_still_is_not_passed() -> None:
    patient = task("a", calls=20, due=2.0, bears_until=30.0, encode_s=0.0)
    assert ahead(patient).turn_before(0.5, 0.0, 29.0) is not None
    assert ahead(patient).turn_before(0.5, 0.0, 31.0) is None


def test_a_full_device_is_joined_when_it_takes_more() -> None:
    there, newcomer = task("a", calls=10, encode_s=0.0), task("a", calls=2, encode_s=0.0)
    pace = PACE
    free = run_ahead([there], {"a": pace}, now=0.0, begun=0.0)
    full = run_ahead([there], {"a": pace}, now=0.0, begun=0.0, waiting=0)
    assert free.done_in_s(newcomer, pace, 0.0) < full.done_in_s(newcomer, pace, 0.0)
    assert full.done_in_s(newcomer, pace, 0.0) >= full.ends + 2 * newcomer.call_s - 1e-9


def test_pictures_of_equal_pixels_but_other_sides_share_no_call() -> None:
    wide = Work(64 * 64, 4, "ddim", 1.0, 1, size=(128, 32))
    square = Work(64 * 64, 4, "ddim", 1.0, 1, size=(64, 64))
    first, same, other = (task_of(COSTS, work, "a") for work in (square, square, wide))
    assert first.group == same.group != other.group
    assert ahead(first, same).ends < ahead(first, other).ends
