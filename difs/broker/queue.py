"""What waits for one actor: a line for each priority, and the best effort after all of them."""

from collections.abc import Container, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from difs.broker.line import Line, Told

T = TypeVar("T", bound=Hashable)

BEST_EFFORT = 1
"""The class of what is served when nothing else waits; the others are priorities, negated."""


class Queue(Generic[T]):
    """Classes of items, the least first; within a class see `difs.broker.line`."""

    def __init__(self) -> None:
        """Start empty."""
        self._classes: dict[int, Line[T]] = {}
        self._class_of: dict[T, int] = {}
        self._late: set[T] = set()

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, item: T) -> bool:
        return item in self._class_of

    def __iter__(self) -> Iterator[T]:
        """Yield all in the order of their turns, class by class."""
        for line in self._classes.values():
            yield from line

    @property
    def urgent(self) -> int:
        """Return how many wait that are no best effort."""
        spare = self._classes.get(BEST_EFFORT)
        return len(self) - (len(spare) if spare is not None else 0)

    @property
    def late(self) -> int:
        """Return how many know that they will be late."""
        return len(self._late)

    def up_to(self, rank: int) -> int:
        """Return how many wait of the class `rank` and of those that go before it."""
        return sum([len(line) for other, line in self._classes.items() if other <= rank])

    def add(
        self,
        item: T,
        rank: int,
        *,
        flow: Hashable,
        order: tuple[float, int],
        seconds: float,
        kind: Hashable,
        turn: float = 0.0,
        told: Told = "foretold",
    ) -> None:
        """Put `item` into the class `rank`; see `Line.add`."""
        if rank not in self._classes:
            self._classes[rank] = Line()
            self._classes = dict(sorted(self._classes.items()))
        line = self._classes[rank]
        line.add(item, flow=flow, order=order, seconds=seconds, kind=kind, turn=turn, told=told)
        self._class_of[item] = rank
        if told == "late":
            self._late.add(item)

    def discard(self, item: T) -> None:
        """Take `item` out, uncharged; nothing happens when it is not here."""
        rank = self._class_of.pop(item, None)
        if rank is not None:
            self._late.discard(item)
            self._classes[rank].discard(item)

    def pick(self, loaded: Container[Hashable]) -> T | None:
        """Return who is next, leaving it there; see `Line.pick`."""
        for line in self._classes.values():
            if len(line):
                return line.pick(loaded)
        return None

    def position(self, item: T) -> int:
        """Return how many are served until `item` is, itself included; see `Line.position`."""
        rank = self._class_of[item]
        ahead = sum(len(line) for other, line in self._classes.items() if other < rank)
        return ahead + self._classes[rank].position(item)

    def take(self, item: T) -> None:
        """Take `item` out to be served now; its flow is charged, unless it was promised its turn."""
        self._late.discard(item)
        self._classes[self._class_of.pop(item)].take(item)

    def refund(self, rank: int, flow: Hashable, seconds: float) -> None:
        """Give seconds back that a flow was charged and did not use; negative: it used more."""
        if rank in self._classes:
            self._classes[rank].fair.refund(flow, seconds)

    def held_up_s(
        self, rank: int, *, flow: Hashable, seconds: float, to_come: Mapping[Hashable, float]
    ) -> float:
        """Return how much longer than all that waits a new item may wait; see `FairQueue.ahead_s`."""
        line = self._classes.get(rank)
        if line is None:
            return 0.0
        return max(0.0, line.fair.ahead_s(flow, seconds, to_come) - line.fair.seconds)

    def forget(self) -> None:
        """Forget what flows were charged: an idle device owes nobody."""
        for line in self._classes.values():
            line.fair.forget()

    def contradictions(self) -> Iterator[str]:
        """Yield in words whatever does not agree; see `difs.broker.audit`."""
        if sum(len(line) for line in self._classes.values()) != len(self):
            yield f"counts {len(self)} items in all classes"
        if not self._late <= self._class_of.keys():
            yield f"knows of {self._late - self._class_of.keys()}, who left, that they are late"
        for rank, line in self._classes.items():
            yield from (f"class {rank} {problem}" for problem in line.contradictions())
