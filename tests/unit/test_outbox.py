"""difs.broker.outbox: what a slow client is owed, in order and not for ever."""

from difs.broker.outbox import MAX_KEPT, Outbox

SLOW, OTHER = b"slow", b"other"


def take_one(box: Outbox) -> tuple[object, object]:
    """Let the pipe take one message and refuse the next; return both."""
    taking = box.waiting(SLOW)
    return next(taking), next(taking)


def test_messages_wait_in_order_and_each_until_it_was_taken() -> None:
    box = Outbox(10.0)
    for i in range(3):
        assert box.put(SLOW, [b"%d" % i], 0.0)
    assert take_one(box) == ([b"0"], [b"1"])
    assert list(box.waiting(SLOW)) == [[b"1"], [b"2"]]
    assert not box.owes(SLOW)
    assert box.routes() == []


def test_a_client_that_takes_nothing_for_too_long_is_overdue() -> None:
    box = Outbox(10.0)
    box.put(SLOW, [b"a"], 5.0)
    box.put(SLOW, [b"b"], 14.0)
    assert box.overdue(15.0) == []
    assert box.overdue(15.1) == [SLOW]


def test_a_client_that_takes_a_little_gets_its_time_anew() -> None:
    box = Outbox(10.0)
    for i in range(3):
        box.put(SLOW, [b"%d" % i], 0.0)
    take_one(box)
    assert box.overdue(9.0) == []
    assert box.overdue(18.9) == []
    assert box.overdue(19.1) == [SLOW]


def test_a_client_that_owes_too_much_room_is_given_up() -> None:
    box = Outbox(10.0)
    assert all(box.put(SLOW, [b""], 0.0) for _ in range(MAX_KEPT))
    assert not box.put(SLOW, [b""], 0.0)


def test_one_slow_client_is_not_anothers_fault() -> None:
    box = Outbox(10.0)
    box.put(SLOW, [b"a"], 0.0)
    box.put(OTHER, [b"b"], 8.0)
    assert box.overdue(11.0) == [SLOW]
    box.forget(SLOW)
    assert not box.owes(SLOW)
    assert box.owes(OTHER)
    assert list(box.waiting(SLOW)) == []
    assert box.overdue(17.0) == []
