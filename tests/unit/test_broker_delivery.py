"""difs.broker: pictures that travel inline stay in shared memory until they were copied."""

from difs.actor_messages import Execute
from difs.broker.effects import Effect, ForgetClient, TellClient
from difs.broker.events import ClientLost, ClientTooSlow, Delivered, Ticked
from difs.broker.state import BEAT_S
from difs.messages import Drain, Error, Ping, Release, Result
from tests.builders import CLIENT, House, finished, free_slots, is_over, only, served, told


def leases_of(effects: list[Effect]) -> tuple[int, ...]:
    """Return what keeps the pictures of the one result that is sent."""
    (found,) = [e for e in effects if isinstance(e, TellClient) and isinstance(e.message, Result)]
    return found.leases


def painted(name: str = "a", n: int = 2) -> tuple[House, tuple[int, ...]]:
    """Return a house that owes a client the pictures of a finished request, and their leases."""
    house = served(delivers=False)
    execute = only(house.ask(name, n=n), Execute)
    return house, leases_of(house.tell(finished(execute)))


def test_slots_are_free_once_their_pictures_were_copied() -> None:
    house, leases = painted()
    assert free_slots(house) == 2
    house.handle(Delivered(leases))
    assert is_over(house)


def test_what_waits_for_slots_begins_when_pictures_were_copied() -> None:
    house, leases = painted(n=4)
    assert not told(house.ask("b"), Execute)
    assert only(house.handle(Delivered(leases)), Execute).request_id == "b"


def test_no_client_frees_a_slot_that_the_broker_still_has_to_copy() -> None:
    house, leases = painted()
    house.ask(Release(leases))
    house.ask(Ping())
    assert free_slots(house) == 2
    house.now += 2 * house.state.books.rules.lease
    house.handle(Ticked())
    assert free_slots(house) == 2


def test_a_client_that_is_gone_is_owed_nothing_before_its_slots_are_others() -> None:
    house, leases = painted(n=4)
    house.ask("b", b"other")
    effects = house.handle(ClientLost(CLIENT))
    kinds = [type(e) for e in effects]
    assert ForgetClient(CLIENT) in effects
    assert kinds.index(ForgetClient) < kinds.index(type(effects[-1]))
    assert only(effects, Execute).request_id == "b", "its slots are free"
    house.handle(Delivered(leases))  # too late
    assert free_slots(house) == 3


def test_a_drain_waits_until_all_pictures_were_copied_but_not_for_ever() -> None:
    for is_copied in (True, False):
        house, leases = painted()
        house.ask(Drain())
        house.wait(BEAT_S)
        assert house.state.books.ready, "there is something to hand over"
        if is_copied:
            house.handle(Delivered(leases))
            house.wait(BEAT_S)
        else:
            house.wait(60.0)
        assert not house.state.books.ready


def test_a_client_that_does_not_read_in_time_is_told_of_all_that_it_lost_in_one_message() -> None:
    house, _ = painted(n=4)
    house.ask("b")
    effects = house.handle(ClientTooSlow(CLIENT))
    error = only(effects, Error)
    assert (error.code, error.retryable, error.request_id) == ("too_slow", True, None)
    assert effects[0] == ForgetClient(CLIENT), "what it was owed must not follow"
    assert free_slots(house) == 4
    assert not house.state.books.requests


def test_a_client_that_has_nothing_open_is_told_too_for_its_ends_were_dropped() -> None:
    house = House()
    error = only(house.handle(ClientTooSlow(CLIENT)), Error)
    assert error.code == "too_slow"
