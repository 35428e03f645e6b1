"""The proof that the books agree with themselves; tests run it after every event. It changes nothing."""

from collections import Counter
from collections.abc import Iterator

from difs.broker.books import Books
from difs.broker.records import Actor
from difs.broker.states import ActorState, AttemptState, RequestState
from difs.errors import InternalError


def check(books: Books) -> None:
    """Raise InternalError where the books contradict themselves."""
    for problem in _contradictions(books):
        raise InternalError(f"the books disagree: {problem}")


def _contradictions(books: Books) -> Iterator[str]:
    for name, request in books.requests.items():
        if not request.is_open or request.client.open.get(name) is not request:
            yield f"request {name} is {request.state} but listed as open"
        if (request.state is RequestState.RUNNING) != (request.attempt is not None):
            yield f"request {name} is {request.state} with attempt {request.attempt}"
        if (request.actor is None) != (name in books.waiting):
            yield f"request {name} stands in two queues or in none"
    for actor in books.actors.values():
        yield from _actor_contradictions(books, actor)
    for client in books.clients.values():
        if not client.open and not client.leases:
            yield f"client {client.route!r} has nothing but is remembered"
    open_count = sum(len(c.open) for c in books.clients.values())
    if open_count != len(books.requests):
        yield f"{len(books.requests)} requests, {open_count} with clients"
    for device, pool in books.pools.items():
        attempts = [a for a in books.attempts.values() if a.actor.device == device]
        leased = [s.index for a in attempts for s in a.slots]
        leased += [h.index for h in books.holds.values() if h.device == device]
        if len(leased) != len(set(leased)) or pool.in_use() != set(leased):
            yield f"{device}: slots {sorted(pool.in_use())} in use, {sorted(leased)} accounted for"


def _actor_contradictions(books: Books, actor: Actor) -> Iterator[str]:
    yield from _account_contradictions(books, actor)
    yield from _load_contradictions(actor)
    if len(actor.attempts) > actor.credits:
        yield f"{actor.device} has {len(actor.attempts)} attempts and {actor.credits} credits"
    if actor.state is ActorState.LOST or (actor in books.ready) != (actor.state is ActorState.READY):
        yield f"{actor.device} is {actor.state} but listed"
    if actor.suspects != sum(a.is_suspect for a in actor.attempts.values()) or (
        actor.suspects and len(actor.attempts) > 1
    ):
        yield f"{actor.device} counts {actor.suspects} suspects among {len(actor.attempts)} attempts"
    if actor.spared != sum(a.request.is_best_effort for a in actor.attempts.values()):
        yield f"{actor.device} counts {actor.spared} attempts as best effort"
    yield from _queue_contradictions(books, actor)
    for attempt in actor.attempts.values():
        wanted = attempt.state is AttemptState.RUNNING
        if wanted != (attempt.request.attempt is attempt and attempt.request.is_open):
            yield f"attempt {attempt.number} is {attempt.state}, its request is not"
        if books.attempts.get(attempt.number) is not attempt:
            yield f"attempt {attempt.number} is not in the books"


DRIFT_S = 1e-6


def _account_contradictions(books: Books, actor: Actor) -> Iterator[str]:
    requests = [r for r in books.requests.values() if r.actor is actor]
    for account, is_spare in ((actor.account, False), (actor.spare, True)):
        assigned_s = sum(r.work_s for r in requests if r.is_best_effort is is_spare)
        attempts = [a for a in actor.attempts.values() if a.request.is_best_effort is is_spare]
        done_s = sum(a.done_s for a in attempts)
        off_s = max(abs(assigned_s - account.assigned_s), abs(done_s - account.done_s))
        if off_s > DRIFT_S:
            yield f"{actor.device} has {account}, not {assigned_s} s to do and {done_s} s done"
    for attempt in actor.attempts.values():
        if attempt.done_s > attempt.request.work_s + DRIFT_S:
            yield f"attempt {attempt.number} has done more than was assigned"
    if actor.wants != Counter(r.plan.variant for r in requests if r.plan is not None):
        yield f"{actor.device} counts the wrong variants as wanted: {actor.wants}"


def _queue_contradictions(books: Books, actor: Actor) -> Iterator[str]:
    waiting = {r for r in books.requests.values() if r.actor is actor and r.state is RequestState.QUEUED}
    if set(actor.queue) != waiting:
        yield f"{actor.device} counts {len(actor.queue)} queued, {len(waiting)} are"
    yield from (f"the queue of {actor.device} {problem}" for problem in actor.queue.contradictions())


def _load_contradictions(actor: Actor) -> Iterator[str]:
    if not actor.load_s.keys() <= actor.wants.keys() - actor.residents.keys():
        yield f"{actor.device} expects loads that nobody waits for: {actor.load_s}"
    in_use = actor.loading.keys() | {attempt.plan.variant for attempt in actor.attempts.values()}
    if not actor.outdated <= in_use:
        yield f"{actor.device} keeps what is outdated and not used: {actor.outdated - in_use}"
    for variant, loads in actor.loading.items():
        if not loads or not all(load.is_cancelled for load in list(loads)[:-1]):
            yield f"{actor.device} loads {variant} twice at a time"
        elif not (loads[-1].is_cancelled or loads[-1].is_asked or variant in actor.wants):
            yield f"{actor.device} loads {variant} though nobody waits for it"
