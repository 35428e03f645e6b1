"""What a planner sees and what it answers. Frozen values only: a planner never touches the broker.

As with policies, what a planner must remember it keeps in a frozen value of its own, which every plan
may carry anew and the next view shows.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from difs.messages import MemoryMode
from difs.policy.states import State

Site = tuple[str, str]
"""(device, variant)."""


class Form(Struct, frozen=True, cache_hash=True):
    """A variant in one memory mode on one device: the bytes, seconds and quality that it would have."""

    memory_mode: MemoryMode
    rest_bytes: int
    """Of device memory between two calls."""
    peak_bytes: int
    """Most that a call takes beyond that."""
    serve_s: float
    """Seconds of the device that one usual picture takes where calls are shared."""
    load_s: float
    """From where it lies now: the disk, or host memory."""
    quality: float
    """0..1, of a usual picture,"""
    latency_s: float
    """and the seconds that one takes alone."""
    draft_quality: float
    """Of the picture of the fewest steps,"""
    draft_s: float
    """and its seconds."""


class ResidentView(Struct, frozen=True):
    """A variant that is loaded on a device."""

    memory_mode: MemoryMode
    is_busy: bool = False
    """Requests run with it or are queued for it: it stays, though its mode may change."""
    is_awaited: bool = False
    """It is busy with queued requests alone: it gives way to one that is served before them."""
    is_pinned: bool = False
    """An administrator wants it to stay; in its mode, too."""
    is_chosen: bool = False
    """An administrator chose its mode: only pressure changes it."""
    state: State = "active"
    wanted_at: float = 0.0
    """When a request was last given to it, or when it came."""
    rate_hz: float = 0.0
    """Requests a second that were given to it lately."""


class DeviceView(Struct, frozen=True):
    """A ready device: its memory as it says itself, what is loaded there, and what could be."""

    device: str
    total_bytes: int
    others_bytes: int
    """What other programs take, and what of our own is no resident (a CUDA context, caches)."""
    residents: Mapping[str, ResidentView]
    forms: Mapping[str, tuple[Form, ...]]
    """Variant -> its forms here, the one that needs most memory first."""
    parked: Mapping[str, int] = {}
    """Bytes of host memory of each variant that is parked."""
    moving: frozenset[str] = frozenset()
    """Variants that are on their way here, away, or into another mode: they are left alone."""
    arriving: Mapping[str, MemoryMode] = {}
    """Those of `moving` that are on their way here, and their mode."""

    def form(self, variant: str, mode: MemoryMode) -> Form | None:
        """Return a variant's form in a mode; None: it has none here."""
        return next((f for f in self.forms.get(variant, ()) if f.memory_mode == mode), None)


class Want(Struct, frozen=True, cache_hash=True):
    """What requests that are alike ask for."""

    variant: str | None = None
    """The only one that may serve them; None: any, or any of `family`."""
    family: str | None = None
    latency_s: float | None = None
    """What they state; None: nothing."""
    floor: float = 0.0
    """The quality that they want at least, 0..1."""

    def allows(self, variant: str, family: str) -> bool:
        """Whether a variant may serve it."""
        return self.variant == variant if self.variant else self.family in (None, family)


class Wants(Struct, frozen=True, cache_hash=True):
    """All that is wanted, in the order of the streams."""

    all: tuple[Want, ...]


class Stream(Struct, frozen=True):
    """Requests alike, as they are forecast."""

    want: Want
    rate_hz: float
    """How many come in a second."""
    uses: float
    """How many of them are expected within the horizon; see `difs.autoscaler.forecast`."""


class Options(Struct, frozen=True):
    """What the configuration's [autoscaler] section says to a planner."""

    headroom_bytes: int = 0
    """Device memory to be left free for others."""
    cooldown_s: float = 1.0
    """A resident is changed at most once in so many seconds, whatever happens;"""
    settle_s: float = 4.0
    """and unless it is forced, only so long after its last change, and after pressure on its device."""
    idle_unload_s: float = 600.0
    """A resident that nobody wanted for so long is parked; 0: never."""
    min_residents: int = 1
    """Variants that stay on each device however idle they are."""
    parking_bytes: int = 0
    """Host memory for what is parked, of each device; 0: nothing is parked."""


class View(Struct, frozen=True):
    """The service at one moment."""

    now: float
    devices: tuple[DeviceView, ...]
    families: Mapping[str, str]
    """Variant -> its family."""
    streams: tuple[Stream, ...]
    options: Options
    memory: object = None
    """What this planner's last plan wanted to be remembered; None at first."""


# ---- actions ------------------------------------------------------------------------------------


class Load(Struct, frozen=True):
    """Bring a variant to a device, into a memory mode."""

    device: str
    variant: str
    memory_mode: MemoryMode
    reason: str


class Replicate(Struct, frozen=True):
    """Bring a variant to one more device, because one is not enough."""

    device: str
    variant: str
    memory_mode: MemoryMode
    reason: str


class Park(Struct, frozen=True):
    """Take a resident off its device, into host memory."""

    device: str
    variant: str
    reason: str


class Evict(Struct, frozen=True):
    """Take a variant off its device or out of host memory: it returns from the disk only."""

    device: str
    variant: str
    reason: str


class SetMode(Struct, frozen=True):
    """Change a resident's memory mode."""

    device: str
    variant: str
    memory_mode: MemoryMode
    reason: str
    is_forced: bool = False
    """Memory is short: clients are told."""


Action = Load | Replicate | Park | Evict | SetMode


class Plan(Struct, frozen=True):
    """What is to be done now, in this order."""

    actions: tuple[Action, ...] = ()
    pressure: Mapping[str, int] = {}
    """Device -> bytes that it has too few."""
    memory: object = None
    """What the next view shall show; None: what this one showed."""


class Planner(Protocol):
    """An autoscaler; its class is called once, without arguments."""

    name: str

    def plan(self, view: View) -> Plan:
        """Choose what is loaded, where and how; pure."""
        ...
