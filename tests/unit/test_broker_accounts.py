"""difs.broker: what a key counts for, what a client of another machine may ask, and who sees what."""

from collections import Counter
from typing import Any, get_args

import pytest

from difs.actor_messages import Abort, Execute
from difs.broker.effects import Effect
from difs.broker.events import ClientSaid, KeysRevoked, Peer
from difs.messages import (
    DEFAULT_PRIORITY,
    Accepted,
    Cancel,
    ClearQuarantine,
    ClientMessage,
    Drain,
    Error,
    Evict,
    Explain,
    Generate,
    Load,
    Metrics,
    Pin,
    Ping,
    Quarantine,
    Release,
    Result,
    SetMode,
    Status,
    Story,
    Variants,
)
from tests.builders import House, ended, finished, generate, is_over, only, refused, served, told

ANNA, BOB = Peer("anna", is_local=False, is_admin=False), Peer("bob", is_local=False, is_admin=False)
BOSS = Peer("boss", is_local=False, is_admin=True)
ANYONE = Peer(is_local=False, is_admin=False)
"""A program of this machine that came over TCP without a key."""
A1, A2, B1 = b"a1", b"a2", b"b1"


def say(
    house: House, peer: Peer, route: bytes, message: ClientMessage | str, **wishes: Any
) -> list[Effect]:
    said = generate(message, **wishes) if isinstance(message, str) else message
    return house.handle(ClientSaid(route, said, peer))


# ---- shares and limits ---------------------------------------------------------------------------


def test_a_key_with_many_connections_gets_one_share() -> None:
    """RELIABILITY, fault 17: nine connections of a greedy key against one of another."""
    house = served(credits=1)
    running = only(say(house, ANNA, b"a0", "a-first"), Execute)
    for i in range(9):
        say(house, ANNA, b"a%d" % i, f"a{i}")
    for i in range(9):
        say(house, BOB, B1, f"b{i}")
    served_names = Counter[str]()
    for _ in range(8):
        (running,) = told(house.tell(finished(running)), Execute)
        served_names[running.request_id[0]] += 1
    assert served_names == {"a": 4, "b": 4}


def test_connections_without_a_key_have_a_share_each() -> None:
    house = served(credits=1)
    running = only(say(house, ANYONE, A1, "a0"), Execute)
    for route, name in ((A1, "a1"), (A1, "a2"), (A2, "c1"), (B1, "b1")):
        say(house, ANYONE, route, name)
    order = []
    for _ in range(3):
        (running,) = told(house.tell(finished(running)), Execute)
        order.append(running.request_id)
    assert order == ["c1", "b1", "a1"]


def test_open_requests_are_counted_by_key_and_not_by_connection() -> None:
    house = served(max_outstanding=2)
    say(house, ANNA, A1, "r1")
    say(house, ANNA, A2, "r2")
    error = refused(say(house, ANNA, b"a3", "r3"))
    assert error.code == "too_many_outstanding"
    assert told(say(house, BOB, B1, "r4"), Accepted)
    assert not house.state.books.clients.get(b"a3"), "who was refused is not remembered"


def test_open_requests_of_local_programs_are_counted_by_connection() -> None:
    house = served(max_outstanding=1)
    house.ask("r1", A1)
    assert told(house.ask("r2", A2), Accepted)
    assert refused(house.ask("r3", A2)).code == "too_many_outstanding"


# ---- rights --------------------------------------------------------------------------------------


ADMINISTERING = (
    Load("tiny"),
    Evict("tiny"),
    SetMode("tiny", "full"),
    Pin("tiny"),
    Drain(),
    Story(),
    Quarantine(),
    ClearQuarantine(),
)
FOR_ALL = (Generate, Explain, Cancel, Release, Variants, Status, Ping, Metrics)


def test_every_message_is_for_all_or_for_administrators() -> None:
    assert {*map(type, ADMINISTERING), *FOR_ALL} == set(get_args(ClientMessage))


@pytest.mark.parametrize("message", ADMINISTERING)
@pytest.mark.parametrize("peer", [ANNA, ANYONE])
def test_who_is_no_administrator_administers_nothing(message: ClientMessage, peer: Peer) -> None:
    house = served()
    error = refused(say(house, peer, A1, message))
    assert (error.code, error.retryable) == ("denied", False)
    assert house.state.books.draining_until is None
    assert "tiny" in house.state.books.ready[0].residents


def test_an_administrators_key_may_what_the_configuration_allows() -> None:
    assert not told(say(served(), BOSS, A1, Evict("tiny")), Error)
    assert refused(say(served(admin=False), BOSS, A1, Evict("tiny"))).code == "unsupported"


@pytest.mark.parametrize("peer", [ANNA, BOSS, ANYONE])
def test_no_segment_of_shared_memory_is_named_to_who_cannot_map_it(peer: Peer) -> None:
    house = served()
    error = refused(say(house, peer, A1, "r1", mode="shm"))
    assert (error.code, error.request_id, error.field) == ("unsupported", "r1", "delivery.mode")
    assert refused(say(house, peer, A1, Explain(generate("r1", mode="shm")))).code == "unsupported"
    assert is_over(house)
    running = only(say(house, peer, A1, "r2"), Execute)
    result = only(house.tell(finished(running)), Result)
    assert not isinstance(result.images[0].segment, str)


@pytest.mark.parametrize("peer", [ANNA, ANYONE])
def test_nobody_from_afar_puts_himself_before_all_others(peer: Peer) -> None:
    house = served(credits=4)
    error = refused(say(house, peer, A1, "r1", priority=DEFAULT_PRIORITY + 1))
    assert (error.code, error.field) == ("denied", "requirements.priority")
    assert told(say(house, peer, A1, "r1", priority=DEFAULT_PRIORITY), Accepted)
    assert told(say(house, BOSS, A2, "r2", priority=9), Accepted)
    assert told(house.ask("r3", priority=9), Accepted)


# ---- who sees what -------------------------------------------------------------------------------


def test_a_request_is_not_joined_by_another_key_that_knows_its_id() -> None:
    house = served()
    running = only(say(house, ANNA, A1, "r1"), Execute)
    error = refused(say(house, BOB, B1, "r1"))
    assert error.code == "id_conflict"
    assert refused(say(house, BOB, B1, Cancel("r1"))).code == "not_found"
    assert refused(house.ask("r1", b"local")).code == "id_conflict"
    assert only(say(house, ANNA, A2, "r1"), Accepted, A2), "the same key may, from another connection"
    assert only(house.tell(finished(running)), Result, A2)


def test_a_program_on_tcp_without_a_key_joins_no_local_request() -> None:
    house = served()
    house.ask("r1", b"local")
    assert refused(say(house, ANYONE, B1, "r1")).code == "id_conflict"


def test_who_connects_under_anothers_routing_id_gets_nothing_of_his() -> None:
    house = served()
    running = only(say(house, ANNA, A1, "r1"), Execute)
    effects = say(house, BOB, A1, "r2")
    assert told(effects, Abort)
    assert {m.request_id for m in told(effects, Accepted)} == {"r2"}
    assert not told(effects, Error)
    assert not told(house.tell(ended(running)), Result)


def test_a_revoked_key_loses_what_it_had_open_on_every_connection_and_others_nothing() -> None:
    house = served(credits=4)
    for peer, route, name in ((ANNA, A1, "r1"), (ANNA, A2, "r2"), (BOB, B1, "r3")):
        say(house, peer, route, name)
    house.ask("r4", b"local")
    effects = house.handle(KeysRevoked(frozenset({"anna", "who was never here"})))
    assert len(told(effects, Abort)) == 2
    assert set(house.state.books.requests) == {"r3", "r4"}


def test_an_engines_words_reach_clients_without_paths() -> None:
    house = served()
    running = only(say(house, ANNA, A1, "r1"), Execute)
    report = ended(running, "engine_failed")
    words = "cannot read '/srv/models/x y/unet.safetensors': /srv/models/a/b.py broke"
    error = only(house.tell(type(report)(report.attempt, report.code, words)), Error)
    assert error.message == "cannot read 'unet.safetensors': b.py broke"
    running = only(say(house, ANNA, A1, "r2"), Execute)
    result = only(house.tell(finished(running, notes=("loaded from /srv/models/x.bin",))), Result)
    assert result.notes == ("loaded from x.bin",)
