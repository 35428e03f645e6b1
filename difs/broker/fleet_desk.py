"""What the supervisor reports of the actors' processes, and what it is told: one function a message."""

from collections.abc import Callable
from typing import Any

from difs.actor_messages import ActorExited, DrainAll, Fleet, Supervise
from difs.broker import client_desk, dispatch
from difs.broker.books import Books
from difs.broker.effects import TellSupervisor


def tell_fleet(books: Books) -> None:
    """Tell the supervisor which devices are ready."""
    if books.supervisor is not None:
        ready = tuple(a.device for a in books.ready)
        proven = tuple(a.device for a in books.ready if a.is_proven)
        books.effects.append(TellSupervisor(books.supervisor, Fleet(books.epoch, ready, proven)))


def _supervise(books: Books, route: bytes, message: Supervise, now: float) -> None:
    books.supervisor = route
    tell_fleet(books)


def _exited(books: Books, route: bytes, message: ActorExited, now: float) -> None:
    why = books.killed.pop(message.pid, None)
    books.tally.exited(message.device, message.how if why is None else why)
    actor = books.by_device.get(message.device)
    if actor is not None and actor.pid == message.pid:
        dispatch.lose_actor(books, actor, message.reason, now)
        tell_fleet(books)


def _drain_all(books: Books, route: bytes, message: DrainAll, now: float) -> None:
    client_desk.start_draining(books, now + message.grace_s)


HANDLERS: dict[type, Callable[[Books, bytes, Any, float], None]] = {
    Supervise: _supervise,
    ActorExited: _exited,
    DrainAll: _drain_all,
}
