"""All ways to serve a request that deserve a look, found fast: the input of policy `modelless`.

For every variant, guidance and number of steps, the device (and memory mode) that is done first; the
others cost more and bring the same picture. What depends on one variant alone is remembered between
decisions: the arguments are frozen, so the answers cannot grow old.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from difs import captions, profiles, quality, samplers
from difs.actor_messages import Costs, Resident
from difs.messages import Generate, MemoryMode, Overrides, VariantInfo
from difs.policy import points
from difs.policy.base import DeviceView, View
from difs.profiles import Work

STEP_CHOICES = 8
"""Numbers of steps that are considered for a variant without a curve."""


Way = tuple[float, float, DeviceView, MemoryMode]
"""One device and memory mode in which a variant can be computed: seconds of everything but the steps
(waiting, loading, encoding, decoding), seconds of one evaluation of all images, where, and how. A plain
tuple: thousands are made for one decision."""


class Dial(NamedTuple):
    """A number of steps with a variant, and what comes of it wherever it is computed."""

    steps: int
    guidance: float
    calls: int
    """Evaluations of the UNet."""
    worth: float
    """The quality by which points are compared; see `places_of`."""


class Point(NamedTuple):
    """One way to serve a request, and what comes of it."""

    device: DeviceView
    info: VariantInfo
    steps: int
    guidance: float
    memory_mode: MemoryMode
    total_s: float
    """Predicted seconds until the result, with all waiting."""
    worth: float
    """The quality by which points are compared; see `places_of`."""
    is_measured: bool
    """Whether `worth` is a quality that may be shown: by the ruler of all the points."""

    @property
    def preference(self) -> tuple[float, float, str, str]:
        """Sort key: the best first, of equals the soonest."""
        return -self.worth, self.total_s, self.info.name, self.device.device

    @property
    def swiftness(self) -> tuple[float, float, str, str]:
        """Sort key: the soonest first, of equals the best."""
        return self.total_s, -self.worth, self.info.name, self.device.device

    def is_as(self, other: "Point") -> bool:
        """Whether both compute the same in the same place; one of them may have an earlier turn."""
        return self == other or self == other._replace(total_s=self.total_s)

    def beats(self, other: "Point") -> bool:
        """Whether it is better in one respect, and in the other not worse."""
        is_no_worse = self.worth >= other.worth and self.total_s <= other.total_s
        return is_no_worse and (self.worth > other.worth or self.total_s < other.total_s)


def enumerate_points(view: View, infos: Sequence[VariantInfo], request: Generate) -> list[Point]:
    """Return the points that no other way to compute the same picture beats, variant by variant."""
    found = []
    make = tuple.__new__  # thousands are made for one decision: a NamedTuple's own maker costs twice
    for info, devices, dials, is_measured in _choices(view, infos, request, is_complete=False):
        ranked: dict[bool, list[Way]] = {}
        for dial in dials:
            steps, guidance, calls, worth = dial
            guided = guidance > 1.0
            if guided not in ranked:
                ranked[guided] = _quickest(ways(info, devices, request, guidance))
            quick = ranked[guided]
            way = quick[0] if len(quick) == 1 else _soonest(quick, calls)
            fixed_s, call_s, device, mode = way
            total_s = fixed_s + calls * call_s
            if device.outlook is not None and info.name in device.residents:
                total_s = _total_s(way, info, request, dial)
            found.append(make(Point, (device, info, steps, guidance, mode, total_s, worth, is_measured)))
    return found


def ahead_of(known: Iterable[Point], request: Generate) -> list[Point]:
    """Return the points that are had sooner by going before what can wait, with the seconds of that."""
    found, within_s = [], points.wanted_within(request)
    for point in known:
        resident = point.device.residents.get(point.info.name)
        if resident is None:
            continue
        work = points.work_of(point.info, request, point.steps, point.guidance)
        own_s = profiles.predict(work, resident.costs).total_s
        waits_s = points.ahead_wait_s(point.device, point.info.name, own_s, within_s)
        if waits_s is None:
            continue
        total_s = waits_s + own_s
        if total_s < point.total_s:
            found.append(point._replace(total_s=total_s))
    return found


def survey_points(view: View, infos: Sequence[VariantInfo], request: Generate) -> list[Point]:
    """Return every point there is: for people, who want to see what was not chosen, too."""
    return [
        Point(way[2], info, d.steps, d.guidance, way[3], total_s, d.worth, is_measured)
        for info, devices, dials, is_measured in _choices(view, infos, request, is_complete=True)
        for d in dials
        for way in ways(info, devices, request, d.guidance, is_complete=True)
        for total_s in [_total_s(way, info, request, d)]
    ]


def _total_s(way: Way, info: VariantInfo, request: Generate, dial: Dial) -> float:
    """Return the seconds until a request is done; as its device foresees it where it does."""
    fixed_s, call_s, device, _ = way
    if device.outlook is None or info.name not in device.residents:
        return fixed_s + dial.calls * call_s
    work = points.work_of(info, request, dial.steps, dial.guidance)
    within_s = points.wanted_within(request)
    waits_s, _ = points.wait_s(device, device.residents[info.name], work, within_s)
    return fixed_s - device.backlog_s + waits_s + dial.calls * call_s


Choices = tuple[VariantInfo, tuple[DeviceView, ...], tuple[Dial, ...], bool]


def _choices(
    view: View, infos: Sequence[VariantInfo], request: Generate, *, is_complete: bool
) -> Iterator[Choices]:
    """Yield each variant with the dials that the request's pins leave."""
    places = places_of(view, request)
    knows: dict[int, bool] = {0: True}
    for info, dials, is_measured in _dialled(
        tuple(infos), _pins_of(request), places, is_complete=is_complete
    ):
        key = id(info.captions) if info.captions else 0
        if key not in knows:
            knows[key] = bool(captions.named(info.captions, request.prompt))
        if knows[key]:
            yield info, view.devices, dials, is_measured
        else:  # its picture would show something else: worth nothing, but it is one
            yield info, view.devices, tuple([d._replace(worth=0.0) for d in dials]), is_measured


Pins = tuple[int | None, int | None, int | None, float | None, str | None]
"""What of a request decides the dials of its variants: width, height, steps, guidance, sampler."""


def _pins_of(request: Generate) -> Pins:
    pins = request.overrides
    return request.width, request.height, pins.steps, pins.guidance_scale, pins.sampler


@lru_cache(maxsize=64)
def _dialled(
    infos: tuple[VariantInfo, ...], asked_for: Pins, places: int, *, is_complete: bool
) -> tuple[tuple[VariantInfo, tuple[Dial, ...], bool], ...]:
    """Return each variant with its dials, and whether its quality was measured by the common ruler."""
    width, height, steps, guidance, sampler = asked_for
    pins = Overrides(steps=steps, guidance_scale=guidance, sampler=sampler)
    request = Generate("", "", width=width, height=height, overrides=pins)
    side = max([points.side_of(info, request) for info in infos])
    ruler = quality.common_ruler(infos)
    make = dials_of if is_complete else best_dials_of
    found = []
    for info in infos:
        is_measured = ruler is not None and quality.ruler_of(info) == ruler
        own = points.sampler_of(info, request)
        asked = Asked(side if is_measured else None, own, steps, guidance, places)
        found.append((info, make(info, asked), is_measured))
    return tuple(found)


def places_of(view: View, request: Generate) -> int:
    """Return to how many places qualities are compared: 2, or 3 where the finer costs nobody anything.

    A hundredth is not worth seconds that somebody waits for. But who asks for the best wants it, and a
    stated latency with no quality gives the time away: where no other wants the devices, it is used.
    """
    needs = request.requirements
    is_given = needs.latency_s is not None and needs.wanted_quality is None
    is_free = is_given and not any(device.wants for device in view.devices)
    return 3 if needs.wanted_quality == "best" or is_free else 2


class Asked(NamedTuple):
    """What decides the dials of a variant."""

    side: int | None
    """Pixels at which its picture will be looked at; None: its curve cannot be compared with others'."""
    sampler: str
    steps: int | None
    """Pinned, as `guidance`."""
    guidance: float | None
    places: int = 2
    """To which qualities are compared."""


@lru_cache(maxsize=4096)
def dials_of(info: VariantInfo, asked: Asked) -> tuple[Dial, ...]:
    """Return what can be chosen of a variant."""
    scales = [asked.guidance] if asked.guidance is not None else guidances(info)
    choices = [asked.steps] if asked.steps is not None else step_choices(info)
    return tuple(
        Dial(n, scale, samplers.evaluations(asked.sampler, n), _worth(info, n, scale, asked))
        for scale in scales
        for n in choices
    )


@lru_cache(maxsize=4096)
def best_dials_of(info: VariantInfo, asked: Asked) -> tuple[Dial, ...]:
    """Return the dials that no other beats in both quality and cost, wherever they are computed."""
    kept: list[Dial] = []
    best = {False: -1.0, True: -1.0}
    for dial in sorted(dials_of(info, asked), key=lambda d: (d.calls, d.guidance, -d.worth)):
        guided = profiles.is_guided(dial.guidance)
        if dial.worth > best[guided] and dial.worth > best[False]:
            kept.append(dial)
            best[guided] = dial.worth
    return tuple(kept)


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


def _worth(info: VariantInfo, steps: int, guidance: float, asked: Asked) -> float:
    side = asked.side
    found = quality.expected(info.quality, steps, guidance, side) if side is not None else None
    return round(quality.assumed(info, steps) if found is None else found, asked.places)


# ---- what it costs --------------------------------------------------------------------------------


Shape = tuple[int, float, int, bool]
"""Pixels, guidance, images, and whether each image is computed by itself."""


def ways(
    info: VariantInfo,
    devices: Sequence[DeviceView],
    request: Generate,
    guidance: float,
    *,
    is_complete: bool = False,
) -> list[Way]:
    """Return how a variant can be computed on each device; not `is_complete`: only what is worth a look.

    That is what the way that begins soonest so far does not beat in both respects.
    """
    width, height = points.size_of(info, request)
    shape = (width * height, guidance, request.n, request.deterministic)
    when_loaded = _when_loaded if is_complete else _best_when_loaded
    name, found = info.name, []
    soonest_s = its_call_s = math.inf
    for device in devices:
        known, backlog_s = device.residents.get(name), device.backlog_s
        if known is not None:
            parts = _when_here(known, shape)
        else:
            parts = when_loaded(device.loadable(name, shape[0]), shape)
        for parts_s, call_s, mode in parts:
            fixed_s = backlog_s + parts_s
            if is_complete or fixed_s < soonest_s or call_s < its_call_s:
                found.append((fixed_s, call_s, device, mode))
                if fixed_s < soonest_s:
                    soonest_s, its_call_s = fixed_s, call_s
    return found


Parts = tuple[tuple[float, float, MemoryMode], ...]
"""Of each memory mode: seconds of the load and of all but the steps, seconds of one evaluation."""


@lru_cache(maxsize=8192)
def _when_here(known: Resident, shape: Shape) -> Parts:
    """Return how a variant that is loaded is computed: as it is."""
    parts_s, call_s, _ = _seconds(known.costs, shape)
    return ((parts_s, call_s, known.memory_mode),)


@lru_cache(maxsize=8192)
def _when_loaded(modes: tuple[Resident, ...], shape: Shape) -> Parts:
    """Return how a variant that is not loaded can be computed, mode by mode."""
    if not modes:
        parts_s, call_s, load_s = _seconds(None, shape)
        return ((load_s + parts_s, call_s, "full"),)
    found: list[tuple[float, float, MemoryMode]] = []
    for known in modes:
        parts_s, call_s, load_s = _seconds(known.costs, shape)
        found.append((load_s + parts_s, call_s, known.memory_mode))
    return tuple(found)


@lru_cache(maxsize=8192)
def _best_when_loaded(modes: tuple[Resident, ...], shape: Shape) -> Parts:
    """Return those modes of `_when_loaded` that none beats in both respects: rarely more than one."""
    best: list[tuple[float, float, MemoryMode]] = []
    for way in sorted(_when_loaded(modes, shape), key=itemgetter(0, 1)):
        if not best or way[1] < best[-1][1]:
            best.append(way)
    return tuple(best)


@lru_cache(maxsize=8192)
def _seconds(costs: Costs | None, shape: Shape) -> tuple[float, float, float]:
    """Return the seconds of encoding and decoding, of one evaluation of all images, and of the load."""
    pixels, guidance, n, is_alone = shape
    one = Work(pixels, 1, "ddim", guidance, n, is_alone=is_alone)
    found = profiles.predict(one, costs, is_resident=False)
    return found.encode_s + found.decode_s, found.steps_s, found.load_s


def _quickest(found: list[Way]) -> list[Way]:
    """Return the ways of which none is slower in both respects than another; the soonest begun first."""
    if len(found) == 1:
        return found
    first = min(found, key=_haste)
    if min(found, key=_pace)[1] >= first[1]:
        return [first]
    kept: list[Way] = []
    for way in sorted(found, key=_haste):
        if not kept or way[1] < kept[-1][1]:
            kept.append(way)
    return kept


def _soonest(ranked: list[Way], calls: int) -> Way:
    """Return the way that has done `calls` evaluations first; of equals the first."""
    seconds = [way[0] + calls * way[1] for way in ranked]
    return ranked[seconds.index(min(seconds))]


_haste, _pace = itemgetter(0, 1), itemgetter(1)
