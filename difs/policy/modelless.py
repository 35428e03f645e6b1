"""Policy `modelless`: the user says what is needed, the policy finds the operating point.

Among all points (variant x steps x guidance x device) that the pins allow, the best expected quality
whose predicted finish keeps the latency; with a quality asked for, the soonest point that has it. Equal
points: the sooner one. The idea, and the three levels of pins, are INFaaS's (Romero et al., ATC 2021).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from difs import captions, quality, samplers
from difs.messages import Alternative, Generate, Level, Plan, VariantInfo
from difs.policy import points
from difs.policy.base import Decision, DeviceView, Options, Reject, View
from difs.profiles import Work

SOON_S = 10.0
"""Where no latency is stated a picture is wanted this soon: quality beyond it is not waited for."""
SHARES: dict[Level, float] = {"draft": 0.6, "low": 0.75, "medium": 0.9, "high": 0.97, "best": 1.0}
"""What a named quality is, as a share of the best that the allowed points can reach."""
STEP_CHOICES = 8
"""Numbers of steps that are considered for a variant without a curve."""
SHOWN = 4
"""Alternatives that a plan names."""


class Point(NamedTuple):
    """One way to serve a request, and what comes of it."""

    device: DeviceView
    info: VariantInfo
    steps: int
    guidance: float
    total_s: float
    """Predicted seconds until the result, with all waiting."""
    worth: float
    """The quality by which points are compared, in hundredths."""
    is_measured: bool

    @property
    def preference(self) -> tuple[float, float, str, str]:
        """Sort key: the best first, of equals the soonest."""
        return -self.worth, self.total_s, self.info.name, self.device.device

    @property
    def swiftness(self) -> tuple[float, float, str, str]:
        """Sort key: the soonest first, of equals the best."""
        return self.total_s, -self.worth, self.info.name, self.device.device


class Modelless:
    """See the module."""

    name = "modelless"

    def __init__(self, options: Options) -> None:
        """Take no options."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        known = list(enumerate_points(view, of_the_size(found, request), request))
        floor = floor_of(known, request)
        chosen, reason = choose(known, floor, request.requirements.latency_s)
        plan = self._plan(chosen, request, reason)
        if chosen.worth < floor and request.requirements.on_infeasible == "reject":
            return _refuse(known, chosen, floor, request)
        plan = replace(plan, alternatives=alternatives(known, chosen, floor, request))
        return points.admit_or_refuse(plan, request)

    def _plan(self, chosen: Point, request: Generate, reason: str) -> Plan:
        """Return the plan of a point; its steps and guidance are chosen, so nothing is cut any more."""
        settled = points.pinned(request, chosen.steps, chosen.guidance)
        plan = points.point(chosen.device, chosen.info, settled, policy=self.name, reason=reason)
        if not chosen.is_measured:
            return plan
        return replace(plan, expected_quality=chosen.worth, quality_source=chosen.info.quality_source)


def _refuse(known: Sequence[Point], chosen: Point, floor: float, request: Generate) -> Reject:
    """Refuse a quality that cannot be had in time, or not at all; the nearest that can be is named."""
    latency_s = request.requirements.latency_s
    good = min((p for p in known if p.worth >= floor), key=_swiftness, default=None)
    if good is None or latency_s is None:
        words = f"quality {floor:.2f} is not to be had; the best is {max(p.worth for p in known):.2f}"
        return Reject("infeasible", words, field="requirements.quality")
    words = (
        f"quality {floor:.2f} is not to be had in {latency_s:g} s: it takes {good.total_s:.2f} s,"
        f" and in {latency_s:g} s the best is {chosen.worth:.2f}"
    )
    return Reject("infeasible", words, field="requirements.quality")


def of_the_size(infos: Sequence[VariantInfo], request: Generate) -> Sequence[VariantInfo]:
    """Return the variants whose native size is the one asked for, where there are any."""
    if request.width is None or request.height is None:
        return infos
    asked = (request.width, request.height)
    return [info for info in infos if asked in info.native_sizes] or infos


def enumerate_points(view: View, infos: Sequence[VariantInfo], request: Generate) -> Iterator[Point]:
    """Yield every way in which one of the variants may serve the request on one of the devices."""
    side = max(round((w * h) ** 0.5) for w, h in (points.size_of(info, request) for info in infos))
    pins = request.overrides
    for info in infos:
        is_known = not info.captions or bool(captions.named(info.captions, request.prompt))
        sampler = samplers.canonical(pins.sampler or info.sampler) or info.sampler
        scales = [pins.guidance_scale] if pins.guidance_scale is not None else guidances(info)
        choices = [pins.steps] if pins.steps is not None else step_choices(info)
        for scale in scales:
            worths = [_worth(info, steps, scale, side) if is_known else 0.0 for steps in choices]
            for device in view.devices:
                fixed_s, call_s = _seconds(device, info, request, scale)
                for steps, worth in zip(choices, worths, strict=True):
                    total_s = fixed_s + samplers.evaluations(sampler, steps) * call_s
                    yield Point(device, info, steps, scale, total_s, worth, bool(info.quality))


def step_choices(info: VariantInfo) -> list[int]:
    """Return the numbers of steps to consider: those that were measured, or a spread over the range."""
    low, high = info.steps_min, info.steps_max
    ends = {low, info.steps_default, high}
    inside = {n for n in quality.measured_steps(info.quality) if low <= n <= high}
    if inside:
        return sorted(inside | {low, info.steps_default})
    ratio = (high / low) ** (1.0 / (STEP_CHOICES - 1))
    return sorted(ends | {round(low * ratio**i) for i in range(STEP_CHOICES)})


def guidances(info: VariantInfo) -> list[float]:
    """Return the guidance scales to consider: the variant's own and those that were measured."""
    return sorted({info.guidance_scale} | quality.measured_guidances(info.quality))


def _worth(info: VariantInfo, steps: int, guidance: float, side: int) -> float:
    found = quality.expected(info.quality, steps, guidance, side)
    return round(quality.assumed(info, steps) if found is None else found, 2)


def _seconds(
    device: DeviceView, info: VariantInfo, request: Generate, guidance: float
) -> tuple[float, float]:
    """Return the seconds of everything but the steps, and those of one evaluation of all images."""
    width, height = points.size_of(info, request)
    one = Work(width * height, 1, "ddim", guidance, request.n, is_alone=request.deterministic)
    found = points.predict(device, info.name, one)
    return found.total_s - found.steps_s, found.steps_s


def floor_of(known: Sequence[Point], request: Generate) -> float:
    """Return the least worth that the request wants: a number, or a share of the best there is."""
    asked = request.requirements.wanted_quality
    if asked is None:
        return 0.0
    if isinstance(asked, str):
        return round(SHARES[asked] * max(p.worth for p in known), 2)
    return round(asked, 2)


def choose(known: Sequence[Point], floor: float, latency_s: float | None) -> tuple[Point, str]:
    """Return the point to serve with, and why."""
    budget = SOON_S if latency_s is None else latency_s
    within = [p for p in known if p.total_s <= budget]
    if floor > 0.0:
        good = [p for p in (known if latency_s is None else within) if p.worth >= floor]
        if good:
            return min(good, key=_swiftness), f"the soonest of quality {floor:.2f} or better"
        if latency_s is None:
            return min(known, key=_preference), f"quality {floor:.2f} is not to be had: the best there is"
        if within:
            why = f"quality {floor:.2f} is not to be had in {latency_s:g} s: the best that is"
            return min(within, key=_preference), why
    if within:
        how = "comes soon" if latency_s is None else f"keeps {latency_s:g} s"
        return min(within, key=_preference), f"the best quality that {how}"
    return min(known, key=_swiftness), f"nothing is done in {budget:g} s: the soonest"


def _preference(point: Point) -> tuple[float, float, str, str]:
    return point.preference


def _swiftness(point: Point) -> tuple[float, float, str, str]:
    return point.swiftness


def alternatives(
    known: Sequence[Point], chosen: Point, floor: float, request: Generate
) -> tuple[Alternative, ...]:
    """Return the next best points, one a variant and another number of steps of the chosen one."""
    budget = request.requirements.latency_s or SOON_S

    def rank(point: Point) -> tuple[bool, float, float]:
        return point.total_s > budget, abs(point.worth - chosen.worth), point.total_s

    best: dict[str, Point] = {}
    for point in sorted((p for p in known if p != chosen), key=rank):
        best.setdefault(point.info.name, point)
    shown = sorted(best.values(), key=rank)[:SHOWN]
    return tuple(_alternative(point, chosen, floor, budget) for point in shown)


def _less(point: Point, chosen: Point) -> str:
    """Return in which way a point is worth less; numbers only where both were measured."""
    if point.is_measured and chosen.is_measured:
        return f"{chosen.worth - point.worth:.2f} less quality"
    return "fewer steps" if point.info.name == chosen.info.name else "its quality is not known"


def _alternative(point: Point, chosen: Point, floor: float, budget: float) -> Alternative:
    if point.total_s > budget >= chosen.total_s:
        why = f"not done in {budget:g} s"
    elif point.worth < floor <= chosen.worth:
        why = f"below the quality {floor:.2f} that is wanted"
    elif point.worth < chosen.worth:
        why = _less(point, chosen)
    else:
        why = f"{point.total_s - chosen.total_s:.2f} s later"
    return Alternative(
        variant=point.info.name,
        device=point.device.device,
        steps=point.steps,
        guidance_scale=point.guidance,
        total_s=point.total_s,
        expected_quality=point.worth if point.is_measured else None,
        why_not=why,
    )
