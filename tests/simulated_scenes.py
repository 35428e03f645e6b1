"""Small tables and scenarios for tests of the simulator. No fixtures, no assertions."""

from typing import Any

from difs.actor_messages import Costs, Resident, Room, RowCost
from difs.messages import MemoryMode, QualityPoint
from difs.simulation.ledger import Ledger
from difs.simulation.scenario import Arrivals, Fleet, Mishaps, Neighbour, Scenario, Wish
from difs.simulation.tables import Mode, Model
from difs.simulation.world import World
from tests.builders import variant

MIB = 2**20
STEPS = ((1, 0.010), (2, 0.016), (4, 0.024), (8, 0.040), (16, 0.078))
"""(Rows, seconds): up to 8 rows it pays to share."""


def model(name: str = "good", *, factor: float = 1.0, worth: float = 0.9, mib: int = 100) -> Model:
    """Return a variant of 4 to 20 steps; `factor` times STEPS; each lighter mode is a quarter slower."""
    curve = tuple(
        QualityPoint(64, n, 2.5, worth * share) for n, share in ((4, 0.6), (10, 0.9), (20, 1.0))
    )
    info = variant(
        name,
        steps_max=20,
        bytes=mib * MIB,
        quality=curve,
        quality_kind="declared",
        quality_judge="test",
    )
    found: dict[MemoryMode, Mode] = {
        "full": _mode(name, "full", factor, mib, mib),
        "sliced": _mode(name, "sliced", 1.25 * factor, mib, mib),
        "model_offload": _mode(name, "model_offload", 2.0 * factor, mib, mib // 4),
    }
    return Model(info, found)


def _mode(name: str, mode: MemoryMode, factor: float, mib: int, rest: int) -> Mode:
    steps = tuple(RowCost(rows, seconds * factor) for rows, seconds in STEPS)
    costs = Costs(64 * 64, 0.005, steps, 0.012, load_s=0.8)
    room = Room(rest * MIB, 10 * MIB if mode == "full" else 5 * MIB, 20 * MIB)
    return Mode(Resident(name, mode, "fp16", mib * MIB, costs, room=room), parked_s=0.1)


GOOD, SWIFT = model(), model("swift", factor=0.25, worth=0.6, mib=40)
MODELS = {"good": GOOD, "swift": SWIFT}


def scene(**changes: Any) -> Scenario:
    """Return ten seconds of six requests a second for two devices."""
    facts: dict[str, Any] = {
        "arrivals": Arrivals(rate_hz=6.0, seconds=10.0),
        "mix": (Wish(latency_s=1.0), Wish(latency_s=3.0, quality="high"), Wish(n=2)),
        "fleet": Fleet(devices=2, credits=6),
    }
    return Scenario(**facts | changes)


TROUBLE = Mishaps(deaths_per_h=400, hangs_per_h=100, restart_s=0.5, slow_per_h=600, slow_s=2, slowness=5)
NEIGHBOURS = (Neighbour(150 * MIB, begins_s=2.0, seconds=3.0), Neighbour(90 * MIB, 4.0, 4.0, device=1))


def lived(scenario: Scenario, **options: Any) -> Ledger:
    """Return the record of a run."""
    return World(scenario, options.pop("models", MODELS), **options).run()
