"""Which slots of a segment are free, leased to an attempt or sealed. Pure book-keeping.

free -> leased (an actor may write) -> sealed (immutable, readers may map) -> free. The truth stands
here, in the broker, not in the shared memory: a wild writer can spoil pixels only.
"""

from enum import Enum

from difs.actor_messages import Slot
from difs.shm.layout import Layout


class SlotState(Enum):
    """What may be done with a slot."""

    FREE = "free"
    LEASED = "leased"
    SEALED = "sealed"


class SlotPool:
    """The slots of one segment."""

    def __init__(self, layout: Layout, first_generation: int) -> None:
        """Start with all slots free; generations count up from `first_generation`."""
        self._places = layout.slots
        self._states = [SlotState.FREE] * len(layout.slots)
        self._generation = first_generation
        self._free: dict[int, list[int]] = {}
        for place in reversed(layout.slots):
            self._free.setdefault(place.capacity_bytes, []).append(place.index)
        self._classes = sorted(self._free)
        self._capacity = {c: len(indices) for c, indices in self._free.items()}

    @property
    def total(self) -> int:
        """Return the number of slots."""
        return len(self._places)

    @property
    def free(self) -> int:
        """Return the number of free slots."""
        return sum(map(len, self._free.values()))

    def could_ever_hold(self, n: int, nbytes: int) -> bool:
        """Whether `n` images of `nbytes` fit when every slot is free."""
        if n == 1:
            return nbytes <= self._classes[-1]
        return sum(k for c, k in self._capacity.items() if c >= nbytes) >= n

    def can_lease(self, n: int, nbytes: int) -> bool:
        """Whether `lease` would find slots now."""
        for capacity in reversed(self._classes):
            if n <= 0 or capacity < nbytes:
                break
            n -= len(self._free[capacity])
        return n <= 0

    def lease(self, n: int, nbytes: int) -> tuple[Slot, ...] | None:
        """Lease `n` slots of at least `nbytes`, the smallest that do; None when there are not enough."""
        if not self.can_lease(n, nbytes):
            return None
        taken: list[Slot] = []
        for capacity in self._classes:
            free = self._free[capacity] if capacity >= nbytes else ()
            while free and len(taken) < n:
                taken.append(self._take(free.pop()))
        return tuple(taken)

    def _take(self, index: int) -> Slot:
        place = self._places[index]
        self._states[index] = SlotState.LEASED
        self._generation += 1
        return Slot(index, place.offset, place.capacity_bytes, self._generation)

    def seal(self, index: int) -> None:
        """Mark a leased slot immutable."""
        self._expect(index, SlotState.LEASED)
        self._states[index] = SlotState.SEALED

    def give_back(self, index: int) -> None:
        """Free a leased or sealed slot."""
        if self._states[index] is SlotState.FREE:
            raise ValueError(f"slot {index} is free already")
        self._states[index] = SlotState.FREE
        self._free[self._places[index].capacity_bytes].append(index)

    def _expect(self, index: int, state: SlotState) -> None:
        if self._states[index] is not state:
            raise ValueError(f"slot {index} is {self._states[index].value}, not {state.value}")

    def in_use(self) -> frozenset[int]:
        """Return the indices that are not free; for checks."""
        return frozenset(i for i, s in enumerate(self._states) if s is not SlotState.FREE)
