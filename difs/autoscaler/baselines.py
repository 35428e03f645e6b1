"""INFaaS's scaling as planners to compare with: `infaas_static`, `infaas_individual`, `infaas`.

Romero et al., "INFaaS: Automated Model-less Inference Serving", ATC 2021; rules and constants as in its
public code. `static` keeps a fixed number of replicas, `individual` replicates what has too little (what
the paper lets stand for SageMaker and Clipper), `infaas` may load a faster variant of the family instead,
if that costs less. None of them knows memory modes, or gives way to others that use the device.

Different here: a replica is a variant on one more device; a variant "of the next batch size" is the next
faster one of its family; what leaves is parked as everything is.
"""

import math
from collections.abc import Iterator, Mapping

from msgspec import Struct

from difs.autoscaler import room
from difs.autoscaler.base import Action, DeviceView, Form, Load, Plan, Replicate, Site, View

REPLICAS = {"cpu": 2}
"""Of a variant that `static` keeps, and above which `infaas` had rather upgrade; elsewhere 1."""
LOADING_SHARE = 0.2
"""Demand added for what queues up meanwhile: this share of what can be served, times the load's s."""
HEADROOM = 0.05
"""Kept free on a CPU, of what can be served."""
UPGRADE_FACTOR = 1.5
"""An upgrade is chosen when replicas cost more than so many times as much;"""
CAP_PENALTY = 1000.0
"""and each replica beyond the cap counts so many times."""
DOWN_REQUESTS = {"cpu": 10}
"""Rounds that must agree before anything is unloaded; elsewhere"""
DOWN_REQUESTS_ELSEWHERE = 20


class Memory(Struct, frozen=True):
    """Rounds in a row that wanted to unload, of each resident."""

    down: Mapping[Site, int] = {}


class _Fleet:
    """All replicas of a variant, and what they can do."""

    def __init__(self, view: View, variant: str) -> None:
        self.variant = variant
        self.at = [d for d in view.devices if variant in room.present(d)]
        self.rate_hz = sum(d.residents[variant].rate_hz for d in self.at if variant in d.residents)
        self.kind = kind_of(self.at[0])
        forms = [room.present(d)[variant] for d in self.at]
        self.form: Form = forms[0]
        self.each_hz = 1.0 / max(1e-6, sum(f.serve_s for f in forms) / len(forms))

    def missing(self) -> int:
        """Return how many more replicas are wanted; negative: one could go."""
        can_hz = len(self.at) * self.each_hz
        wanted = self.rate_hz / (1.0 - HEADROOM) if self.kind == "cpu" else self.rate_hz
        if wanted > can_hz:
            queued = LOADING_SHARE * can_hz * self.form.load_s
            return max(1, math.ceil((wanted - can_hz + queued) / self.each_hz))
        fits_in_fewer = len(self.at) > 1 and wanted <= (len(self.at) - 1) * self.each_hz
        return -1 if fits_in_fewer else 0


def kind_of(device: DeviceView) -> str:
    """Return the kind of a device, by its name."""
    return device.device.partition("-")[0]


def _fleets(view: View) -> list[_Fleet]:
    names = sorted({name for d in view.devices for name in d.residents if name in room.present(d)})
    return [_Fleet(view, name) for name in names]


def _free_for(view: View, variant: str) -> Iterator[tuple[DeviceView, Form]]:
    """Yield the devices that have room for a variant in its first mode, the one with most room first."""
    by_room = sorted(view.devices, key=lambda d: (room.shortage(d, view.options), d.device))
    for device in by_room:
        form = next(iter(device.forms.get(variant, ())), None)
        here = room.present(device)
        if form is None or variant in here or variant in device.moving:
            continue
        if room.footprint([*here.values(), form]) <= room.budget(device, view.options):
            yield device, form


def _replicas(view: View, variant: str, count: int, reason: str) -> list[Action]:
    found = zip(range(count), _free_for(view, variant), strict=False)
    return [Replicate(d.device, variant, form.memory_mode, reason) for _, (d, form) in found]


class Static:
    """A fixed number of replicas of whatever is loaded."""

    name = "infaas_static"

    def plan(self, view: View) -> Plan:
        """See Planner.plan."""
        actions: list[Action] = []
        for fleet in _fleets(view):
            wanted = REPLICAS.get(fleet.kind, 1)
            actions += _replicas(view, fleet.variant, wanted - len(fleet.at), f"{wanted} replicas")
        return Plan(tuple(actions))


class Individual:
    """Replicas of the same variant, as many as its own demand needs."""

    name = "infaas_individual"

    def plan(self, view: View) -> Plan:
        """See Planner.plan."""
        before = view.memory.down if isinstance(view.memory, Memory) else {}
        actions: list[Action] = []
        down: dict[Site, int] = {}
        for fleet in _fleets(view):
            missing = fleet.missing()
            if missing > 0:
                actions += self.up(view, fleet, missing)
            elif missing < 0 or self.is_too_much(view, fleet):
                actions += _down(view, fleet, before, down)
        return Plan(tuple(actions), memory=Memory(down))

    def up(self, view: View, fleet: _Fleet, missing: int) -> list[Action]:
        """Return what helps a variant that has too much to do."""
        return _replicas(view, fleet.variant, missing, f"{fleet.rate_hz:.2f} requests a second")

    def is_too_much(self, view: View, fleet: _Fleet) -> bool:
        """Whether a single replica is more than the demand needs."""
        return False


class Infaas(Individual):
    """Replicas, or a faster variant of the family where that costs less."""

    name = "infaas"

    def up(self, view: View, fleet: _Fleet, missing: int) -> list[Action]:
        """See Individual.up."""
        more = super().up(view, fleet, missing)
        cap = REPLICAS.get(fleet.kind, 1)
        beyond = max(0, len(fleet.at) + missing - cap)
        cost = fleet.form.load_s * (missing - beyond + CAP_PENALTY * beyond)
        faster = _faster(view, fleet)
        if faster is not None:
            variant, device, form = faster
            replicas = math.ceil(fleet.rate_hz * form.serve_s)
            if not more or cost > UPGRADE_FACTOR * form.load_s * max(1, replicas):
                why = f"faster than {fleet.variant}, which has too much to do"
                return [Load(device.device, variant, form.memory_mode, why)]
        return more

    def is_too_much(self, view: View, fleet: _Fleet) -> bool:
        """See Individual.is_too_much: a slower one that is loaded, and lighter, would do."""
        family = view.families.get(fleet.variant)
        others = [f for f in _fleets(view) if f.variant != fleet.variant]
        return any(
            view.families.get(other.variant) == family
            and other.each_hz < fleet.each_hz
            and other.form.rest_bytes < fleet.form.rest_bytes
            and other.rate_hz + fleet.rate_hz <= other.each_hz * len(other.at)
            for other in others
        )


def _faster(view: View, fleet: _Fleet) -> tuple[str, DeviceView, Form] | None:
    """Return the next faster variant of a family that is loaded nowhere, and where it has room."""
    family = view.families.get(fleet.variant)
    found = []
    for variant in view.families:
        if view.families[variant] != family or variant == fleet.variant:
            continue
        if any(variant in d.residents or variant in d.moving for d in view.devices):
            continue
        place = next(_free_for(view, variant), None)
        if place is not None and 1.0 / max(1e-6, place[1].serve_s) > fleet.each_hz:
            found.append((-place[1].serve_s, variant, *place))
    best = min(found, key=lambda entry: entry[:2], default=None)
    return None if best is None else (best[1], best[2], best[3])


def _down(view: View, fleet: _Fleet, before: Mapping[Site, int], down: dict[Site, int]) -> list[Action]:
    """Count a round that wants one replica less; returns its unloading when enough of them agree."""
    free = [d for d in fleet.at if fleet.variant in room.removable(d, (), view.options.min_residents)]
    if not free:
        return []
    device = min(free, key=lambda d: (d.residents[fleet.variant].rate_hz, d.device))
    site = (device.device, fleet.variant)
    rounds = before.get(site, 0) + 1
    if rounds < DOWN_REQUESTS.get(fleet.kind, DOWN_REQUESTS_ELSEWHERE):
        down[site] = rounds
        return []
    return room.leave(view, device, fleet.variant, "the others can do its work")
