"""What a bench asks of a system: start, paint, stop; and the batching knobs of those that have any."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.load import Ask, Pixels


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

    @abstractmethod
    async def paint(self, ask: Ask) -> Pixels:
        """Return one picture, of shape (height, width, 3)."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop; nothing of it may be left on the machine."""


class BatchingSystem(System):
    """A system whose batching can be tuned while it runs."""

    batching = Batching(8, 0.0)

    @abstractmethod
    async def tune(self, batching: Batching) -> None:
        """Use other knobs from now on, after a restart too."""
