"""What a bench asks of a system: start, paint, stop; and the batching knobs of those that have any."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench.load import Ask, Pixels


def square(data: bytes) -> Pixels:
    """Return the picture of these bytes: the bench's are square."""
    side = round((len(data) / 3) ** 0.5)
    return np.frombuffer(data, np.uint8).reshape(side, side, 3)


@dataclass(frozen=True)
class Batching:
    """The two knobs of request-level dynamic batching."""

    max_size: int
    wait_s: float

    def __str__(self) -> str:
        return f"{self.max_size} requests, {self.wait_s * 1e3:g} ms"


class System(ABC):
    """One way to serve a model folder; `paint` may be called many times at once."""

    name: str
    needs: tuple[str, ...] = ()
    """Modules without which it cannot be measured."""
    package = ""
    """The distribution whose version a result names; empty for what every result names anyhow."""
    advice = ""
    """What its documentation says on tuning, and where; what is set by hand stands here, too."""

    def __init__(self, model: Path) -> None:
        """Prepare; nothing runs yet."""
        self.model = model

    @classmethod
    def missing(cls) -> list[str]:
        """Return the modules that are not installed."""
        return [module for module in cls.needs if find_spec(module) is None]

    @abstractmethod
    async def start(self) -> None:
        """Start, and return when it can paint."""

    async def start_and_paint(self, ask: Ask) -> Pixels:
        """Start, and return the first picture as soon as it can be had."""
        await self.start()
        return await self.paint(ask)

    @abstractmethod
    async def paint(self, ask: Ask) -> Pixels:
        """Return one picture, of shape (height, width, 3)."""

    @property
    def root(self) -> int:
        """Return the process that, with all its descendants, is the system; only where there is one."""
        raise NotImplementedError(f"{self.name} has no process of its own")

    @property
    def front(self) -> str:
        """Return where clients reach it: `tcp://HOST:PORT`, `ipc://PATH`, or nothing for a pipe."""
        return ""

    async def approach(self, front: str) -> None:
        """Let the client come by another front, as that of a relay, from now on."""
        raise NotImplementedError(f"{self.name} is reached in one way only")

    @abstractmethod
    async def stop(self) -> None:
        """Stop; nothing of it may be left on the machine."""


class BatchingSystem(System):
    """A system whose batching can be tuned."""

    batching = Batching(8, 0.0)
    waits_s: tuple[float, ...] = (0.0, 0.02, 0.1)
    """The waits worth trying; one, where the system finds its own."""

    @abstractmethod
    async def tune(self, batching: Batching) -> None:
        """Use other knobs from now on, after a restart too."""
