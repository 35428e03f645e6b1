"""difs.broker.outbox: what a slow client is owed, in order, within bytes, and not for ever."""

import math

import pytest

from difs.broker.effects import Payload
from difs.broker.outbox import (
    BRIEF_S,
    LARGE_BYTES,
    MAX_KEPT_BYTES,
    MAX_REST_S,
    MIN_RATE,
    MIN_REST_S,
    MOST_KEPT_BYTES,
    Letter,
    Outbox,
)

SLOW, OTHER = b"slow", b"other"
MIB = 2**20
PICTURE = Letter([b"result"], (Payload("cpu-0", 0, MIB),), (7,))


def words(text: bytes) -> Letter:
    return Letter([text])


class Passage:
    """libzmq, as far as it got."""

    done = False


def take_one(box: Outbox) -> tuple[object, object]:
    """Let the pipe take one message and refuse the next; return both."""
    taking = box.waiting(SLOW)
    return next(taking), next(taking)


def test_messages_wait_in_order_and_each_until_it_was_taken() -> None:
    box = Outbox(10.0)
    for i in range(3):
        assert box.put(SLOW, words(b"%d" % i), 0.0)
    assert take_one(box) == (words(b"0"), words(b"1"))
    assert list(box.waiting(SLOW)) == [words(b"1"), words(b"2")]
    assert not box.owes(SLOW)
    assert box.routes() == []


def test_a_client_that_takes_nothing_for_too_long_is_overdue() -> None:
    box = Outbox(10.0)
    box.put(SLOW, words(b"a"), 5.0)
    box.put(SLOW, words(b"b"), 14.0)
    assert box.overdue(15.0) == []
    assert box.overdue(15.1) == [SLOW]


def test_a_client_that_takes_a_little_gets_its_time_anew() -> None:
    box = Outbox(10.0)
    for i in range(3):
        box.put(SLOW, words(b"%d" % i), 0.0)
    take_one(box)
    assert box.overdue(9.0) == []
    assert box.overdue(18.9) == []
    assert box.overdue(19.1) == [SLOW]


def test_what_is_kept_for_one_client_is_bounded_in_bytes() -> None:
    box = Outbox(10.0)
    part = words(bytes(MAX_KEPT_BYTES // 4))
    assert all(box.put(SLOW, part, 0.0) for _ in range(4))
    late = 1.01 * BRIEF_S
    assert not box.put(SLOW, words(b"x"), late)
    assert box.put(OTHER, part, 0.0), "another's messages do not count"
    take_one(box)
    assert box.put(SLOW, words(b"x"), late), "there is room again"


def test_a_client_that_waits_for_its_turn_on_a_busy_machine_is_kept_more_but_not_all() -> None:
    box = Outbox(10.0)
    part = words(bytes(MAX_KEPT_BYTES))
    assert all(box.put(SLOW, part, 0.9 * BRIEF_S * i) for i in range(2))
    take_one(box)
    assert box.put(SLOW, part, 5.0)
    assert box.put(SLOW, part, 5.0 + 0.9 * BRIEF_S), "it has just taken one"
    assert not all(box.put(SLOW, part, 6.0) for _ in range(MOST_KEPT_BYTES // MAX_KEPT_BYTES))


def test_what_tells_a_client_that_it_was_given_up_may_be_read_late() -> None:
    box = Outbox(10.0)
    box.put(SLOW, Letter([b"too slow"], is_last=True), 0.0)
    box.put(OTHER, words(b"a"), 0.0)
    assert box.overdue(1000.0) == [OTHER]


def test_pictures_that_wait_cost_no_memory() -> None:
    box = Outbox(10.0)
    assert all(box.put(SLOW, PICTURE, 0.0) for _ in range(64))


def test_one_large_message_of_a_client_is_under_way_at_a_time() -> None:
    box, passage = Outbox(10.0), Passage()
    assert box.lets(SLOW, PICTURE)
    box.went(SLOW, PICTURE, passage)
    assert not box.lets(SLOW, PICTURE)
    assert not box.lets(SLOW, words(bytes(LARGE_BYTES)))
    assert box.lets(SLOW, words(bytes(LARGE_BYTES - 1))), "small ones go on"
    assert box.lets(OTHER, PICTURE)
    passage.done = True
    assert box.lets(SLOW, PICTURE)


def test_a_large_message_is_given_the_time_that_a_slow_network_needs() -> None:
    box, passage = Outbox(10.0), Passage()
    box.went(SLOW, PICTURE, passage)
    box.put(SLOW, PICTURE, 0.0)
    allowed_s = 10.0 + PICTURE.nbytes / MIN_RATE
    assert box.overdue(allowed_s) == []
    assert box.overdue(allowed_s + 0.1) == [SLOW]


def test_what_went_to_clients_that_vanished_is_forgotten() -> None:
    box, passage = Outbox(10.0), Passage()
    passage.done = True
    for i in range(1000):
        box.went(b"%d" % i, PICTURE, passage)
    assert len(box._passing) < 50


@pytest.mark.parametrize(("full_s", "rest_s"), [(0.0, MIN_REST_S), (0.5, 0.05), (9.0, MAX_REST_S)])
def test_full_pipes_are_tried_again_soon_and_then_less_often(full_s: float, rest_s: float) -> None:
    box = Outbox(10.0)
    assert box.rest_s(0.0) == math.inf
    box.put(SLOW, words(b"a"), 0.0)
    assert box.rest_s(full_s) == pytest.approx(rest_s)


def test_one_slow_client_is_not_anothers_fault() -> None:
    box = Outbox(10.0)
    box.put(SLOW, words(b"a"), 0.0)
    box.put(OTHER, words(b"b"), 8.0)
    assert box.overdue(11.0) == [SLOW]
    box.forget(SLOW)
    assert not box.owes(SLOW)
    assert box.owes(OTHER)
    assert list(box.waiting(SLOW)) == []
    assert box.overdue(17.0) == []
