"""Policy `cascade`: the light variant paints all, a scorer looks, the heavy one paints the rest again.

DiffServe (Ahmad et al., "DiffServe: Efficiently Serving Text-to-Image Diffusion Models with Query-Aware
Model Scaling", arXiv 2411.15381). Pictures that score below a threshold are painted again. The threshold
is the greatest that the load allows: the demand, a fifth more than was seen, must fit the devices with
the share that is painted twice, and both paintings with their queues must fit the latency.

What differs: there workers hold one model each and a solver says how many of each, here every device may
paint with both, so the solver's constraint on workers is one sum of seconds. There a learned
discriminator scores, here the embedded family's scorer (`difs.scorer`); a picture that cannot be judged
is final. There a late query is dropped, here its light picture is delivered.
"""

import math
from collections.abc import Sequence

from msgspec.structs import replace

from difs import profiles
from difs.messages import Generate, VariantInfo
from difs.policy import fixed, looking, points
from difs.policy.base import Admit, Decision, Deliver, DeviceView, Judged, Options, Reject, View
from difs.policy.looking import Scores

DEMAND = 1.2
"""So many times the demand that was seen is provided for."""
THRESHOLDS = 200
"""The threshold is one of so many parts of 1."""


class Cascade:
    """See the module."""

    name = "cascade"

    def __init__(self, options: Options) -> None:
        """The pair is `options.light` and `options.heavy`, else the fastest and the best allowed."""
        self._options = options

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        light, heavy = self._pair(view, found, request)
        device = points.least_backlog(view.devices, light.name)
        is_pair = light is not heavy
        reason = f"light first; {heavy.name} where that is not good enough" if is_pair else "no other"
        plan = fixed.plan_of(device, light, request, policy=self.name, reason=reason)
        decision = points.admit_or_refuse(plan, request)
        return replace(decision, is_judged=is_pair) if isinstance(decision, Admit) else decision

    def review(self, view: View, request: Generate, judged: Judged) -> Admit | Deliver:
        """See Reviewer.review."""
        memory = view.memory if isinstance(view.memory, Scores) else Scores()
        if judged.score is None:
            return Deliver(f"final with {judged.plan.variant}: it could not be judged")
        memory = memory.seen(judged.score)
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return Deliver(memory=memory)
        light, heavy = self._pair(view, found, request)
        allowed = threshold(view, memory, (light, heavy), request)
        words = f"{judged.plan.variant} scored {judged.score:.2f}, the threshold is {allowed:.2f}"
        if judged.score >= allowed or heavy.name == judged.plan.variant:
            return Deliver(words, memory)
        device = points.least_backlog(view.devices, heavy.name)
        plan = fixed.plan_of(device, heavy, request, policy=self.name, reason=words)
        total_s = judged.age_s + plan.prediction.total_s
        if total_s > min(request.requirements.latency_s or request.timeout_s, request.timeout_s):
            return Deliver(f"{words}, but {heavy.name} would be late", memory)
        kept = None if request.requirements.latency_s is None else True
        return Admit(replace(plan, keeps_latency=kept), memory=memory)

    def _pair(
        self, view: View, found: Sequence[VariantInfo], request: Generate
    ) -> tuple[VariantInfo, VariantInfo]:
        options = self._options
        return (
            fixed.light_of(view.devices, found, request, options.light),
            fixed.heavy_of(view.devices, found, request, options.heavy),
        )


def threshold(
    view: View, memory: Scores, pair: tuple[VariantInfo, VariantInfo], request: Generate
) -> float:
    """Return the greatest threshold that the load allows; 0: nothing can be painted twice."""
    light, heavy = pair
    least_s = sum(_soonest_s(view.devices, info, request) for info in pair)
    if least_s > (request.requirements.latency_s or points.SOON_S):
        return 0.0
    demand_hz = DEMAND * sum(d.rate(light.name, view.now) for d in view.devices)
    share = looking.affordable(
        len(view.devices) / demand_hz if demand_hz > 0 else math.inf,
        min(_device_s(d, light, request) for d in view.devices),
        min(_device_s(d, heavy, request) for d in view.devices),
    )
    steps = (step / THRESHOLDS for step in range(THRESHOLDS, 0, -1))
    return next((t for t in steps if memory.below(t) <= share), 0.0)


def _soonest_s(devices: Sequence[DeviceView], info: VariantInfo, request: Generate) -> float:
    """Return the seconds of a painting with its queue and load, on the device where it begins first."""
    device = points.least_backlog(tuple(devices), info.name)
    return points.predict(device, info.name, fixed.work_of(info, request)).total_s


def _device_s(device: DeviceView, info: VariantInfo, request: Generate) -> float:
    """Return the seconds that a request takes of a device that is kept full."""
    known = device.known(info.name)
    return profiles.shared_seconds(fixed.work_of(info, request), known.costs if known else None)
