"""What the broker tells of its variants, its devices, its numbers and its past.

Answers to a request for images are in `difs.messages.replies`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from difs.messages.limits import MAX_GUIDANCE, MAX_STEPS, MemoryMode, QualityKind, Unit


class QualityPoint(Struct, frozen=True):
    """What pictures of one way to use a variant are worth, shown at `side` x `side` pixels."""

    side: Annotated[int, Meta(ge=1)]
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    guidance: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE)]
    score: Unit
    """0 to 1, see `difs.scorer` for the embedded family."""
    spread: Annotated[float, Meta(ge=0)] = 0.0
    """The standard deviation of the score over seeds."""
    recall_1: Unit = 0.0
    recall_5: Unit = 0.0


class Effort(Struct, frozen=True):
    """What one call of a part takes: layers and weights, and for each row multiply-adds by its pixels."""

    layers: int
    weights: int
    fixed: float
    """Multiply-adds, whatever the size;"""
    linear: float
    """for each pixel of the picture;"""
    square: float
    """and for each pair of pixels: attention's."""


class Efforts(Struct, frozen=True):
    """What the parts of a pipeline take, counted from their configurations."""

    encode: Effort
    """One prompt."""
    step: Effort
    """One row of one evaluation of the denoiser."""
    decode: Effort
    """One image."""


class VariantInfo(Struct, frozen=True, omit_defaults=True, cache_hash=True):
    """A registered variant, as a client may see it."""

    name: str
    task: str
    family: str
    precision: str
    sampler: str
    steps_min: int
    steps_default: int
    steps_max: int
    guidance_scale: float
    native_sizes: tuple[tuple[int, int], ...]
    """(width, height) pairs; the first is the default."""
    licence: str
    description: str
    bytes: int
    resident_on: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    """Everything that it can paint, each with other words for it; empty: anything."""
    quality: tuple[QualityPoint, ...] = ()
    """What its pictures are worth; empty: not known."""
    quality_source: str = ""
    """Where these numbers come from, for people."""
    quality_kind: QualityKind | None = None
    """How they were found; None: there are none."""
    quality_judge: str = ""
    """Who found them. Numbers of two variants are comparable only where kind and judge are the same."""
    efforts: Efforts | None = None
    """What it takes by count; None: its structure is not known in full."""


class AdapterInfo(Struct, frozen=True, omit_defaults=True):
    """A registered LoRA adapter, as a client may see it."""

    name: str
    family: str
    """The architecture that it fits."""
    licence: str
    description: str
    bytes: int
    variants: tuple[str, ...] = ()
    """The variants that it was made for; empty: all of its family."""


class VariantList(Struct, frozen=True, omit_defaults=True, tag="variant_list"):
    """Answer to `variants`."""

    variants: tuple[VariantInfo, ...]
    adapters: tuple[AdapterInfo, ...] = ()


class Reading(Struct, frozen=True, omit_defaults=True):
    """One look at a device: bytes of memory, shares in 0..1, degrees Celsius, watts."""

    kind: Literal["cuda", "cpu", "simulated"]
    memory_total_bytes: int
    memory_used_bytes: int
    memory_own_bytes: int
    memory_free_bytes: int
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: tuple[str, ...] = ()
    """Why the device runs slower than it could, as NVML says; empty: it does not, or it cannot tell."""


class DeviceStatus(Struct, frozen=True, omit_defaults=True):
    """An actor and its device."""

    device: str
    state: str
    residents: tuple[str, ...]
    queued: int
    running: int
    credits: int
    backlog_s: float
    slots_free: int
    slots_total: int
    reading: Reading | None = None
    memory_modes: dict[str, MemoryMode] = {}
    """The mode of each resident."""
    loading: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    states: dict[str, str] = {}
    """INFaaS's state of each resident: `active`, `overloaded` or `interfered`."""
    pinned: tuple[str, ...] = ()
    pressure_bytes: int = 0
    """Device memory that its residents have too little of, as the last plan found."""


class Expected(Struct, frozen=True, omit_defaults=True):
    """Requests alike, as the autoscaler expects them."""

    rate_hz: float
    uses: float
    """How many it expects within its horizon."""
    variant: str | None = None
    family: str | None = None
    latency_s: float | None = None
    next_s: float | None = None
    """Where they come regularly: seconds until the next."""


class Scaled(Struct, frozen=True, omit_defaults=True):
    """Something that the autoscaler decided."""

    age_s: float
    action: str
    """`load`, `replicate`, `park`, `evict` or `set_mode`."""
    device: str
    variant: str
    reason: str
    memory_mode: MemoryMode | None = None


class StatusReport(Struct, frozen=True, omit_defaults=True, tag="status_report"):
    """Answer to `status`."""

    epoch: int
    version: str
    policy: str
    ready: bool
    draining: bool
    uptime_s: float
    queued: int
    running: int
    clients: int
    devices: tuple[DeviceStatus, ...]
    counts: dict[str, int]
    planner: str = "off"
    """The autoscaler's."""
    expected: tuple[Expected, ...] = ()
    """What most requests are expected of, the most first."""
    decisions: tuple[Scaled, ...] = ()
    """The autoscaler's last decisions, the latest first."""
    position: int | None = None
    """Of the request that was asked for: 1 is next on its device. None: it does not wait."""


class Sample(Struct, frozen=True, omit_defaults=True):
    """One number of a family: a count, a level, or the sum of what a histogram saw."""

    value: float
    labels: dict[str, str] = {}
    buckets: tuple[tuple[float, int], ...] = ()
    """Of a histogram: (upper bound, how many were not above it), bounds ascending."""
    count: int = 0
    """Of a histogram: how many there were in all."""


class Family(Struct, frozen=True, omit_defaults=True):
    """Numbers of one meaning, named and counted as Prometheus does."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[Sample, ...]


class MetricsReport(Struct, frozen=True, omit_defaults=True, tag="metrics_report"):
    """Answer to `metrics`."""

    epoch: int
    families: tuple[Family, ...]


class Happening(Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that happened to a request or an actor; no prompts."""

    at_s: float
    """Seconds since the broker's start."""
    what: str
    request_id: str = ""
    attempt: int = 0
    """Dispatches of the request so far."""
    device: str = ""
    detail: str = ""


class StoryReport(Struct, frozen=True, omit_defaults=True, tag="story_report"):
    """Answer to `story`, the oldest first."""

    epoch: int
    happenings: tuple[Happening, ...]


class Case(Struct, frozen=True, omit_defaults=True):
    """A content in quarantine."""

    digest: str
    request_id: str
    """Of the request that was ended for it."""
    deaths: int
    reason: str
    left_s: float
    """Seconds until it may be tried again."""


class QuarantineList(Struct, frozen=True, omit_defaults=True, tag="quarantine_list"):
    """Answer to `quarantine`, the oldest first."""

    cases: tuple[Case, ...]
