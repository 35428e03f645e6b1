"""difs.actors.batching: which unit is next and who shares it, as a pure function."""

import math
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost
from difs.actors.batching import UNNOTICED, Candidate, Pace, Phase, Turn, choose
from difs.foresight import CROWD
from difs.messages import MAX_IMAGES

# a call costs 0.1 s and 0.05 s a row up to 16 rows; beyond, rows gain nothing
TABLE = (*tuple(RowCost(rows, 0.1 + 0.05 * rows) for rows in (1, 2, 4, 8, 16)), RowCost(32, 1.8))
COSTS = Costs(pixels=64 * 64, encode_s=0.02, steps=TABLE, decode_s=0.1, load_s=1.0)
STEP_S, DECODE_S = 0.2, 0.1


def pace(max_rows: int = 32) -> Pace:
    return Pace(COSTS, 64 * 64, max_rows)


def step(
    key: int, due: float = 100.0, *, left: int = 10, group: Hashable = "g", **changes: Any
) -> Candidate:
    """Return an image that waits to step, alone 0.2 s a step and 0.1 s to decode."""
    return Candidate(
        key, "step", group, 2, due, left * STEP_S + DECODE_S, STEP_S, evaluations=left
    )._replace(**changes)


def aside(key: int, phase: Phase = "decode", due: float = 100.0, unit_s: float = 0.1) -> Candidate:
    return Candidate(key, phase, "g", 2, due, unit_s, unit_s)


def pick(
    *candidates: Candidate, now: float = 0.0, aside_s: float = 0.0, max_rows: int = 32
) -> Turn | None:
    paces = {c.group: pace(max_rows) for c in candidates}
    return choose(candidates, paces, now, aside_s)


# ---- nothing waits for company --------------------------------------------------------------------


def test_nothing_to_do_is_no_turn() -> None:
    assert pick() is None


def test_a_lone_request_is_never_delayed() -> None:
    assert pick(step(3)) == Turn("step", (3,))


def test_all_that_can_share_a_call_share_it() -> None:
    assert pick(*(step(key) for key in range(5))) == Turn("step", (0, 1, 2, 3, 4))


def test_only_one_group_shares_a_call() -> None:
    turn = pick(step(0, group="a", due=5), step(1, group="b", due=9), step(2, group="a", due=20))
    assert turn == Turn("step", (0, 2))


# ---- earliest due first ---------------------------------------------------------------------------


def test_the_group_of_whom_is_due_first_comes_first() -> None:
    assert pick(step(0, group="a", due=9), step(1, group="b", due=5)) == Turn("step", (1,))


def test_what_is_due_first_goes_first_however_much_another_has_still_to_do() -> None:
    far, near = step(0, due=10, left=40, group="a", is_running=True), step(1, due=9, left=2, group="b")
    assert pick(far, near) == Turn("step", (1,))


def test_two_that_are_due_at_once_do_not_take_turns() -> None:
    one, other = step(0, due=9.0, group="a"), step(1, due=9.0, group="b")
    assert pick(one, other) == pick(one._replace(is_running=True), other) == Turn("step", (0,))


def test_a_promise_that_would_be_lost_by_waiting_one_unit_more_goes_first() -> None:
    """Two steps and a decoding take 0.5 s, a step of others 0.2 s."""
    first, firm = step(0, due=1.0), step(1, due=9.0, left=2, group="b", latest=0.65)
    assert pick(first, firm) == Turn("step", (1,))
    assert pick(first, firm._replace(latest=0.75)) == Turn("step", (0,)), "it can wait for a step"
    assert pick(first, firm._replace(latest=0.45)) == Turn("step", (0,)), "it is lost anyhow"
    assert pick(aside(0, "encode", due=1.0, unit_s=0.2), firm) == Turn("step", (1,))
    assert pick(first, step(3, due=1.1), firm._replace(latest=0.75)) == Turn("step", (1,)), (
        "others' step is longer that two share"
    )


def test_of_promises_at_their_last_the_first_goes_first_and_the_others_ride_along() -> None:
    firm = [step(key, due=9.0, left=2, group="b", latest=0.85 - key / 100) for key in (1, 2)]
    many = [step(key, due=1.0) for key in range(5, 10)]
    assert pick(*many, *firm) == Turn("step", (2, 1))


# ---- the size of a batch --------------------------------------------------------------------------


def test_a_batch_grows_no_further_than_rows_pay() -> None:
    turn = pick(*(step(key) for key in range(16)))
    assert turn is not None
    assert len(turn.keys) == 8  # 16 rows


def test_a_batch_grows_no_further_than_memory_allows() -> None:
    turn = pick(*(step(key) for key in range(16)), max_rows=5)
    assert turn == Turn("step", (0, 1))


def test_the_first_is_stepped_even_if_it_alone_has_too_many_rows() -> None:
    assert pick(step(0), step(1), max_rows=1) == Turn("step", (0,))


def test_a_batch_grows_no_further_than_promises_are_kept() -> None:
    """10 steps alone take 2.1 s with the decoding; two images together 3.1 s, three 4.1 s."""
    firm = step(0, due=3.2, latest=3.2)
    assert pick(firm, step(1), step(2)) == Turn("step", (0, 1))
    assert pick(firm._replace(latest=2.9), step(1), step(2)) == Turn("step", (0,))


def test_a_promise_that_is_lost_already_holds_nobody_up() -> None:
    late = step(0, due=1.0, latest=1.0)
    assert pick(late, step(1), step(2)) == Turn("step", (0, 1, 2))


def test_what_was_told_is_kept_from_those_that_can_wait() -> None:
    told = step(0, told=2.2)
    assert pick(told, step(1)) == Turn("step", (0,))
    assert pick(told._replace(told=3.2), step(1)) == Turn("step", (0, 1))
    assert pick(told._replace(told=2.0), step(1)) == Turn("step", (0,)), "it is not made later still"
    assert pick(told._replace(told=1.0), step(1)) == Turn("step", (0, 1)), "that is given up"


def test_who_can_wait_joins_once_what_another_has_to_spare_suffices() -> None:
    """Two images together take 0.1 s a step more: 0.6 s to spare are too few for ten, enough for six."""
    told = step(0, told=2.7)
    assert pick(told, step(1)) == Turn("step", (0,))
    assert pick(step(0, left=7, told=2.7), step(1), now=0.6) == Turn("step", (0,))
    assert pick(step(0, left=6, told=2.7), step(1), now=0.79) == Turn("step", (0, 1))


def test_who_is_in_haste_shares_calls_though_others_are_later_than_they_were_told() -> None:
    told, hasty = step(0, told=2.2), step(1, is_in_haste=True)
    assert pick(told, hasty) == Turn("step", (0, 1))
    assert pick(told._replace(latest=2.2), hasty) == Turn("step", (0,)), "a promise is kept all the same"


def test_who_was_told_so_rides_along() -> None:
    """10 steps of two images and a decoding take 3.1 s, one after the other 4.1 s."""
    told, rider = step(0, told=2.2), step(1, told=3.2)
    assert pick(told, rider) == Turn("step", (0, 1))
    assert pick(told, rider._replace(told=2.7)) == Turn("step", (0, 1)), "it is nearer to it by that"
    assert pick(told, rider._replace(told=2.0)) == Turn("step", (0,)), "it is late anyhow"
    assert pick(told, rider._replace(told=4.3)) == Turn("step", (0,)), "it has its own turn in time"
    last = step(1, left=1, told=2.8)
    assert pick(step(0, told=2.35), last) == Turn("step", (0,)), "it shares the last one in time"


def test_in_a_crowd_all_share_calls_whatever_they_were_told() -> None:
    told, rider = step(0, told=2.2), step(MAX_IMAGES)
    others = [step(n * MAX_IMAGES, 200.0, group="b") for n in range(2, CROWD + 1)]
    assert pick(told, rider, *others[:-1]) == Turn("step", (0,))
    assert pick(told, rider, *others) == Turn("step", (0, MAX_IMAGES))
    images = [step(2 * MAX_IMAGES + i, 200.0, group="b") for i in range(CROWD)]
    assert pick(told, rider, *images) == Turn("step", (0,)), "many images of one request are no crowd"
    done = [aside(one.key, due=200.0, unit_s=9.0) for one in others]
    running = told._replace(is_running=True)
    assert pick(running, rider, *done, aside_s=9.0) == Turn("step", (0,)), "nor is what is only decoded"


def test_a_due_that_nobody_was_promised_holds_nobody_up() -> None:
    assert pick(step(0, due=2.2), step(1), step(2)) == Turn("step", (0, 1, 2))


def test_a_firm_rival_that_the_batch_would_make_late_waits_for_a_smaller_one() -> None:
    others = [step(key, due=2.0) for key in (0, 1, 2)]
    rival = step(9, due=4.0, latest=4.0)
    assert pick(*others, rival) == Turn("step", (0, 1, 2))


# ---- encodings and decodings between steps --------------------------------------------------------


def test_a_newcomer_is_encoded_before_the_next_step_and_a_finished_one_decoded() -> None:
    assert pick(step(0), aside(1, "encode")) == Turn("encode", (1,))
    assert pick(step(0), aside(1, "decode")) == Turn("decode", (1,))


def test_what_stands_aside_takes_no_longer_than_one_step_between_two_steps() -> None:
    many = [aside(key, unit_s=0.09) for key in range(1, 9)]
    assert pick(step(0, is_running=True), *many, aside_s=0.09) == Turn("decode", (1,))
    assert pick(step(0, is_running=True), *many, aside_s=0.18) == Turn("step", (0,))


def test_a_decoding_that_is_longer_than_a_step_comes_alone_between_two_steps() -> None:
    long = aside(1, unit_s=5.0)
    assert pick(step(0, is_running=True), long) == Turn("decode", (1,))
    assert pick(step(0, is_running=True), long, aside_s=5.0) == Turn("step", (0,))


def test_before_a_first_step_all_is_encoded_and_decoded_but_nothing_measured() -> None:
    assert pick(step(0), aside(1), aside_s=99) == Turn("decode", (1,))
    assert pick(step(0), aside(1, "encode"), aside_s=99) == Turn("encode", (1,))
    assert pick(step(0), aside(1, "measure"), aside_s=99) == Turn("step", (0,))


@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_what_is_due_before_the_next_step_is_done_whole(phase: Phase) -> None:
    running = step(0, due=9.0, is_running=True)
    assert pick(running, aside(1, phase, due=8.0), aside_s=99) == Turn(phase, (1,))
    assert pick(running, aside(1, phase, due=9.0), aside_s=99) == Turn("step", (0,))
    assert pick(running, aside(1, "measure", due=8.0), aside_s=99) == Turn("step", (0,))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pictures_of_few_steps_share_calls_however_they_come(steps: int) -> None:
    """Sixteen at a time, as an actor is sent: whenever one is done another comes, to be encoded first."""
    waiting = [aside(key, "encode", unit_s=0.01) for key in range(16)]
    done, aside_s, sharers = 0, 0.0, []
    while done < 80:
        turn = pick(*waiting, aside_s=aside_s)
        assert turn is not None
        chosen = [c for c in waiting if c.key in turn.keys]
        waiting = [c for c in waiting if c.key not in turn.keys]
        aside_s = 0.0 if turn.phase == "step" else aside_s + chosen[0].unit_s
        if turn.phase == "step":
            sharers.append(len(chosen))
            waiting = [c._replace(is_running=False) for c in waiting]
            for c in chosen:
                left = c.evaluations - 1
                waiting.append(
                    step(c.key, left=left, is_running=True) if left else aside(c.key, unit_s=STEP_S)
                )
        elif turn.phase == "encode":
            waiting += [step(c.key, left=steps) for c in chosen]
        else:
            done += 1
            waiting.append(aside(100 + done, "encode", unit_s=0.01))
    assert sum(sharers) / len(sharers) > 7, "8 images, 16 rows, are worth a call"


def test_without_steps_the_rest_is_done_in_the_order_in_which_it_is_due() -> None:
    assert pick(aside(1, due=9), aside(2, "encode", due=5), aside_s=99) == Turn("encode", (2,))


def test_a_decoding_that_can_wait_does_not_cost_a_promise() -> None:
    firm = step(0, due=2.15, latest=2.15)
    assert pick(firm, aside(1, unit_s=0.3)) == Turn("step", (0,))
    assert pick(firm._replace(latest=4.0), aside(1, unit_s=0.3)) == Turn("decode", (1,))


# ---- best effort ----------------------------------------------------------------------------------


def spare(key: int, due: float = -100.0, **changes: Any) -> Candidate:
    """Return best effort that waits to step, and is late already."""
    return step(key, due, **{"is_best_effort": True, "group": "spare", **changes})


def test_best_effort_steps_when_nothing_else_is_there() -> None:
    assert pick(spare(1), spare(2)) == Turn("step", (1, 2))
    assert pick(aside(1)._replace(is_best_effort=True)) == Turn("decode", (1,))


def test_other_work_comes_at_the_next_unit_however_late_best_effort_is() -> None:
    running = spare(1, is_running=True)
    assert pick(running, step(2)) == Turn("step", (2,))
    assert pick(running, aside(2, "encode")) == Turn("encode", (2,))
    late = aside(1, due=-100)._replace(is_best_effort=True)
    assert pick(late, step(2)) == Turn("step", (2,))


def test_best_effort_shares_no_call_that_would_take_longer_for_it() -> None:
    assert pick(step(1), spare(2, group="g")) == Turn("step", (1,))


FLAT = replace(COSTS, steps=(*(RowCost(rows, 0.2) for rows in (1, 2, 4, 6)), RowCost(8, 0.4)))
"""Up to six rows take no longer than one."""


def test_best_effort_shares_a_call_that_takes_no_longer_for_it() -> None:
    paces: dict[Hashable, Pace] = {name: Pace(FLAT, 64 * 64, 32) for name in ("g", "spare")}
    found = [step(1), spare(4, due=9, group="g"), spare(3, due=5, group="g"), spare(2, due=7, group="g")]
    assert choose([*found, spare(5)], paces, 0.0, 0.0) == Turn("step", (1, 3, 2))
    assert choose([aside(6), *found], paces, 0.0, 0.0) == Turn("decode", (6,))
    small: dict[Hashable, Pace] = {"g": Pace(FLAT, 64 * 64, 4)}
    assert choose(found, small, 0.0, 0.0) == Turn("step", (1, 3)), "memory has its say"


def test_best_effort_breaks_no_promise_by_what_nobody_else_would_notice() -> None:
    table = (RowCost(2, 0.2), RowCost(4, 0.203))
    paces: dict[Hashable, Pace] = {"g": Pace(replace(COSTS, steps=table), 64 * 64, 32)}
    guest = spare(2, group="g")
    tight = step(1, due=2.11, latest=2.11)
    assert choose([tight, guest], paces, 0.0, 0.0) == Turn("step", (1,))
    assert choose([tight._replace(latest=math.inf), guest], paces, 0.0, 0.0) == Turn("step", (1, 2))


# ---- properties -----------------------------------------------------------------------------------

candidates = st.lists(
    st.builds(
        step,
        st.integers(0, 10**6),
        st.floats(-50, 50),
        left=st.integers(1, 150),
        group=st.sampled_from(["a", "b", "c"]),
        latest=st.just(math.inf) | st.floats(-50, 50),
        told=st.just(math.inf) | st.floats(-50, 50),
        is_in_haste=st.booleans(),
        is_running=st.booleans(),
        is_best_effort=st.booleans(),
        rows=st.sampled_from([1, 2]),
    ),
    min_size=1,
    max_size=24,
    unique_by=lambda c: c.key,
)


@given(candidates, st.integers(1, 64), st.floats(-5, 5), st.booleans())
@settings(max_examples=300)
def test_other_work_is_served_as_if_there_were_no_best_effort(
    found: list[Candidate], max_rows: int, now: float, is_flat: bool
) -> None:
    paces = {c.group: Pace(FLAT if is_flat else COSTS, 64 * 64, max_rows) for c in found}
    turn = choose(found, paces, now, 0.0)
    others = [c for c in found if not c.is_best_effort]
    if not others:
        assert turn is not None
        return
    alone = choose(others, paces, now, 0.0)
    assert turn is not None
    assert alone is not None
    assert turn.keys[: len(alone.keys)] == alone.keys
    rows = {c.key: c.rows for c in found}
    alone_s, with_guests_s = (
        next(iter(paces.values())).seconds(sum(rows[key] for key in t.keys)) for t in (alone, turn)
    )
    assert with_guests_s <= UNNOTICED * alone_s


@given(candidates, st.integers(1, 64), st.floats(-5, 5))
@settings(max_examples=300)
def test_a_batch_is_always_sound(found: list[Candidate], max_rows: int, now: float) -> None:
    turn = pick(*found, now=now, max_rows=max_rows)
    assert turn is not None
    by_key = {c.key: c for c in found}
    batch = [by_key[key] for key in turn.keys]
    assert len({c.is_best_effort for c in batch}) == 1, "a row more takes longer here"
    assert len({c.group for c in batch}) == 1
    assert len(set(turn.keys)) == len(turn.keys)
    rows = sum(c.rows for c in batch)
    assert rows <= max(max_rows, batch[0].rows)
    for c in batch[1:]:
        own_s, shared_s = pace().seconds(c.rows), pace().seconds(rows)
        rest_s = c.remaining_s - c.evaluations * c.unit_s
        kept_alone = now + c.evaluations * own_s + rest_s <= c.latest
        kept = now + c.evaluations * shared_s + rest_s <= c.latest
        assert kept or not kept_alone


@given(st.lists(st.floats(0.05, 5), min_size=1, max_size=12), st.floats(5, 60), st.integers(1, 12))
@settings(max_examples=60)
def test_nobody_starves_however_many_urgent_ones_come(
    slacks: list[float], patience: float, rows: int
) -> None:
    """A patient image against an endless stream of urgent ones, one new each step, on a full device."""
    patient = step(-1, patience, left=5, group="patient")
    now, served, urgent, number = 0.0, 0, [], 0
    while served < 5:
        # three times what the device can do comes before the patient one is due first
        assert now < 10 + 4 * (patience + max(slacks)), "the patient one starves"
        urgent.append(step(number, now + slacks[number % len(slacks)], left=3, group="urgent"))
        number += 1
        turn = pick(patient, *urgent, now=now, max_rows=rows)
        assert turn is not None
        now += pace().seconds(2 * len(turn.keys))
        if turn.keys == (-1,):
            served += 1
            patient = patient._replace(
                evaluations=5 - served, remaining_s=(5 - served) * STEP_S + DECODE_S
            )
        urgent = [
            c._replace(evaluations=c.evaluations - 1, remaining_s=c.remaining_s - STEP_S)
            if c.key in turn.keys
            else c
            for c in urgent
        ]
        urgent = [c for c in urgent if c.evaluations]
    assert math.isfinite(now)
