"""Policies `clipper_light` and `clipper_heavy`: one variant serves all, the cheapest or the best.

The baselines Clipper-Light and Clipper-Heavy of DiffServe (arXiv 2411.15381): Clipper (Crankshaw et al.,
NSDI 2017) with the light or the heavy model of a cascade deployed everywhere. Its adaptive batching is
the engine's here.
"""

from difs.messages import Generate
from difs.policy import fixed, points
from difs.policy.base import Decision, Options, Reject, View


class ClipperLight:
    """Serve `options.light`, or the variant of the least seconds that the request's pins allow."""

    name = "clipper_light"

    def __init__(self, options: Options) -> None:
        """Prefer `options.light`."""
        self._light = options.light

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        info = fixed.light_of(view.devices, found, request, self._light)
        device = points.least_backlog(view.devices, info.name)
        plan = fixed.plan_of(device, info, request, policy=self.name, reason="always the light variant")
        return points.admit_or_refuse(plan, request)


class ClipperHeavy:
    """Serve `options.heavy`, or the variant of the best quality that the request's pins allow."""

    name = "clipper_heavy"

    def __init__(self, options: Options) -> None:
        """Prefer `options.heavy`."""
        self._heavy = options.heavy

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        info = fixed.heavy_of(view.devices, found, request, self._heavy)
        device = points.least_backlog(view.devices, info.name)
        plan = fixed.plan_of(device, info, request, policy=self.name, reason="always the heavy variant")
        return points.admit_or_refuse(plan, request)
