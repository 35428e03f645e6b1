"""Policy `proteus`: as much of the demand with accurate variants as fits, blind to each request.

Proteus (Ahmad et al., "Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling",
ASPLOS 2024). Every ten seconds the split of the demand among variants is solved anew: the greatest mean
accuracy whose seconds the devices have, with a twentieth more demand than was seen. Variants that are too
slow for the latency alone are left out. Which request gets which variant is a matter of the split alone.

What differs: there a device holds one variant and the solver places them, here every device may paint
with all, so that the solver's constraints are one sum of seconds, which two variants at most fill best.
There a worker's batches wait on purpose, here the engine shares calls between steps.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs import profiles
from difs.messages import Generate, VariantInfo
from difs.policy import fixed, points
from difs.policy.base import Admit, Decision, Options, Reject, View

SOLVED_EACH_S = 10.0
"""How long a split is kept."""
DEMAND = 1.05
"""So many times the demand that was seen is provided for."""
TURN = (math.sqrt(5) - 1) / 2
"""Multiples of it, less their whole parts, are spread evenly: requests take turns without chance."""


LATEST = 0.625
"""What the demand since the last split counts beside what was seen before: 1 / 1.6."""


class Memory(Struct, frozen=True):
    """The demand that the split was solved for, when, and after how many decisions."""

    demand_hz: float = 0.0
    at: float = -math.inf
    decisions: int = 0


class Side(NamedTuple):
    """What a variant would do for a request."""

    accuracy: float
    seconds: float
    """Of a device that is kept full."""
    info: VariantInfo


class Proteus:
    """See the module."""

    name = "proteus"

    def __init__(self, options: Options) -> None:
        """No option concerns it."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        memory = _seen(view)
        budget_s = len(view.devices) / (DEMAND * memory.demand_hz) if memory.demand_hz > 0 else math.inf
        low, high, share = split(_sides(view, found, request), budget_s)
        chosen = high if math.modf(view.decisions * TURN)[0] < share else low
        device = points.least_backlog(view.devices, chosen.info.name)
        reason = f"{share:.0%} are painted with {high.info.name}, the others with {low.info.name}"
        plan = fixed.plan_of(device, chosen.info, request, policy=self.name, reason=reason)
        decision = points.admit_or_refuse(plan, request)
        return replace(decision, memory=memory) if isinstance(decision, Admit) else decision


def _seen(view: View) -> Memory:
    """Return the demand to split for: the one remembered, or anew what was asked for since."""
    memory = (
        view.memory if isinstance(view.memory, Memory) else Memory(at=view.now, decisions=view.decisions)
    )
    age_s = view.now - memory.at
    if age_s < SOLVED_EACH_S:
        return memory
    fresh_hz = (view.decisions - memory.decisions) / age_s
    weight = LATEST if memory.demand_hz > 0 else 1.0
    demand_hz = memory.demand_hz + weight * (fresh_hz - memory.demand_hz)
    return Memory(demand_hz, view.now, view.decisions)


def _sides(view: View, found: Sequence[VariantInfo], request: Generate) -> list[Side]:
    """Return what each variant would do that is quick enough alone; if none is, all."""
    latency_s = request.requirements.latency_s
    sides: list[Side] = []
    quick: list[Side] = []
    for info in found:
        device = points.least_backlog(view.devices, info.name)
        known, work = device.known(info.name), fixed.work_of(info, request)
        seconds = profiles.shared_seconds(work, known.costs if known else None)
        sides.append(Side(fixed.accuracy(info, request), seconds, info))
        if latency_s is None or fixed.own_s(device, info, request) <= latency_s:
            quick.append(sides[-1])
    return quick or sides


def split(sides: Sequence[Side], budget_s: float) -> tuple[Side, Side, float]:
    """Return two variants, and the share that the second gets: the greatest mean accuracy in the budget.

    `budget_s`: the seconds of a device that there are for a request. Where nothing fits, the quickest.
    """
    quickest = min(sides, key=lambda side: (side.seconds, -side.accuracy))
    best, most = (quickest, quickest, 0.0), quickest.accuracy
    for low in sides:
        if low.seconds > budget_s:
            continue
        for high in sides:
            over_s = high.seconds - low.seconds
            share = 1.0 if high.seconds <= budget_s else (budget_s - low.seconds) / over_s
            mean = low.accuracy + share * (high.accuracy - low.accuracy)
            if mean > most + 1e-12:
                best, most = (low, high, share), mean
    return best
