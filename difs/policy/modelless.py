"""Policy `modelless`: the user says what is needed, the policy finds the operating point.

Among all points (variant x steps x guidance x memory mode x device) that the pins allow, the best
expected quality whose predicted finish keeps the latency; with a quality asked for, the soonest point
that has it. Equal points: the sooner one. Under load a picture may be looked at and painted again, see
`difs.policy.repainting`. The idea, and the three levels of pins, are INFaaS's (Romero et
al., ATC 2021).
"""

from collections.abc import Sequence
from heapq import heapify, heappop
from operator import attrgetter
from typing import NamedTuple

from msgspec.structs import replace

from difs import quality, samplers
from difs.messages import Alternative, Generate, Plan, VariantInfo
from difs.policy import points, repainting, telling
from difs.policy.base import Admit, Decision, Deliver, Judged, Options, Reject, View
from difs.policy.frontier import Point, ahead_of, enumerate_points, survey_points
from difs.policy.repainting import Case, Look, Memory

SHOWN = 4
"""Alternatives that a plan names."""
ROOM = 0.5
"""So much of the wait is kept free as well where quality is chosen. What comes later shares the calls as
long as promises are kept: where none has room, batches stay small and all are late."""


Light = tuple[Point, float]
"""A point, and the seconds that it takes of its device, kept full."""


class Choice(NamedTuple):
    """The point that is taken, and how."""

    point: Point
    reason: str
    is_judged: bool
    goes_ahead: bool = False


class Modelless:
    """See the module."""

    name = "modelless"

    def __init__(self, options: Options) -> None:
        """Take no options."""
        self._scored = options.scored

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        known = enumerate_points(view, of_the_size(found, request), request)
        floor = floor_of(known, request)
        memory = repainting.remembered(view).arrived(view.now)
        choice = self._choice(view, request, known, floor, memory)
        chosen = choice.point
        if chosen.worth < floor and request.requirements.on_infeasible == "reject":
            return _refuse(known, chosen, floor, request)
        plan = replace(
            self._plan(chosen, request, choice.reason, goes_ahead=choice.goes_ahead),
            alternatives=alternatives(known, chosen, floor, request),
            floor_steps=floor_steps(known, chosen, floor, request),
        )
        decision = points.admit_or_refuse(plan, request)
        if isinstance(decision, Admit):
            return replace(
                decision,
                goes_ahead=choice.goes_ahead,
                is_judged=choice.is_judged,
                waits_again=True,
                memory=memory,
            )
        return decision

    def _choice(
        self, view: View, request: Generate, known: Sequence[Point], floor: float, memory: Memory
    ) -> Choice:
        """Return which of the points is taken, and how."""
        light = lightest(known, request)
        point, reason = choose(known, floor, request, light, reserved_s(view, light, request))
        case = repainting.case_of(view, memory, request, budget_of(request))
        look, is_judged = self._look(case, known, point, view.decisions)
        if look is not None:
            point, reason = look.light, look.words
        ahead = sooner(known, point, floor, request)
        if ahead is not None:
            return Choice(ahead, f"goes before what can wait: {reason}", is_judged, goes_ahead=True)
        return Choice(point, reason, is_judged)

    def review(self, view: View, request: Generate, judged: Judged) -> Admit | Deliver:
        """See Reviewer.review."""
        if judged.score is None:
            return Deliver()
        memory = repainting.remembered(view).scored(repainting.key_of(judged.plan), judged.score)
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return Deliver(memory=memory)
        known = enumerate_points(view, of_the_size(found, request), request)
        wait_s = min(budget_of(request), request.timeout_s)
        case = repainting.case_of(view, memory, request, wait_s)
        look = repainting.again(case, self._judgeable(known, request), judged.plan)
        if look is None:
            return Deliver(memory=memory)
        words = (
            f"{judged.plan.variant} scored {judged.score:.2f}; below {look.threshold:.2f} it is repainted"
        )
        if judged.score >= look.threshold:
            return Deliver(words, memory)
        if judged.age_s + look.heavy.total_s > repainting.IN_TIME * wait_s:
            return Deliver(f"{words}, but {look.heavy.info.name} would be late", memory)
        plan = self._plan(look.heavy, request, words, goes_ahead=False)
        kept = None if request.requirements.latency_s is None else True
        return Admit(replace(plan, keeps_latency=kept), waits_again=True, memory=memory)

    def _look(
        self, case: Case, known: Sequence[Point], chosen: Point, decisions: int
    ) -> tuple[Look | None, bool]:
        """Return how to look at a picture, if that pays, and whether it is scored at all."""
        if not repainting.leaves_open(case.request) or not repainting.is_pressed(case, known):
            return None, False
        names = {name for name, *_ in case.memory.scores}  # few of all: a decision is to be quick
        scored = [p for p in known if p.info.name in names]
        look = repainting.first(case, self._judgeable(scored, case.request))
        if look is not None and not any(p.beats(look.light) for p in known):
            return look, True
        is_known = bool(self._judgeable([chosen], case.request))
        return None, is_known and repainting.is_to_learn(case, chosen, decisions)

    def _judgeable(self, known: Sequence[Point], request: Generate) -> list[Point]:
        """Return the points whose pictures can be scored by the ruler by which points are compared."""
        infos = {p.info.name: p.info for p in known if p.is_measured}
        fit = {n for n, info in infos.items() if repainting.can_be_judged(info, request, self._scored)}
        return [p for p in known if p.info.name in fit]

    def survey(self, view: View, request: Generate) -> tuple[Alternative, ...]:
        """See Surveyor.survey."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return ()
        infos = of_the_size(found, request)
        known = enumerate_points(view, infos, request)
        floor, budget = floor_of(known, request), budget_of(request)
        memory = repainting.remembered(view).arrived(view.now)
        chosen = self._choice(view, request, known, floor, memory).point
        every = [chosen if p.is_as(chosen) else p for p in survey_points(view, infos, request)]
        every.sort(key=lambda p: (p != chosen, p.total_s > budget, p.worth < floor, *p.preference))
        return tuple(telling.alternative(point, chosen, floor, budget) for point in every)

    def _plan(self, chosen: Point, request: Generate, reason: str, *, goes_ahead: bool) -> Plan:
        """Return the plan of a point; its steps and guidance are chosen, so nothing is cut any more."""
        settled = points.pinned(request, chosen.steps, chosen.guidance)
        plan = points.point(
            chosen.device,
            chosen.info,
            settled,
            policy=self.name,
            reason=reason,
            memory_mode=chosen.memory_mode,
            goes_ahead=goes_ahead,
        )
        if not chosen.is_measured:
            return plan
        return replace(plan, expected_quality=chosen.worth, quality_source=chosen.info.quality_source)


def budget_of(request: Generate) -> float:
    """Return in how many seconds a picture is wanted."""
    return request.requirements.latency_s or points.SOON_S


def floor_steps(known: Sequence[Point], chosen: Point, floor: float, request: Generate) -> int | None:
    """Return to how few steps an engine may cut the request so that a stated latency is kept."""
    sampler = samplers.SAMPLERS[points.sampler_of(chosen.info, request)]
    is_fixed = request.overrides.steps is not None or request.deterministic
    if request.requirements.latency_s is None or is_fixed or not sampler.is_elastic:
        return None
    info, guidance = chosen.info, chosen.guidance
    alike = [p for p in known if p.info is info and p.guidance == guidance]
    least = min((p.steps for p in alike if p.worth >= min(floor, chosen.worth)), default=chosen.steps)
    return least if least < chosen.steps else None


def _refuse(known: Sequence[Point], chosen: Point, floor: float, request: Generate) -> Reject:
    """Refuse a quality that cannot be had in time, or not at all; the nearest that can be is named."""
    latency_s = request.requirements.latency_s
    keeping = [p for p in known if p.worth >= floor]
    good = soonest(keeping) if keeping else None
    if good is None or latency_s is None:
        most = max(p.worth for p in known)
        words = f"quality {floor:.2f} is not to be had; the best is {most:.2f}"
        return Reject("infeasible", words, field="requirements.quality", limit=f"<= {most:.2f}")
    words = (
        f"quality {floor:.2f} is not to be had in {latency_s:g} s: it takes {good.total_s:.2f} s,"
        f" and in {latency_s:g} s the best is {chosen.worth:.2f}"
    )
    return Reject("infeasible", words, field="requirements.quality", limit=f"<= {chosen.worth:.2f}")


def of_the_size(infos: Sequence[VariantInfo], request: Generate) -> Sequence[VariantInfo]:
    """Return the variants whose native size is the one asked for, where there are any."""
    if request.width is None or request.height is None:
        return infos
    asked = (request.width, request.height)
    return [info for info in infos if asked in info.native_sizes] or infos


def floor_of(known: Sequence[Point], request: Generate) -> float:
    """Return the least worth that the request wants: a number, or a share of the best there is."""
    asked = request.requirements.wanted_quality
    if asked is None:
        return 0.0
    if isinstance(asked, str):
        most = max(p.worth for p in known)
        return most if asked == "best" else round(quality.SHARES[asked] * most, 2)
    return round(asked, 2)


def told(worth: float) -> str:
    """Return a quality in words: in hundredths, or thousandths where it was compared so."""
    return f"{worth:.2f}" if round(worth, 2) == worth else f"{worth:.3f}"


def reserved_s(view: View, light: Sequence[Light], request: Generate) -> float:
    """Return the seconds of a wait that those who come meanwhile will need at the least.

    As many come as came of late: where not all have the best point, it is not given to who can wait.
    """
    least_s = min([taken_s for _, taken_s in light])
    share = repainting.remembered(view).demand_hz(view.now) * least_s / len(view.devices)
    return min(1.0, share) * budget_of(request)


def choose(
    known: Sequence[Point],
    floor: float,
    request: Generate,
    light: Sequence[Light] = (),
    reserve_s: float = 0.0,
) -> tuple[Point, str]:
    """Return the point to serve with, and why; `light`: see `lightest`, looked for where it is needed."""
    latency_s = request.requirements.latency_s
    budget = points.SOON_S if latency_s is None else latency_s
    within = [p for p in known if p.total_s <= budget]
    if floor > 0.0:
        good = [p for p in (known if latency_s is None else within) if p.worth >= floor]
        if good:
            return soonest(good), f"the soonest of quality {told(floor)} or better"
        if latency_s is None:
            return best(known), f"quality {told(floor)} is not to be had: the best there is"
        if within:
            why = f"quality {told(floor)} is not to be had in {latency_s:g} s: the best that is"
            return best(within), why
    if within:
        how = "comes soon" if latency_s is None else f"keeps {latency_s:g} s"
        return best(_with_room(within, budget, request, reserve_s)), f"the best quality that {how}"
    late = least_waiting(light or lightest(known, request))
    return late, f"nothing is done in {budget:g} s: the least waiting for all"


def lightest(known: Sequence[Point], request: Generate) -> list[Light]:
    """Return the point of the fewest steps of each variant, which stands first, and what it takes."""
    first = {p.info.name: p for p in reversed(known)}
    return [(p, repainting.taken_s(p, request)) for p in first.values()]


def least_waiting(light: Sequence[Light]) -> Point:
    """Return the point by which a request that is late anyhow has all together wait least.

    Its own seconds, and those that it takes of its device from each that waits there.
    """

    def waiting(one: Light) -> tuple[float, float, float, str, str]:
        point, taken_s = one
        others = sum(point.device.wants.values())
        return point.total_s + others * taken_s, *point.swiftness

    point, _ = min(light, key=waiting)
    return point


def sooner(known: Sequence[Point], chosen: Point, floor: float, request: Generate) -> Point | None:
    """Return the point that keeps a stated latency only by going before others; None: no need, or none.

    It is the soonest: others wait for it so that it is in time, not so that it is better.
    """
    latency_s = request.requirements.latency_s
    if latency_s is None or (chosen.total_s <= latency_s and chosen.worth >= floor):
        return None
    good = min(floor, max(p.worth for p in known))
    within = [p for p in ahead_of(known, request) if p.total_s <= latency_s and p.worth >= good]
    return soonest(within) if within else None


def _with_room(
    within: Sequence[Point], budget: float, request: Generate, reserve_s: float
) -> list[Point]:
    """Return the points that leave room, and of those that none beats the cheapest.

    The room is the same for all, so that none is passed over that is sooner than one that is not. What is
    had soonest may share a batch that is there, for a poor picture and at a high price.
    """
    room_s = max(reserve_s, ROOM * min([p.device.backlog_s for p in within]))
    if room_s <= 0:
        return list(within)
    roomy = [p for p in within if p.total_s <= budget - room_s]
    if roomy and max([p.worth for p in roomy]) >= max([p.worth for p in within]):
        return roomy  # mostly: what follows takes its time
    return [*roomy, min(unbeaten(within), key=lambda p: repainting.taken_s(p, request))]


def unbeaten(known: Sequence[Point]) -> list[Point]:
    """Return the points of which none is better and as soon, or sooner and as good; the soonest first."""
    return quality.front(known, attrgetter("total_s", "worth"))


def best(known: Sequence[Point]) -> Point:
    """Return the first by `preference`; only those of the greatest worth need be compared in full."""
    most = max([p.worth for p in known])
    return min([p for p in known if p.worth == most], key=attrgetter("preference"))


def soonest(known: Sequence[Point]) -> Point:
    """Return the first by `swiftness`; only those of the least seconds need be compared in full."""
    least = min([p.total_s for p in known])
    return min([p for p in known if p.total_s == least], key=attrgetter("swiftness"))


def alternatives(
    known: Sequence[Point], chosen: Point, floor: float, request: Generate
) -> tuple[Alternative, ...]:
    """Return the next best points, one a variant and another number of steps of the chosen one."""
    budget, worth = budget_of(request), chosen.worth
    ranks = [(p.total_s > budget, abs(p.worth - worth), p.total_s, i) for i, p in enumerate(known)]
    heapify(ranks)  # most are never looked at
    shown: dict[str, Point] = {}
    while ranks and len(shown) < SHOWN:
        point = known[heappop(ranks)[3]]
        if point is not chosen:
            shown.setdefault(point.info.name, point)
    return tuple([telling.alternative(point, chosen, floor, budget) for point in shown.values()])
