"""What happens when, by the seed alone. Pure."""

import random
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """A way to hurt a service."""

    KILL_ACTOR = "an actor is killed"
    STOP_ACTOR = "an actor is stopped until it is replaced"
    PAUSE_ACTOR = "an actor is stopped for a moment"
    KILL_BROKER = "the broker is killed"
    PAUSE_BROKER = "the broker is stopped for a moment"
    KILL_CLIENT = "a client is killed"
    FILL_SHM = "others fill the tmpfs"
    SQUEEZE_ACTOR = "an actor gets no more memory"
    GARBAGE = "noise on the clients' socket"
    SPOIL_NETWORK = "the network of far clients is cut, slow or silent"


WEIGHTS = {
    Kind.KILL_ACTOR: 8,
    Kind.STOP_ACTOR: 2,
    Kind.PAUSE_ACTOR: 4,
    Kind.KILL_BROKER: 1,
    Kind.PAUSE_BROKER: 2,
    Kind.KILL_CLIENT: 2,
    Kind.FILL_SHM: 1,
    Kind.SQUEEZE_ACTOR: 1,
    Kind.GARBAGE: 2,
    Kind.SPOIL_NETWORK: 3,
}
ENDING = {Kind.KILL_ACTOR, Kind.STOP_ACTOR, Kind.KILL_BROKER, Kind.SQUEEZE_ACTOR}
"""What ends a process of the service, so that nobody sees whether it grows."""
MEAN_REST_S = 1.5


class Blow(NamedTuple):
    """One of them, `at_s` seconds after the start; `pick` in 0..1 chooses whom, `for_s` how long."""

    at_s: float
    kind: Kind
    pick: float
    for_s: float


def blows(seed: int, seconds: float, kinds: set[Kind]) -> list[Blow]:
    """Return the blows of a run, in order; each of `kinds` comes if the run is long enough."""
    chance = random.Random(seed)
    possible = [kind for kind in Kind if kind in kinds]
    found: list[Blow] = []
    at_s = 0.5
    first = chance.sample(possible, len(possible))
    while at_s < seconds:
        kind = first.pop() if first else chance.choices(possible, [WEIGHTS[k] for k in possible])[0]
        found.append(Blow(at_s, kind, chance.random(), chance.uniform(0.05, 0.8)))
        at_s += chance.expovariate(1 / MEAN_REST_S)
    return found
