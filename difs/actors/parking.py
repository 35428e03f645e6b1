"""Which evicted residents stay in host memory. Pure book-keeping: what is parked moves itself.

A thing that returns leaves the lot; when there is no room, those parked longest ago go first.
"""

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Parked(NamedTuple, Generic[T]):
    thing: T
    nbytes: int


class ParkingLot(Generic[T]):
    """Keeps things within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        """Start empty; a budget of 0 parks nothing."""
        self._budget_bytes = budget_bytes
        self._parked: dict[str, _Parked[T]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Return what is parked, the oldest first."""
        return tuple(self._parked)

    @property
    def nbytes(self) -> int:
        """Return the bytes that are taken."""
        return sum(parked.nbytes for parked in self._parked.values())

    def park(self, name: str, thing: T, nbytes: int) -> tuple[str, ...]:
        """Take a thing in, instead of an older one of that name; returns the names that were dropped.

        One that is larger than the whole budget is not taken: its own name is returned.
        """
        self._parked.pop(name, None)
        if nbytes > self._budget_bytes:
            return (name,)
        self._parked[name] = _Parked(thing, nbytes)
        dropped = []
        while self.nbytes > self._budget_bytes:
            oldest = next(iter(self._parked))
            del self._parked[oldest]
            dropped.append(oldest)
        return tuple(dropped)

    def take(self, name: str) -> T | None:
        """Return a thing and forget it; None if it is not here."""
        parked = self._parked.pop(name, None)
        return None if parked is None else parked.thing
