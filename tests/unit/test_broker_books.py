"""difs.broker: the tables of states, and the books' own checks."""

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from msgspec.structs import replace

from difs.actor_messages import (
    Execute,
)
from difs.broker.audit import check
from difs.broker.books import Books
from difs.broker.line import Line
from difs.broker.records import Actor, Attempt, Load, Request
from difs.broker.states import (
    ACTOR_TABLE,
    ATTEMPT_TABLE,
    REQUEST_TABLE,
    ActorState,
    AttemptState,
    Cause,
    InvalidTransition,
    RequestState,
)
from difs.errors import InternalError
from difs.messages import (
    Cancel,
    Ping,
)
from tests.builders import (
    finished,
    generate,
    only,
    plan,
    served,
)


@pytest.mark.parametrize(
    ("states", "table", "last"),
    [
        (RequestState, REQUEST_TABLE, {"FINISHED", "FAILED", "EXPIRED", "CANCELLED"}),
        (AttemptState, ATTEMPT_TABLE, {"ENDED"}),
        (ActorState, ACTOR_TABLE, {"LOST"}),
    ],
)
def test_every_state_has_a_row_and_leads_to_an_end(
    states: type[RequestState], table: dict[RequestState, dict[Cause, RequestState]], last: set[str]
) -> None:
    assert set(table) == set(states)
    assert {state.name for state, row in table.items() if not row} == last
    for state in states:
        reached, before = {state}, set[RequestState]()
        while reached != before:
            before = reached
            reached = reached | {after for s in reached for after in table[s].values()}
        assert any(s.name in last for s in reached)


def test_a_change_that_no_table_knows_is_a_bug_with_its_story() -> None:
    house = served()
    house.ask("a")
    request = house.state.books.requests["a"]
    with pytest.raises(InvalidTransition, match="dispatched"):
        house.state.books.move(request, Cause.DISPATCHED, 0.0)


def overdo(actor: Actor, attempt: Attempt) -> None:
    """Let an attempt be done with more than its work."""
    attempt.done_s = actor.account.done_s = attempt.request.work_s + 1.0


def line_up(actor: Actor, request: Request) -> None:
    """Put a request into a queue that it does not stand in."""
    actor.queue.add(request, 0, flow=b"x", order=(0.0, 1), seconds=1.0, kind="tiny")


def only_line(books: Books) -> Line[Request]:
    """Have a client wait in a queue, and return the line in which it stands."""
    request = books.open(generate("b"), books.client(b"b"), 0.0)
    (actor,) = books.ready
    request.plan = plan()
    books.assign(request, actor)
    check(books)
    (line,) = actor.queue._classes.values()
    return line


def lose_flow(books: Books) -> None:
    """Spoil what a queue knows of a client that waits there."""
    only_line(books).fair._active += 1


def lose_turn(books: Books) -> None:
    """Have a client wait in a queue, and lose its turn there."""
    only_line(books)._turns.clear()


def sizes_of(actor: Actor) -> int:
    """Return how many entries a queue keeps, live or stale."""
    queues = [line.fair for line in actor.queue._classes.values()]
    tops = sum(len(tops) for queue in queues for tops in queue._tops.values())
    return tops + sum(len(flow.heap) for queue in queues for flow in queue._flows.values())


SABOTAGE: dict[str, Callable[[Books, Request, Actor, Attempt], object]] = {
    "an ended request is listed": lambda b, r, ac, at: setattr(r, "state", RequestState.FAILED),
    "a request runs without an attempt": lambda b, r, ac, at: setattr(r, "attempt", None),
    "a request stands in two queues": lambda b, r, ac, at: b.waiting.update(a=r),
    "a request is nobody's": lambda b, r, ac, at: r.client.open.clear(),
    "a client's record is lost": lambda b, r, ac, at: b.clients.clear(),
    "a client has nothing": lambda b, r, ac, at: b.client(b"nobody"),
    "an actor has too much": lambda b, r, ac, at: setattr(ac, "credits", 0),
    "a lost actor is listed": lambda b, r, ac, at: setattr(ac, "state", ActorState.LOST),
    "a leaving actor is ready": lambda b, r, ac, at: setattr(ac, "state", ActorState.LEAVING),
    "what runs stands in a queue": lambda b, r, ac, at: line_up(ac, r),
    "a queue forgets a flow": lambda b, r, ac, at: lose_flow(b),
    "a queue forgets a turn": lambda b, r, ac, at: lose_turn(b),
    "an attempt is unknown": lambda b, r, ac, at: b.attempts.clear(),
    "a wanted attempt is aborted": lambda b, r, ac, at: setattr(at, "state", AttemptState.ABORTING),
    "an account is too high": lambda b, r, ac, at: setattr(ac.account, "assigned_s", 1.0),
    "the other account is too high": lambda b, r, ac, at: setattr(ac.spare, "assigned_s", 0.1),
    "a step is credited to nobody": lambda b, r, ac, at: setattr(ac.account, "done_s", 0.1),
    "more is done than was assigned": lambda b, r, ac, at: overdo(ac, at),
    "a wish is forgotten": lambda b, r, ac, at: ac.wants.clear(),
    "a load is expected by nobody": lambda b, r, ac, at: ac.load_s.update(wide=1.0),
    "what is there is expected to load": lambda b, r, ac, at: ac.load_s.update(tiny=1.0),
    "a load is for nobody": lambda b, r, ac, at: ac.loading.update(wide=deque([Load()])),
    "a load goes on twice": lambda b, r, ac, at: ac.loading.update(tiny=deque([Load(), Load()])),
    "no load is listed as one": lambda b, r, ac, at: ac.loading.update(tiny=deque()),
    "a slot is leaked": lambda b, r, ac, at: b.pools["cpu-0"].lease(1, 1),
    "a slot is free while it is used": lambda b, r, ac, at: b.pools["cpu-0"].give_back(0),
}


@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_books_that_contradict_themselves_are_noticed(
    sabotage: Callable[[Books, Request, Actor, Attempt], object],
) -> None:
    house = served()
    house.ask("a")
    books = house.state.books
    request = books.requests["a"]
    assert request.actor is not None
    assert request.attempt is not None
    house.state.validate()
    sabotage(books, request, request.actor, request.attempt)
    with pytest.raises(InternalError, match="the books disagree"):
        house.state.validate()


def test_books_are_checked_after_every_event_only_where_that_is_asked_for() -> None:
    for validate in (True, False):
        house = served()
        house.state.books.rules = replace(house.state.books.rules, validate=validate)
        house.state.books.client(b"nobody")
        with pytest.raises(InternalError) if validate else nullcontext():
            house.ask(Ping())


def test_only_the_last_stories_are_kept() -> None:
    house = served()
    house.state.books.ended.limit = 3
    for i in range(5):
        house.tell(finished(only(house.ask(f"r{i}"), Execute)))
    assert [bool(house.state.story(f"r{i}")) for i in range(5)] == [False, False, True, True, True]


def test_long_queues_forget_what_left_them() -> None:
    house = served(credits=1, max_outstanding=1000)
    house.ask("running")
    for i in range(400):
        house.ask(f"r{i}")
        house.ask(Cancel(f"r{i}"))
    (actor,) = house.state.books.ready
    assert len(actor.queue) == 0
    assert sizes_of(actor) < 100
    house.ask(Cancel("running"))
    assert house.state.next_wake() <= 0.5
