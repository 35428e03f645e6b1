"""What waits for one actor: a fair queue for each priority, and the best effort after all of them."""

import math
from collections.abc import Container, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from difs.broker.fair import FairQueue

T = TypeVar("T", bound=Hashable)

BEST_EFFORT = 1
"""The class of what is served when nothing else waits; the others are priorities, negated."""


class Queue(Generic[T]):
    """Classes of items, the least first; within a class flows have fair shares."""

    def __init__(self) -> None:
        """Start empty."""
        self._classes: dict[int, FairQueue[T]] = {}
        self._class_of: dict[T, int] = {}
        self.placed: set[T] = set()
        """Those whose order was given: the others stand behind them, as their flows' shares decide."""

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, item: T) -> bool:
        return item in self._class_of

    def __iter__(self) -> Iterator[T]:
        return iter(self._class_of)

    @property
    def urgent(self) -> int:
        """Return how many wait that are no best effort."""
        spare = self._classes.get(BEST_EFFORT)
        return len(self) - (len(spare) if spare is not None else 0)

    def up_to(self, rank: int) -> int:
        """Return how many wait of the class `rank` and of those that go before it."""
        return sum([len(queue) for other, queue in self._classes.items() if other <= rank])

    def add(
        self,
        item: T,
        rank: int,
        *,
        flow: Hashable,
        order: tuple[float, int],
        seconds: float,
        kind: Hashable,
    ) -> None:
        """Put `item` into the class `rank`; see `FairQueue.add`."""
        if rank not in self._classes:
            self._classes[rank] = FairQueue()
            self._classes = dict(sorted(self._classes.items()))
        self._classes[rank].add(item, flow=flow, order=order, seconds=seconds, kind=kind)
        self._class_of[item] = rank
        if order[0] < math.inf:
            self.placed.add(item)

    def discard(self, item: T) -> None:
        """Take `item` out, uncharged; nothing happens when it is not here."""
        rank = self._class_of.pop(item, None)
        if rank is not None:
            self.placed.discard(item)
            self._classes[rank].discard(item)

    def pick(self, loaded: Container[Hashable]) -> T | None:
        """Return who is next, leaving it there; see `FairQueue.pick`."""
        for queue in self._classes.values():
            if len(queue):
                return queue.pick(loaded)
        return None

    def position(self, item: T) -> int:
        """Return how many are served until `item` is, itself included; see `FairQueue.position`."""
        rank = self._class_of[item]
        ahead = sum(len(queue) for other, queue in self._classes.items() if other < rank)
        return ahead + self._classes[rank].position(item)

    def take(self, item: T) -> None:
        """Take `item` out to be served now; its flow is charged."""
        self._classes[self._class_of.pop(item)].take(item)
        self.placed.discard(item)

    def refund(self, rank: int, flow: Hashable, seconds: float) -> None:
        """Give seconds back that a flow was charged and did not use; negative: it used more."""
        if rank in self._classes:
            self._classes[rank].refund(flow, seconds)

    def held_up_s(
        self, rank: int, *, flow: Hashable, seconds: float, to_come: Mapping[Hashable, float]
    ) -> float:
        """Return how much longer than all that waits a new item may wait; see `FairQueue.ahead_s`."""
        queue = self._classes.get(rank)
        return 0.0 if queue is None else max(0.0, queue.ahead_s(flow, seconds, to_come) - queue.seconds)

    def forget(self) -> None:
        """Forget what flows were charged: an idle device owes nobody."""
        for queue in self._classes.values():
            queue.forget()

    def contradictions(self) -> Iterator[str]:
        """Yield in words whatever does not agree; see `difs.broker.audit`."""
        if sum(len(queue) for queue in self._classes.values()) != len(self):
            yield f"counts {len(self)} items in all classes"
        if not self.placed <= self._class_of.keys():
            yield f"keeps the order of {self.placed - self._class_of.keys()}, who left"
        for rank, queue in self._classes.items():
            yield from (f"class {rank} {problem}" for problem in queue.contradictions())
