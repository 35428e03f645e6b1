"""A variant on its way from loaded to measured, and when its next unit is due. Measures nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from difs.actor_messages import Resident
from difs.actors.batching import Candidate

MEASURE_PATIENCE_S = 10.0
"""A loaded variant is measured at the latest so many seconds after its turn first came."""
REST_PATIENCE_S = 2.0
"""So long the rest of it gives way to all other work: what is measured roughly serves already."""


@dataclass
class Measuring:
    """A variant that is on the device and measured: a little before it is resident, the rest beside."""

    units: Iterator[Resident | None]
    """One unit each; a Resident is what is known by then, each better than the one before."""
    since: float
    load_s: float
    """Of the load, and of the units before it is resident: who waits for it waits for them, too."""
    is_rough: bool = False
    """It is resident, and what is still to be measured can wait."""
    is_broken: bool = False
    """What is still to be measured failed: it goes on as it is, and shares no call."""
    told: int = 0
    """How often it was told what its calls cost."""

    def restart(self, units: Iterator[Resident | None]) -> None:
        """Measure anew: what its calls cost has changed."""
        self.units, self.told = units, 0

    @property
    def is_whole(self) -> bool:
        """Whether that was told of shared calls, too: the rest prepares the device, when that is idle."""
        return self.told > 1


def measurement(key: int, measuring: Measuring, now: float) -> Candidate:
    """Return the next unit of a measurement as one that may be chosen."""
    if not measuring.is_rough:
        return Candidate(key, "measure", None, 0, measuring.since + MEASURE_PATIENCE_S, 0.0, 0.0)
    due = measuring.since + REST_PATIENCE_S
    gives_way = measuring.is_whole or now < due
    return Candidate(key, "measure", None, 0, due, 0.0, 0.0, is_best_effort=gives_way)
