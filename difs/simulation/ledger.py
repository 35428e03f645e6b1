"""What came of each request of a run, what happened on the way, and the hash of all that happened."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from difs.actor_messages import Execute, FromActor, Loaded, Ready, Switched, ToActor
from difs.messages import Generate, Plan


@dataclass(slots=True)
class Fate:
    """What one request wanted and got."""

    asked: Generate
    arrived_at: float
    ease: float
    """0..1: how easy its prompt is, for variants whose quality differs by that, and for the scorer."""
    ended_at: float | None = None
    code: str = ""
    """Empty: it got its pictures; else why not. `rejected` says whether it was refused at the door."""
    is_accepted: bool = False
    promised: bool | None = None
    """Whether its latency was accepted as one that is kept; None: it stated none."""
    plan: Plan | None = None
    quality: float | None = None
    """Of what was delivered; None: nobody knows what its variant is worth."""
    ends: int = 0
    """How often it ended: once, or there is a bug."""

    @property
    def is_delivered(self) -> bool:
        """Whether it got its pictures."""
        return self.ended_at is not None and not self.code

    @property
    def seconds(self) -> float:
        """Return the seconds from its arrival to its end."""
        assert self.ended_at is not None
        return self.ended_at - self.arrived_at

    @property
    def is_kept(self) -> bool:
        """Whether it got its pictures in the latency that it stated, if it did."""
        latency_s = self.asked.requirements.latency_s
        return self.is_delivered and (latency_s is None or self.seconds <= latency_s + 1e-9)


class Sample(NamedTuple):
    """All devices' memory at one moment, in bytes, and how many of them compute."""

    at: float
    own: int
    others: int
    parked: int
    busy: int
    most: float
    """The greatest part of one device's memory that is taken."""


@dataclass
class Ledger:
    """The record of a run."""

    keeps_lines: bool = False
    fates: dict[str, Fate] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """All that happened, a line each, where that is wanted."""
    seconds: float = 0.0
    """Simulated, from the first moment until the last request had ended."""
    busy_s: float = 0.0
    """Of all devices."""
    devices: int = 0
    _hash: blake2b = field(default_factory=lambda: blake2b(digest_size=16))

    def happened(self, now: float, *what: object) -> None:
        """Enter something that happened."""
        line = f"{now:.9f} {' '.join(map(str, what))}"
        self._hash.update(line.encode() + b"\n")
        if self.keeps_lines:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Return the hash of all that happened: the same for the same run."""
        return self._hash.hexdigest()


def in_words(message: FromActor | ToActor) -> str:
    """Return what a message says, in short: the same for the same message."""
    name = type(message).__name__
    match message:
        case Execute():
            return f"{name} {message.request_id} {message.variant} {message.steps} {message.sampler}"
        case Loaded() | Switched():
            return f"{name} {message.resident.variant} {message.resident.memory_mode}"
        case Ready():
            return f"{name} {','.join(found.variant for found in message.residents)}"
    return f"{name} {getattr(message, 'attempt', '') or getattr(message, 'variant', '')}"
