"""Loads of variants: asked for by requests or an administrator, given up when nobody waits any more.

A cancelled load may be asked for again before its actor has answered the first. An actor answers each
`load_variant` once and in order, so the unanswered ones of a variant stand in a queue.
"""

from collections import deque

from difs.actor_messages import CancelLoad, LoadVariant
from difs.broker.books import Books
from difs.broker.effects import TellActor
from difs.broker.records import Actor, Load
from difs.messages import MemoryMode


def ask(
    books: Books,
    actor: Actor,
    variant: str,
    mode: MemoryMode | None = None,
    *,
    is_asked: bool = False,
    is_settled: bool = False,
) -> None:
    """Have `variant` loaded on `actor`, unless it is there or on its way.

    Into memory mode `mode` where a profile knows it, or it `is_settled`: what stands in other plans is
    only assumed. `is_asked`: not by a request, so it goes on though none waits for it.
    """
    if not actor.is_loading(variant):
        if variant in actor.residents:
            return
        known = mode if is_settled or actor.profile_of(variant, mode) else None
        actor.loading.setdefault(variant, deque()).append(Load(mode=known))
        books.effects.append(TellActor(actor.route, LoadVariant(variant, known)))
    actor.loading[variant][-1].is_asked |= is_asked


def cancel_unwanted(books: Books, now: float) -> None:
    """Give up the loads that no request waits for and no administrator asked for."""
    for actor in books.actors.values():
        for variant, loads in actor.loading.items():
            load = loads[-1]
            if not (load.is_cancelled or load.is_asked or variant in actor.wants):
                if not actor.is_working:
                    actor.progressed_at = now  # what waited for it has been no hang until now
                load.is_cancelled = True
                books.effects.append(TellActor(actor.route, CancelLoad(variant)))


def answered(actor: Actor, variant: str) -> Load | None:
    """Take the oldest load of `variant` off the books; None when no answer was owed."""
    loads = actor.loading.get(variant)
    if not loads:
        return None
    load = loads.popleft()
    if not loads:
        del actor.loading[variant]
    return load
