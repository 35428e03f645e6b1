"""What a policy sees and what it answers. Frozen values only: a policy never touches the broker.

A policy that must remember something (recent choices, what it has seen) keeps it in a frozen value of its
own: every decision may carry it anew, and the next view shows it. So a decision is a function of view and
request, and what is only asked (`explain`) leaves no trace.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from msgspec import Struct

from difs import rooms
from difs.actor_messages import Resident
from difs.foresight import Outlook
from difs.messages import AdapterInfo, Alternative, Generate, MemoryMode, Plan, QualityKind, VariantInfo
from difs.policy.activity import Activity

Profiled = Mapping[str, tuple[Resident, ...]]
"""Variant -> what it would be in each memory mode; the mode that it is loaded into stands first."""


def measured(
    variant: str,
    residents: Mapping[str, Resident],
    parked: Mapping[str, Resident],
    profiled: Profiled,
    mode: MemoryMode | None = None,
) -> Resident | None:
    """Return what was measured of a variant on a device: loaded, else parked, else by its profile.

    `mode`: the memory mode of which the profile is asked; None: the one that it is loaded into.
    """
    found = residents.get(variant) or parked.get(variant)
    if found is None:
        for known in profiled.get(variant, ()):
            if mode is None or mode == known.memory_mode:
                return known
    return found


class DeviceView(Struct, frozen=True):
    """A ready device as a policy sees it."""

    device: str
    residents: Mapping[str, Resident]
    backlog_s: float
    """Predicted seconds until the work that goes before is done; best effort gives way to all other."""
    queued: int
    free_credits: int
    parked: Mapping[str, Resident] = {}
    """What returns from host memory, with the costs that it would have; its `load_s` is the way back."""
    wants: Mapping[str, int] = {}
    """How many requests want each variant here, queued or running."""
    activity: Mapping[str, Activity] = {}
    """How often each variant was wanted here, and how it fared."""
    profiled: Profiled = {}
    """What variants would be here in each memory mode, as profiles say; the mode that one is loaded into
    stands first. `load_s` is the way from the disk."""
    estimated: Mapping[str, Resident] = {}
    """What variants would be that were never measured here, from those that were, as `costs.source`
    says."""
    room_bytes: int | None = None
    """What a further variant could take, if those that nobody wants gave way; None: not known."""
    outlook: Outlook | None = None
    """What it will do if nothing more comes; None: `backlog_s` is all that is known."""
    now: float = 0.0
    """The moment of this view, by the clock of `outlook`."""
    lateness: Mapping[int, float] = {}
    """By what its predictions are to be multiplied; see `difs.policy.lateness`."""
    way_s: float = 0.0
    """What is to be added to them then."""

    def loadable(self, variant: str, pixels: int) -> tuple[Resident, ...]:
        """Return what `variant`, which is not loaded here, could be loaded as to paint `pixels` pixels.

        What is parked returns as it was. A profiled one may come in any memory mode that has room and
        paints the same pictures; in the lightest where none has.
        """
        if variant in self.parked or variant not in self.profiled:
            known = self.known(variant)
            return (known,) if known is not None else ()
        return rooms.fitting(self.profiled[variant], pixels, self.room_bytes)

    def known_in(self, variant: str, mode: MemoryMode) -> Resident | None:
        """Return what is known of `variant` here in a memory mode into which it could be loaded."""
        found = measured(variant, self.residents, self.parked, self.profiled, mode)
        return found or self.known(variant)

    def known(self, variant: str) -> Resident | None:
        """Return what is known of `variant` here; None: nothing.

        Loaded, else parked, else as its profile says of the mode that it is loaded into, else estimated.
        """
        found = measured(variant, self.residents, self.parked, self.profiled)
        return found or self.estimated.get(variant)

    def rate(self, variant: str, now: float) -> float:
        """Return the requests a second that were given to `variant` here lately."""
        found = self.activity.get(variant)
        return found.rate(now) if found is not None else 0.0


class View(Struct, frozen=True):
    """The state of the service at one moment."""

    now: float
    devices: tuple[DeviceView, ...]
    variants: Mapping[str, VariantInfo]
    decisions: int
    """How many decisions were made before this one."""
    adapters: Mapping[str, AdapterInfo] = {}
    memory: object = None
    """What this policy's last decision wanted to be remembered; None at first."""


class Admit(Struct, frozen=True):
    """Serve the request as planned."""

    plan: Plan
    order: float | None = None
    """Its place among all requests of its priority, the least first; None: clients get equal shares."""
    goes_ahead: bool = False
    """It goes before what is there, as far as that costs nobody what was promised; see
    `difs.foresight.Outlook.turn_before`."""
    waits_again: bool = False
    """Painted again it waits behind all that is there; else it keeps the turn that it had."""
    is_judged: bool = False
    """The finished pictures are scored, and `review` decides whether they are good enough."""
    memory: object = None
    """What the next view shall show; None: what this one showed."""


class Wait(Struct, frozen=True):
    """Keep the request queued without a plan; asked again when a device becomes ready."""

    reason: str
    memory: object = None


class Reject(Struct, frozen=True):
    """Refuse the request; `code` is one of `difs.errors.BY_CODE`."""

    code: str
    reason: str
    field: str | None = None
    retry_after_s: float | None = None
    limit: str | None = None
    """The nearest value of `field` that could be kept."""
    memory: object = None


Decision = Admit | Wait | Reject


class Judged(Struct, frozen=True):
    """Finished pictures whose plan asked for a judgement."""

    plan: Plan
    score: float | None
    """0..1, that of the worst picture; None: they could not be judged."""
    age_s: float
    """Seconds since the request arrived."""


class Deliver(Struct, frozen=True):
    """Let the client have what was judged; `note` tells it how that was decided."""

    note: str = ""
    memory: object = None


class Options(Struct, frozen=True):
    """What the configuration's [policy] section says to a policy."""

    variant: str = ""
    light: str = ""
    """The cheap variant of two, for policies that know two; empty: the one of the least seconds."""
    heavy: str = ""
    """The good variant of two; empty: the one of the best quality."""
    scored: tuple[QualityKind, ...] = ("reference",)
    """The kinds of qualities by whose ruler actors score finished pictures."""


class Policy(Protocol):
    """A scheduling policy; its class is called once, with the Options."""

    name: str

    def decide(self, view: View, request: Generate) -> Decision:
        """Choose an operating point for `request`; pure."""
        ...


@runtime_checkable
class Surveyor(Protocol):
    """A policy that can tell all points among which it chooses."""

    def survey(self, view: View, request: Generate) -> tuple[Alternative, ...]:
        """Return the points, the best first, the chosen one among them; pure."""
        ...


@runtime_checkable
class Reviewer(Protocol):
    """A policy that looks at what it had judged."""

    def review(self, view: View, request: Generate, judged: Judged) -> Admit | Deliver:
        """Decide whether the client gets what was judged, or other pictures are painted instead; pure.

        Those are final: what was painted again is judged no more.
        """
        ...
