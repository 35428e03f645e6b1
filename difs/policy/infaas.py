"""Policy `infaas`: a variant for a use case, an architecture or itself, as INFaaS chooses it.

Romero et al., "INFaaS: Automated Model-less Inference Serving", ATC 2021; figures as in its public code.
What the request pins decides which search is made: nothing (a use case), a family (an architecture) or a
variant. A variant is a point, with one accuracy and one profiled latency, and it fits if both are good
enough. Which device: the one that was asked least. Variants that are overloaded or suffer interference
are marked for a while and passed over. As there, a prediction knows no queues: what fits is admitted,
unless the request says `on_infeasible` reject, a promise that all policies here keep.

Left out, because nothing here answers to it: the rules in milliseconds for CPU and GPU, batch sizes that
are built in, exclusive GPUs, the cost limit (which its code never reads), starting machines.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs.messages import Generate, VariantInfo
from difs.policy import fixed, points
from difs.policy.base import Decision, DeviceView, Options, Reject, View
from difs.policy.states import is_marked, state

RECENT = 5
"""Variants that the last use-case queries were given: tried first."""
LOOKUP_S, LOOKUP_SHARE, LEAST_LOOKUPS = 0.0006, 0.15, 3
"""Candidates are few enough to be looked up in this share of the latency, at so much each."""
NOT_RUNNING_S = 1.0
"""Added to the load and the latency of a variant that is not running."""
STILL_OVERLOADED = 10
"""Each so-many-th query goes to an overloaded variant, lest it starve while another loads."""
CHECK_S = 1.0
"""How often the marks are looked at."""


class Memory(Struct, frozen=True):
    """What is remembered from one decision to the next."""

    recent: tuple[str, ...] = ()
    """The last use-case choices, the latest first."""
    marks: frozenset[tuple[str, str]] = frozenset()
    """(device, variant) that are overloaded or interfered."""
    checked_at: float = float("-inf")


class Choice(NamedTuple):
    """A variant on a device."""

    info: VariantInfo
    device: DeviceView
    why: str


class Search(NamedTuple):
    """A query: the view, what is remembered, and what is wanted."""

    view: View
    request: Generate
    memory: Memory
    floor: float
    bound_s: float
    accuracy: Mapping[str, float]
    latency_s: Mapping[str, float]
    """Profiled seconds of each variant, the least of all devices."""

    def fits(self, info: VariantInfo) -> bool:
        """Whether a variant is accurate and fast enough."""
        return self.accuracy[info.name] >= self.floor and self.latency_s[info.name] <= self.bound_s

    def running(self, info: VariantInfo, *, is_marked: bool = False) -> DeviceView | None:
        """Return the device that was asked least for a variant that runs there, marked or not."""
        found = [
            d
            for d in self.view.devices
            if info.name in d.residents and ((d.device, info.name) in self.memory.marks) == is_marked
        ]
        now = self.view.now
        return min(found, key=lambda d: (d.rate(info.name, now), d.backlog_s, d.device), default=None)

    def least_used(self, info: VariantInfo) -> DeviceView:
        """Return the device to load a variant on: where it is parked, else where least is to be done."""
        return points.least_backlog(self.view.devices, info.name)

    def load_s(self, info: VariantInfo) -> float:
        """Return how far a variant that is not running is: load, latency and a penalty."""
        device = self.least_used(info)
        loading = points.predict(device, info.name, fixed.work_of(info, self.request)).load_s
        return loading + fixed.own_s(device, info, self.request) + NOT_RUNNING_S


class Infaas:
    """See the module."""

    name = "infaas"

    def __init__(self, options: Options) -> None:
        """Take no options."""

    def decide(self, view: View, request: Generate) -> Decision:
        """See Policy.decide."""
        found = points.allowed(view, request)
        if isinstance(found, Reject):
            return found
        memory = view.memory if isinstance(view.memory, Memory) else Memory()
        memory = checked(view, memory)
        search = Search(
            view=view,
            request=request,
            memory=memory,
            floor=fixed.floor_of(found, request),
            bound_s=request.requirements.latency_s or points.SOON_S,
            accuracy={info.name: fixed.accuracy(info, request) for info in found},
            latency_s={info.name: fixed.least_s(view.devices, info, request) for info in found},
        )
        if request.overrides.variant is not None:
            choice: Choice | None = by_variant(search, found[0])
        elif request.overrides.family is not None:
            choice = by_architecture(search, found)
        else:
            choice = by_use_case(search, found)
            if choice is not None:
                memory = _remembering(memory, choice.info.name)
        if choice is None and request.requirements.on_infeasible == "reject":
            return _nothing_fits(search, memory)
        return self._admit(choice or _fastest(search, found), request, memory)

    def _admit(self, choice: Choice, request: Generate, memory: Memory) -> Decision:
        plan = fixed.plan_of(choice.device, choice.info, request, policy=self.name, reason=choice.why)
        return replace(points.admit_or_refuse(plan, request), memory=memory)


# ---- the three searches -------------------------------------------------------------------------


def by_variant(search: Search, info: VariantInfo) -> Choice:
    """Return where a pinned variant is served: where it runs and was asked least."""
    device = search.running(info) or search.running(info, is_marked=True)
    if device is not None:
        return Choice(info, device, "pinned; asked least of where it runs")
    return Choice(info, search.least_used(info), "pinned; runs nowhere: loaded on the least used device")


def by_architecture(search: Search, found: Sequence[VariantInfo]) -> Choice | None:
    """Return a variant of a pinned family: the first by latency of those that run and fit.

    There the first five are looked up before all others, which saves time and changes no choice. Where
    all that run are marked, the next one is loaded, while some queries still go to a marked one.
    """
    by_latency = sorted(found, key=lambda info: (search.latency_s[info.name], info.name))
    fitting = [info for info in by_latency if search.fits(info)]
    for info in fitting:
        device = search.running(info)
        if device is not None:
            return Choice(info, device, "the fastest of its family that runs and fits")
    marked = _marked(search, fitting)
    if marked is not None and search.view.decisions % STILL_OVERLOADED == 0:
        return marked
    return _loaded_anew(search, fitting) or marked


def by_use_case(search: Search, found: Sequence[VariantInfo]) -> Choice | None:
    """Return a variant for a use case: one chosen lately, else the slowest that runs and fits.

    The least slack under the bound is the cheapest that is good enough.
    """
    by_name = {info.name: info for info in found}
    for name in search.memory.recent:
        info = by_name.get(name)
        device = search.running(info) if info is not None and search.fits(info) else None
        if info is not None and device is not None:
            return Choice(info, device, "chosen lately, and it fits again")
    by_accuracy = sorted(found, key=lambda info: (search.accuracy[info.name], info.name))
    good = [info for info in by_accuracy if search.accuracy[info.name] >= search.floor]
    most = max(LEAST_LOOKUPS, int(LOOKUP_SHARE * search.bound_s / LOOKUP_S))
    fitting = [info for info in good[:most] if search.fits(info)]
    running = [(info, device) for info in fitting if (device := search.running(info)) is not None]
    if running:
        info, device = max(running, key=lambda pair: (search.latency_s[pair[0].name], pair[0].name))
        slack_s = search.bound_s - search.latency_s[info.name]
        return Choice(info, device, f"the least slack of what runs and fits: {slack_s:.2f} s")
    return _loaded_anew(search, fitting) or _marked(search, fitting)


def _loaded_anew(search: Search, fitting: Sequence[VariantInfo]) -> Choice | None:
    """Return the variant that runs nowhere and would be there the soonest."""
    absent = [i for i in fitting if not any(i.name in d.residents for d in search.view.devices)]
    info = min(absent, key=lambda i: (search.load_s(i), i.name), default=None)
    if info is None:
        return None
    return Choice(info, search.least_used(info), "what runs is overloaded or does not fit: loaded")


def _marked(search: Search, fitting: Sequence[VariantInfo]) -> Choice | None:
    """Return the marked variant that fewest requests want."""
    found = [
        Choice(info, device, f"all that fit are {state(search.view, device, info.name, is_marked=True)}")
        for info in fitting
        if (device := search.running(info, is_marked=True)) is not None
    ]
    return min(found, key=lambda c: (c.device.wants.get(c.info.name, 0), c.info.name), default=None)


def _fastest(search: Search, found: Sequence[VariantInfo]) -> Choice:
    """Return what to serve with when nothing fits and the client takes less: the fastest that runs."""
    runs = [info for info in found if any(info.name in d.residents for d in search.view.devices)]
    info = min(runs or found, key=lambda i: (search.latency_s[i.name], i.name))
    device = search.running(info) or search.running(info, is_marked=True) or search.least_used(info)
    return Choice(info, device, "nothing fits: the fastest")


def _nothing_fits(search: Search, memory: Memory) -> Reject:
    nearest, best = min(search.latency_s.values()), max(search.accuracy.values())
    words = (
        f"no variant has quality {search.floor:.2f} within {search.bound_s:g} s;"
        f" the fastest takes {nearest:.2f} s, the best has {best:.2f}"
    )
    return Reject("infeasible", words, field="requirements.latency_s", memory=memory)


def _remembering(memory: Memory, name: str) -> Memory:
    """Return the memory after a use-case choice."""
    recent = (name, *(other for other in memory.recent if other != name))
    return replace(memory, recent=recent[:RECENT])


# ---- overloaded and interfered ------------------------------------------------------------------


def checked(view: View, memory: Memory) -> Memory:
    """Return the memory with the marks as they are now; they are looked at once a second."""
    if view.now - memory.checked_at < CHECK_S:
        return memory
    marks = {
        (device.device, name)
        for device in view.devices
        for name in device.residents
        if name in view.variants
        and is_marked(view, device, view.variants[name], (device.device, name) in memory.marks)
    }
    return replace(memory, marks=frozenset(marks), checked_at=view.now)
