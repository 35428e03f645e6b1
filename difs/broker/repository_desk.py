"""What a change of the model repository means: for what is queued, and for what is loaded."""

from difs.broker import actor_desk, dispatch, scaling
from difs.broker.books import Books
from difs.broker.events import RepositoryChanged
from difs.broker.records import Actor, Request


def changed(books: Books, event: RepositoryChanged, now: float) -> None:
    """Enter what there is now; what was planned with something that is gone is planned anew, or ends.

    What runs goes on: its weights are in memory.
    """
    books.variants, books.adapters = event.variants, event.adapters
    books.counts["repository_changes"] += 1
    for actor in books.actors.values():
        actor.outdated |= event.outdated & (
            actor.residents.keys() | actor.loading.keys() | actor.parked.keys()
        )
        for variant in event.outdated:
            actor.profiled.pop(variant, None)  # another thing was measured
        actor_desk.estimate(books, actor)
    queued = [*books.waiting.values(), *(r for a in books.ready for r in books.queued_on(a))]
    for request in sorted(queued, key=lambda r: r.rank):
        if _lost_something(books, request):
            dispatch.replan(books, request, now)


def _lost_something(books: Books, request: Request) -> bool:
    """Whether a request needs what is not there any more."""
    pins = request.message.overrides
    planned = request.plan.variant if request.plan is not None else pins.variant
    is_gone = planned is not None and planned not in books.variants
    return is_gone or any(pin.name not in books.adapters for pin in pins.adapters)


def evict_outdated(books: Books, now: float) -> None:
    """Have what is outdated leave its device as soon as nothing runs with it."""
    for actor in books.actors.values():
        for variant in sorted(actor.outdated) if actor.outdated else ():
            is_here = variant in actor.residents or variant in actor.parked
            if variant in actor.loading or _is_used(actor, variant):
                continue
            actor.outdated.discard(variant)
            actor.parked.pop(variant, None)
            if is_here:
                scaling.send_away(books, actor, variant, now)


def _is_used(actor: Actor, variant: str) -> bool:
    return any(attempt.plan.variant == variant for attempt in actor.attempts.values())
