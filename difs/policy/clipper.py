"""Policies `clipper_light` and `clipper_heavy`: one variant serves all, the cheapest or the best.

The baselines Clipper-Light and Clipper-Heavy of DiffServe (arXiv 2411.15381): Clipper (Crankshaw et al.,
NSDI 2017) with the light or the heavy model of a cascade deployed everywhere. Its adaptive batching is
the engine's here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from difs.messages import Generate, VariantInfo
from difs.policy import fixed, points
from difs.policy.base import Decision, Options, Reject, View


class _Clipper(ABC):
    """Serve always the same variant; which one is the subclass's."""

    name: str
    which: str

    def __init__(self, options: Options) -> None:
        """Prefer what the options name."""
        self._options = options

    @abstractmethod
    def _chosen(self, view: View, found: Sequence[VariantInfo], request: Generate) -> VariantInfo:
        """Return the variant."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        info = self._chosen(view, found, request)
        device = points.least_backlog(view.devices, info.name)
        reason = f"always the {self.which} variant"
        plan = fixed.plan_of(device, info, request, policy=self.name, reason=reason)
        return points.admit_or_refuse(plan, request)


class ClipperLight(_Clipper):
    """Serve `options.light`, or the variant of the least seconds that the request's pins allow."""

    name, which = "clipper_light", "light"

    def _chosen(self, view: View, found: Sequence[VariantInfo], request: Generate) -> VariantInfo:
        return fixed.light_of(view.devices, found, request, self._options.light)


class ClipperHeavy(_Clipper):
    """Serve `options.heavy`, or the variant of the best quality that the request's pins allow."""

    name, which = "clipper_heavy", "heavy"

    def _chosen(self, view: View, found: Sequence[VariantInfo], request: Generate) -> VariantInfo:
        return fixed.heavy_of(view.devices, found, request, self._options.heavy)
