"""When `modelless` paints with a light point first and looks, and what is then painted again. Pure.

Where the load lets not everybody have the best point, those get it who need it: all are painted with a
light one, their pictures are scored, and the worst are painted again, as many as the load allows. What
that brings is told by the scores that both points had when they were chosen for themselves. Of others it
takes nothing: what is painted again waits behind all that is there, and only where it is in time so.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs import captions, profiles
from difs.actor_messages import Costs
from difs.messages import Generate, Overrides, Plan, QualityKind, VariantInfo
from difs.policy import looking, points
from difs.policy.activity import WINDOW_S, Activity
from difs.policy.base import View
from difs.policy.frontier import Point
from difs.policy.looking import Scores
from difs.profiles import Work

NONE_YET = Scores((0.0,) * 50)
ENOUGH = 12.0
"""With fewer scores of a point nothing is concluded."""
PLENTY = 48.0
"""With more only each eighth is looked at, where that is for learning alone."""
MOST = 8
"""Points whose scores are remembered: those scored last."""
TRIED = 8
"""Of points that are equally good so many are looked at for the quickest."""
GAIN = 0.02
"""What looking must bring, in the mean quality of all."""
FEW = 0.25
"""A share that is painted again by which it is seen whether looking brings anything."""
LEAST_S = 2.0
"""Of a shorter time no demand is concluded: two that came at once are not a thousand a second."""
SLACK = 0.2
"""So much of the wait may be filled by what others wait for; more means fewer are painted again."""
IN_TIME = 0.9
"""Both paintings must be done in so much of the wait: the second comes after others' arrivals."""

Key = tuple[str, int, float, int]
"""Whose scores: variant, steps, guidance, and the side of the picture."""


class Memory(Struct, frozen=True):
    """What `modelless` has seen: how many requests came, and how their pictures scored."""

    arrivals: Activity = Activity()
    since: float = math.inf
    """When the first came."""
    scores: Mapping[Key, Scores] = {}

    def arrived(self, now: float) -> "Memory":
        """Return the memory after one more request."""
        return Memory(self.arrivals.wanted(now), min(self.since, now), self.scores)

    def demand_hz(self, now: float) -> float:
        """Return the requests a second that came lately; averaged over no more than was seen."""
        if self.since > now:
            return 0.0
        seen = 1.0 - math.exp(-max(LEAST_S, now - self.since) / WINDOW_S)
        return self.arrivals.rate(now) / seen

    def scored(self, key: Key, score: float) -> "Memory":
        """Return the memory after one more score of a point."""
        others = [(k, found) for k, found in self.scores.items() if k != key]
        fresh = self.scores.get(key, NONE_YET).seen(score)
        return replace(self, scores=dict([*others[-MOST + 1 :], (key, fresh)]))


def remembered(view: View) -> Memory:
    """Return what a view shows of the memory."""
    return view.memory if isinstance(view.memory, Memory) else Memory()


class Look(NamedTuple):
    """A light point, and the one that paints again what scored below the threshold."""

    light: Point
    heavy: Point
    threshold: float

    @property
    def words(self) -> str:
        """Say what is done."""
        if self.threshold <= 0:
            return f"looks at the picture; {self.heavy.info.name} would repaint it, were the load less"
        return f"looks at the picture; repaints below {self.threshold:.2f} with {self.heavy.info.name}"


class Case(NamedTuple):
    """A request under the present load."""

    request: Generate
    memory: Memory
    wait_s: float
    """In so many seconds its picture is wanted."""
    budget_s: float
    """Seconds of a device that there are for each request."""


def case_of(view: View, memory: Memory, request: Generate, wait_s: float) -> Case:
    """Return a request under the load of a view: the less is queued, the more each may take."""
    demand_hz = memory.demand_hz(view.now)
    if demand_hz <= 0:
        return Case(request, memory, wait_s, math.inf)
    queued_s = sum([d.backlog_s for d in view.devices]) / len(view.devices)
    share = max(0.0, 1.0 + SLACK - queued_s / wait_s)
    return Case(request, memory, wait_s, share * len(view.devices) / demand_hz)


def leaves_open(request: Generate) -> bool:
    """Whether a request leaves it open with what, and how often, it is painted."""
    needs = request.requirements
    is_free = needs.wanted_quality is None and not needs.best_effort and not request.deterministic
    return is_free and request.n == 1 and request.overrides == Overrides()


def can_be_judged(info: VariantInfo, request: Generate, scored: Sequence[QualityKind]) -> bool:
    """Whether an actor can score a variant's picture by the ruler of its curve; see `actors.judging`."""
    width, height = points.size_of(info, request)
    if info.quality_kind not in scored or width != height:
        return False
    return not info.captions or len(captions.named(info.captions, request.prompt)) == 1


def is_pressed(case: Case, known: Sequence[Point]) -> bool:
    """Whether the load is such that not everybody can have the best point."""
    if case.budget_s == math.inf:
        return False
    most = max([p.worth for p in known])
    best = islice((p for p in known if p.worth == most), TRIED)
    return case.budget_s < min([taken_s(p, case.request) for p in best])


def is_to_learn(case: Case, chosen: Point, decisions: int) -> bool:
    """Whether a picture is scored only so that it is known how such pictures score."""
    known = case.memory.scores.get(_key_of(chosen, case.request), NONE_YET)
    return known.total < PLENTY or decisions % 8 == 0


def first(case: Case, known: Sequence[Point]) -> Look | None:
    """Return how to look where that is clearly better than one painting; None: it is not.

    `known`: points whose pictures can be judged.
    """
    seen = _scored(case, known)
    if len(seen) < 2:
        return None
    heavy, its = max(seen, key=lambda one: one[1].mean)
    left_s = IN_TIME * case.wait_s - _own_s(heavy, case.request)
    found, sides = [], _sides(case, seen)
    for light, scores in seen:
        if light.total_s <= left_s and scores.mean < its.mean:
            gain, worth = _gain(case, (light, scores), (heavy, its), sides)
            if gain >= GAIN:
                found.append((worth, -light.total_s, _look(case, (light, scores), heavy)))
    return max(found)[-1] if found else None


def again(case: Case, known: Sequence[Point], painted: Plan) -> Look | None:
    """Return what is to become of a picture that was looked at; None: nothing paints better."""
    seen = _scored(case, known)
    key = key_of(painted)
    own = next((one for one in seen if _key_of(one[0], case.request) == key), None)
    if own is None:
        return None
    heavy, its = max(seen, key=lambda one: one[1].mean)
    # the light one is paid: that another time one painting would be as good is no reason to keep it
    gain, _ = _gain(case._replace(budget_s=0.0), own, (heavy, its), _sides(case, seen))
    return _look(case, own, heavy) if gain >= GAIN else None


def key_of(plan: Plan) -> Key:
    """Return whose scores those of a plan's pictures are."""
    return plan.variant, plan.steps, plan.guidance_scale, plan.width


Seen = tuple[Point, Scores]


def _scored(case: Case, known: Sequence[Point]) -> list[Seen]:
    """Return the points that are loaded and of which it is known how they score."""
    usable = {key: s for key, s in case.memory.scores.items() if s.total >= ENOUGH}
    names = {name for name, *_ in usable}
    loaded = [p for p in known if p.info.name in names and p.info.name in p.device.residents]
    found = [(p, usable.get(_key_of(p, case.request))) for p in loaded]
    return [(p, scores) for p, scores in found if scores is not None]


def _sides(case: Case, seen: Sequence[Seen]) -> list[tuple[float, float]]:
    """Return the seconds and the mean score of each point, as `looking.mixed` takes them."""
    return [(taken_s(p, case.request), scores.mean) for p, scores in seen]


def _gain(
    case: Case, light: Seen, heavy: Seen, sides: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Return by how much looking is better than to paint once, and the mean quality that it has.

    Painted once: the best mixture of points at the same seconds, whoever gets which.
    """
    light_s, heavy_s = (taken_s(p, case.request) for p, _ in (light, heavy))
    budget_s = max(case.budget_s, light_s + FEW * heavy_s)
    share = looking.affordable(budget_s, light_s, heavy_s)
    worth = looking.expected(light[1], heavy[1], share)
    return worth - looking.mixed(sides, budget_s), worth


def _look(case: Case, light: Seen, heavy: Point) -> Look:
    light_s, heavy_s = (taken_s(p, case.request) for p in (light[0], heavy))
    share = looking.affordable(case.budget_s, light_s, heavy_s)
    return Look(light[0], heavy, light[1].worst(share)[0] if share > 0 else 0.0)


def _key_of(point: Point, request: Generate) -> Key:
    return point.info.name, point.steps, point.guidance, points.size_of(point.info, request)[0]


def taken_s(point: Point, request: Generate) -> float:
    """Return the seconds that a point takes of its device, kept full."""
    return profiles.shared_seconds(*_painting(point, request))


def _own_s(point: Point, request: Generate) -> float:
    """Return the seconds of a painting alone."""
    return profiles.predict(*_painting(point, request)).total_s


def _painting(point: Point, request: Generate) -> tuple[Work, Costs | None]:
    """Return what a point computes, and what that costs on its device, where it is known."""
    known = point.device.known(point.info.name)
    work = points.work_of(point.info, request, point.steps, point.guidance)
    return work, known.costs if known else None
