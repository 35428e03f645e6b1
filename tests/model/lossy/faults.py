"""What a seed means: the house, who asks for what, and what befalls whom. All is drawn before a run.

Which errors a call may end with is drawn with it. Where memory is short (`CRAMPED`), a variant that
was thought to fit may still fail to load, for a reason that is known: what only queued requests want
does not give way.
"""

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, NamedTuple

from difs.broker.events import LOCAL, Peer
from difs.messages import (
    ClientMessage,
    Evict,
    Explain,
    Generate,
    Load,
    Pin,
    Ping,
    SetMode,
    Status,
    Variants,
)
from tests import builders
from tests.model.lossy.actors import CURSED, POISON
from tests.model.lossy.links import HARSH, TRUE, Nature

REMOTE = tuple(Peer(account=name, is_local=False, is_admin=False) for name in ("ann", "bob"))
QUESTIONS: tuple[ClientMessage, ...] = (Ping(), Status(), Variants(), Explain(builders.generate("why")))
TIDY: tuple[ClientMessage, ...] = (Evict("tiny"), Evict("wide"))
"""What an administrator may do though memory is short; of what he loads or pins then, others fail."""
ADMIN: tuple[ClientMessage, ...] = (
    *TIDY,
    Load("wide"),
    SetMode("tiny", "tiled"),
    SetMode("wide", "full"),
    Pin("tiny"),
    Pin("tiny", pinned=False),
)
CALLS_END_S, CALM_AT_S = 4.0, 7.0
"""The last call comes before the one, the last fault before the other."""
PATIENT_S = 40.0
FOR_GOOD_S = 1e6
MOST_DEATHS = 2
"""A request that was there when so many actors ended is still tried again."""


FAULTY = frozenset(
    {"actor_lost", "broker_lost", "expired", "overloaded", "unavailable", "too_many_outstanding"}
)
POISONOUS = frozenset({"quarantined"})
HASTY = frozenset({"expired", "infeasible", "overloaded", "unavailable"})
CRAMPED = frozenset({"engine_failed"})
"""See the module."""


class Kind(Enum):
    """What may befall somebody."""

    KILL_ACTOR = "an actor is killed"
    HANG_ACTOR = "an actor hangs, its heartbeat goes on"
    STOP_ACTOR = "an actor is stopped for a while"
    MUTE_ACTOR = "an actor's heartbeat is not heard for a while"
    SLOW_ACTOR = "an actor is slow for a while"
    RETIRE_ACTOR = "an actor is asked to leave"
    KILL_BROKER = "the broker is killed"
    STOP_BROKER = "the broker is stopped for a while"
    KILL_CALLER = "a client is killed"
    CLOSE_CALLER = "a client closes"
    CUT_CALLER = "a client's connection breaks"
    HOLD_CALLER = "nothing gets through to a client, or from it, for a while"
    HOLD_ACTOR = "nothing gets through to an actor, or from it, for a while"
    HOLD_SUPERVISOR = "nothing gets through to the supervisor, or from it, for a while"
    STEAL_CALLER = "a client tries to cancel, and to join, what others have open"


ENDS_ACTORS = frozenset(
    {Kind.KILL_ACTOR, Kind.HANG_ACTOR, Kind.STOP_ACTOR, Kind.MUTE_ACTOR, Kind.SLOW_ACTOR, Kind.HOLD_ACTOR}
)


class Blow(NamedTuple):
    """Something that befalls somebody."""

    at: float
    kind: Kind
    whom: int
    seconds: float


class Call(NamedTuple):
    """What a client asks, when, and what it does then."""

    at: float
    message: Generate
    retries: int
    gives_up_s: float | None
    """It cancels after so long, if nothing has come."""
    keeps_s: float
    """It releases the pictures so long after it has them."""
    excused: frozenset[str] = frozenset()
    """The errors that what is drawn excuses: where there are none, it must succeed."""


class Question(NamedTuple):
    """What a client wants to know, or to be done, and when."""

    at: float
    message: ClientMessage


class Client(NamedTuple):
    """A client: who it is, and what it asks."""

    peer: Peer
    calls: tuple[Call, ...]
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed decides beforehand."""

    seed: int
    nature: Nature
    policy: str
    has_planner: bool
    devices: int
    has_little_memory: bool
    """A device holds one variant at a time: without a planner none would give way."""
    clients: tuple[Client, ...]
    blows: tuple[Blow, ...]
    is_slow: bool = False
    """Everything takes many times as long, so that more is under way at a time."""

    @property
    def is_prompt(self) -> bool:
        """Whether the broker can always tell a client in time that its deadline has passed."""
        hinders = {Kind.KILL_BROKER, Kind.STOP_BROKER, Kind.HOLD_CALLER, Kind.CUT_CALLER}
        return self.nature is TRUE and not hinders & {blow.kind for blow in self.blows}

    def __str__(self) -> str:
        """Tell it in a few lines."""
        calls = sum(len(client.calls) for client in self.clients)
        lines = [
            f"seed {self.seed}: {'harsh' if self.nature is HARSH else 'true'} links, {self.policy},"
            f" {self.devices} devices, {len(self.clients)} clients, {calls} calls"
            f"{', a planner' * self.has_planner}{', little memory' * self.has_little_memory}"
            f"{', slow' * self.is_slow}"
        ]
        lines += [f"  {b.at:.2f} s: {b.kind.value} ({b.whom}, {b.seconds:.1f} s)" for b in self.blows]
        return "\n".join(lines)


def draw(seed: int) -> Plan:
    """Return what a seed means."""
    dice = Random(f"{seed} plan")
    nature = HARSH if dice.random() < 0.35 else TRUE
    devices = dice.choice((1, 2, 2, 3))
    peers = [dice.choice((LOCAL, LOCAL, *REMOTE)) for _ in range(dice.randint(2, 4))]
    number = dice.choice((0, 1, 1, 2, 2, 3, 5))
    blows = tuple(sorted((_blow(dice, devices, len(peers)) for _ in range(number)), key=lambda b: b.at))
    has_poison = dice.random() < 0.3
    deaths = sum(blow.kind in ENDS_ACTORS for blow in blows) + 2 * has_poison
    hangs = any(blow.kind is Kind.HANG_ACTOR for blow in blows)  # a load may take 600 s
    is_kind = nature is TRUE and deaths <= MOST_DEATHS and not hangs
    has_planner = dice.random() < 0.4
    has_little_memory = has_planner and dice.random() < 0.6
    clients = [
        Client(
            peer,
            tuple(
                _call(
                    dice,
                    f"{i}.{k}",
                    peer,
                    is_kind=is_kind,
                    has_poison=has_poison,
                    has_little_memory=has_little_memory,
                )
                for k in range(dice.randint(1, 4))
            ),
            tuple(_question(dice, peer, has_little_memory) for _ in range(dice.choice((0, 0, 1, 3)))),
        )
        for i, peer in enumerate(peers)
    ]
    return Plan(
        seed=seed,
        nature=nature,
        policy=dice.choice(("modelless", "modelless", "static", "round_robin")),
        has_planner=has_planner,
        devices=devices,
        has_little_memory=has_little_memory,
        clients=tuple(clients),
        blows=blows,
        is_slow=dice.random() < 0.3,
    )


def _blow(dice: Random, devices: int, clients: int) -> Blow:
    kind = dice.choice(tuple(Kind))
    whom = dice.randrange(clients if "CALLER" in kind.name else devices)
    if kind is Kind.STOP_ACTOR and dice.random() < 0.4:
        return Blow(dice.uniform(0.3, CALM_AT_S - 2.0), kind, whom, FOR_GOOD_S)
    longest = 2.5 if "HOLD" in kind.name or kind is Kind.STOP_BROKER else 5.0
    return Blow(dice.uniform(0.3, CALM_AT_S - 2.0), kind, whom, dice.uniform(0.2, longest))


def _question(dice: Random, peer: Peer, has_little_memory: bool) -> Question:
    orders = () if not peer.is_admin else TIDY if has_little_memory else ADMIN
    return Question(dice.uniform(0.0, CALLS_END_S), dice.choice(QUESTIONS + orders))


def _call(
    dice: Random, name: str, peer: Peer, *, is_kind: bool, has_poison: bool, has_little_memory: bool
) -> Call:
    wishes: dict[str, Any] = {"n": dice.choice((1, 1, 1, 2, 3)), "seed": dice.choice((None, 5))}
    wishes["mode"] = dice.choice(("shm", "inline")) if peer.is_local else "inline"
    wishes |= dice.choice(({}, {}, {"variant": "wide"}, {"variant": "tiny"}, {"best_effort": True}))
    wishes |= dice.choice(({}, {"progress": True}, {"priority": 3}, {"deterministic": True}))
    is_patient = dice.random() < 0.8
    wishes["timeout_s"] = PATIENT_S if is_patient else dice.choice((0.3, 1.0, 3.0))
    hurt = dice.choice((POISON, CURSED)) if has_poison and name == "0.0" else ""
    message = builders.generate(name, prompt=f"apple {name} {hurt}".strip(), **wishes)
    excuses = frozenset() if is_patient and is_kind and not hurt else FAULTY
    excuses |= POISONOUS if hurt else frozenset()
    excuses |= HASTY if not is_patient else frozenset()
    excuses |= CRAMPED if has_little_memory else frozenset()
    gives_up_s = dice.uniform(0.0, 1.0) if dice.random() < 0.1 else None
    return Call(
        at=dice.uniform(0.0, CALLS_END_S),
        message=message,
        retries=dice.choice((0, 3)) if not is_patient else 6,
        gives_up_s=gives_up_s,
        keeps_s=dice.choice((0.0, 0.3, 2.0)),
        excused=excuses,
    )
