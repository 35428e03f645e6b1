"""What all residents of a device have in common: how much slower it has become, told to each of them.

A neighbour, heat, or the host of a virtual machine makes every variant slow at once, and the next request
may name one that was not called since. So a part of what was wrong with a call of one of them is moved in
all (see `difs.learning`). The actor sees the calls; the broker hears the sum with each picture. Pure.
"""

from collections.abc import MutableMapping

from msgspec.structs import replace

from difs import learning
from difs.actor_messages import Costs, Resident

NEWS = 0.02
"""Less is not told to the others: all that was reckoned with their costs would be reckoned anew."""


class Drift:
    """Of one device."""

    def __init__(self) -> None:
        """Know of no move."""
        self.moved = 0.0
        """The logarithm of how many times as slow it is as when all began."""
        self._known: dict[str, tuple[Costs, float]] = {}

    def learned(
        self, residents: MutableMapping[str, Resident], variant: str, costs: Costs, moved: float
    ) -> None:
        """Enter the costs of one of them as they are now that the device has `moved` so far."""
        residents[variant] = replace(residents[variant], costs=costs)
        self._known[variant] = (costs, moved)
        self.catch_up(residents, moved)

    def catch_up(self, residents: MutableMapping[str, Resident], moved: float) -> None:
        """Note what the device has `moved` to by now, and move the costs of those that were not called.

        Costs that are others than at the last time were measured, or told, meanwhile: they are as of now.
        """
        self.moved = moved
        for variant, resident in list(residents.items()):
            known, at = self._known.get(variant, (None, moved))
            if known is not resident.costs:
                self._known[variant] = (resident.costs, moved)
            elif abs(moved - at) > NEWS:
                costs = learning.moved(known, moved - at)
                residents[variant] = replace(resident, costs=costs)
                self._known[variant] = (costs, moved)
        for variant in self._known.keys() - residents.keys():
            del self._known[variant]
