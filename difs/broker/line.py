"""Who is next among those of one priority: promises come in their turns, all others by fair shares.

Everything that waits has a turn, the moment at which it would be done if all that was there before it
were done first, or a later one that was given to it. The first turn is served. If it is that of a
promise it is the promise's, for so it was foreseen; else it goes to whom of those that were promised
nothing his share says (`difs.broker.fair`), so that a client that asks for much takes it from itself.
No requests and no policies here: items, flows and kinds are any hashable values.
"""

from bisect import bisect_left, insort
from collections.abc import Container, Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Literal, TypeVar

from difs.broker.fair import JUMPED_S, JUMPS, FairQueue

T = TypeVar("T", bound=Hashable)

Told = Literal["promised", "foretold", "late"]
"""What an item was told: that it keeps what its client stated; some moment; or that it will be late."""
LOOKED_AT = 64
"""Behind a promise whose kind is not loaded so many are looked at for one that may go ahead."""


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    key: tuple[float, int]
    seconds: float
    kind: Hashable
    told: Told
    jumps: int = 0
    jumped_s: float = 0.0

    def __lt__(self, other: "_Entry[T]") -> bool:
        return self.key < other.key


class Line(Generic[T]):
    """See the module."""

    def __init__(self) -> None:
        """Start empty."""
        self.fair: FairQueue[T] = FairQueue()
        """Those that were promised nothing."""
        self._turns: list[_Entry[T]] = []
        """All, the next turn first."""
        self._entries: dict[T, _Entry[T]] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        """Yield all in the order of their turns."""
        for entry in self._turns:
            yield entry.item

    def add(
        self,
        item: T,
        *,
        flow: Hashable,
        order: tuple[float, int],
        seconds: float,
        kind: Hashable,
        turn: float,
        told: Told,
    ) -> None:
        """Put `item` in at its `turn`; see `FairQueue.add` for the others."""
        self._added += 1
        entry = self._entries[item] = _Entry(item, (turn, self._added), seconds, kind, told)
        if not self._turns or self._turns[-1] < entry:
            self._turns.append(entry)
        else:
            insort(self._turns, entry)
        if told != "promised":
            self.fair.add(item, flow=flow, order=order, seconds=seconds, kind=kind)

    def discard(self, item: T) -> None:
        """Take `item` out, uncharged; nothing happens when it is not here."""
        entry = self._entries.pop(item, None)
        if entry is not None:
            self._leave(entry)
            self.fair.discard(item)

    def take(self, item: T) -> None:
        """Take `item` out to be served now; one that was promised nothing is charged for."""
        entry = self._entries.pop(item)
        first = self._turns[0]
        if first is not entry and first.told == "promised":
            first.jumps += 1
            first.jumped_s += entry.seconds
        if entry.told != "promised":
            self.fair.take(item)
            entry = self._give_turn(entry)
        self._leave(entry)

    def _give_turn(self, entry: _Entry[T]) -> _Entry[T]:
        """Give the turn of an unpromised item to the first of its like, in whose turn it is served."""
        first = next(other for other in self._turns if other.told != "promised")
        if first is not entry:
            at = bisect_left(self._turns, entry)
            turn = first.key
            del self._turns[0 if self._turns[0] is first else bisect_left(self._turns, first)]
            self._turns[at - 1], first.key = first, entry.key
            entry.key = turn
            insort(self._turns, entry)
        return entry

    def _leave(self, entry: _Entry[T]) -> None:
        del self._turns[bisect_left(self._turns, entry)]

    def pick(self, loaded: Container[Hashable]) -> T | None:
        """Return who is next, leaving it there: the first, or one of a loaded kind that may go ahead."""
        if not self._turns:
            return None
        first = self._turns[0]
        if first.told != "promised":
            return self.fair.pick(loaded)
        if first.kind in loaded or first.jumps >= JUMPS:
            return first.item
        ahead = self._loaded_behind(loaded)
        may_jump = ahead is not None and first.jumped_s + ahead.seconds <= JUMPED_S
        return ahead.item if ahead is not None and may_jump else first.item

    def _loaded_behind(self, loaded: Container[Hashable]) -> _Entry[T] | None:
        """Return who may go ahead of the first turn: the next promise, or whom his share says."""
        found = next((o for o in islice(self._turns, 1, LOOKED_AT) if o.kind in loaded), None)
        if found is None or found.told == "promised":
            return found
        item = self.fair.pick(loaded)
        entry = self._entries[item] if item is not None else found
        return entry if entry.kind in loaded else None

    def position(self, item: T) -> int:
        """Return how many are served until `item` is, itself included, if none goes ahead and none comes.

        O(n log n): for who asks, not for the dispatch.
        """
        entry = self._entries[item]
        if entry.told == "promised":
            return bisect_left(self._turns, entry) + 1
        turn = self.fair.position(item)
        for served, other in enumerate(self._turns, 1):
            turn -= other.told != "promised"
            if not turn:
                return served
        return len(self)

    def contradictions(self) -> Iterator[str]:
        """Yield in words whatever does not agree; see `difs.broker.audit`."""
        if sorted(self._entries.values()) != self._turns:
            yield f"keeps {len(self._turns)} turns of {len(self._entries)} items"
        others = {item for item, entry in self._entries.items() if entry.told != "promised"}
        if others != set(self.fair):
            yield f"shares its time among {len(self.fair)} items, {len(others)} were promised nothing"
        yield from self.fair.contradictions()
