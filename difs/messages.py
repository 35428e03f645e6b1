"""The public protocol: every message between a client and the broker, and every limit.

`docs/PROTOCOL.md` says the same in words. Messages are frozen structs, told apart by their `type`;
a decoded message has passed all checks here. The messages between broker and actors stand in
`difs.actor_messages`. No sockets, no bytes: those are `difs.wire`'s.
"""

import math
import unicodedata
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import force_setattr

PROTOCOL = b"DIFS1"
"""First frame of every message; the digit is the protocol's major version."""

MAX_FRAMES = 6
"""Frames of one message from a client, routing id not counted."""
MAX_HEADER_BYTES = 64 * 1024
"""Bytes of the msgpack map of one message from a client."""
MAX_PROMPT_BYTES = 4096
"""UTF-8 bytes of `prompt` and of `negative_prompt`."""
MAX_ID_CHARS = 64
MAX_NAME_CHARS = 64
MIN_SIDE, MAX_SIDE, SIDE_MULTIPLE = 64, 2048, 16
"""Pixels of `width` and `height`."""
MAX_IMAGES = 8
MAX_STEPS = 150
MAX_GUIDANCE = 50.0
MAX_SEED = 2**64 - 1
MAX_LATENCY_S = 3600.0
DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S = 120.0, 3600.0
MAX_PRIORITY, DEFAULT_PRIORITY = 9, 5
MAX_ADAPTERS = 8
MAX_ADAPTER_WEIGHT = 4.0
MAX_LEASES_PER_RELEASE = 64
MAX_PREVIEW_SIDE = 128
"""Pixels of the longer side of a preview: it travels within a message."""
MAX_POINTS = 1024
"""Operating points that a survey tells."""
MAX_HAPPENINGS = 256
"""Happenings that a story tells; of more, the last."""
MAX_PIXEL_STEPS = 1_200_000_000
"""`width` x `height` x `steps` x `n` of one request: a single request cannot hold a device for hours."""

RequestId = Annotated[
    str, Meta(min_length=1, max_length=MAX_ID_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:\-]*\Z")
]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=r"^[a-z0-9][a-z0-9._\-]*\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
SamplerName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Side = Annotated[int, Meta(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_MULTIPLE)]
Unsigned = Annotated[int, Meta(ge=0)]
"""At most 2**64 - 1: msgpack has no greater integer."""
Level = Literal["draft", "low", "medium", "high", "best"]
Auto = Literal["auto"]
Format = Literal["raw", "png", "jpeg", "webp"]
Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
MemoryMode = Literal[
    "full", "sliced", "tiled", "fp8", "model_offload", "group_offload", "sequential_offload"
]
SeedContract = Literal["bitwise", "same-noise"]
QualityKind = Literal["reference", "clip", "agreement", "declared"]
"""Likeness to a reference drawing; CLIPScore; likeness to the variant's own result of many steps; what
the manifest says without saying how it was found."""


class Bad(ValueError):
    """A value that a field's type allows and the protocol does not; the text begins with its name."""


def _finite(name: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise Bad(f"{name}: must be a finite number, got {value}")


def _text(name: str, value: str) -> str:
    """Return `value` in NFC, or refuse it: no NUL, at most MAX_PROMPT_BYTES bytes of UTF-8."""
    if value.isascii():
        size = len(value)
    else:
        value = unicodedata.normalize("NFC", value)
        size = len(value.encode())
    if "\0" in value:
        raise Bad(f"{name}: must not hold a NUL character")
    if size > MAX_PROMPT_BYTES:
        raise Bad(f"{name}: {size} bytes of UTF-8, the limit is {MAX_PROMPT_BYTES}")
    return value


# ---- client -> broker ---------------------------------------------------------------------------


class Requirements(Struct, frozen=True, omit_defaults=True):
    """What the client needs; everything optional."""

    latency_s: Annotated[float, Meta(gt=0, le=MAX_LATENCY_S)] | None = None
    quality: Unit | Level | Auto | None = None
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    on_infeasible: Literal["degrade", "reject"] = "degrade"
    best_effort: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite."""
        _finite("latency_s", self.latency_s)
        if isinstance(self.quality, float):
            _finite("quality", self.quality)

    @property
    def wanted_quality(self) -> float | Level | None:
        """Return the quality that is wanted; None: nothing is said of it."""
        return None if self.quality == "auto" else self.quality


class Adapter(Struct, frozen=True, omit_defaults=True):
    """A LoRA adapter and its weight."""

    name: Name
    weight: Annotated[float, Meta(ge=-MAX_ADAPTER_WEIGHT, le=MAX_ADAPTER_WEIGHT)] = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight that is not finite."""
        _finite("weight", self.weight)


class Overrides(Struct, frozen=True, omit_defaults=True):
    """Parts of the operating point that the client pins."""

    variant: Name | None = None
    family: Name | None = None
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE)] | None = None
    sampler: SamplerName | None = None
    adapters: Annotated[tuple[Adapter, ...], Meta(max_length=MAX_ADAPTERS)] = ()

    def __post_init__(self) -> None:
        """Refuse a guidance scale that is not finite."""
        _finite("guidance_scale", self.guidance_scale)


class Delivery(Struct, frozen=True, omit_defaults=True):
    """How the images come back."""

    mode: Literal["shm", "inline"] = "inline"
    format: Format = "png"
    progress: bool = False
    metadata: bool = True
    preview_every: Annotated[int, Meta(ge=0, le=MAX_STEPS)] = 0
    """Steps between two previews in `progress`; 0 for none."""


class Generate(Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Ask for images."""

    request_id: RequestId
    prompt: str
    negative_prompt: str = ""
    task: Literal["text-to-image"] = "text-to-image"
    width: Side | None = None
    height: Side | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] = 1
    seed: Unsigned | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S
    deterministic: bool = False
    """Share no call with other requests: the same seed gives the same bits."""
    requirements: Requirements = Requirements()
    overrides: Overrides = Overrides()
    delivery: Delivery = Delivery()

    def __post_init__(self) -> None:
        """Normalise the texts and refuse what single fields cannot tell."""
        force_setattr(self, "prompt", _text("prompt", self.prompt))
        force_setattr(self, "negative_prompt", _text("negative_prompt", self.negative_prompt))
        _finite("timeout_s", self.timeout_s)
        if (self.width is None) != (self.height is None):
            missing = "width" if self.width is None else "height"
            raise Bad(f"{missing}: width and height are given together or not at all")


class Explain(Struct, frozen=True, omit_defaults=True, tag="explain"):
    """Ask what `generate` would do, without doing it."""

    request: Generate
    survey: bool = False
    """Tell all other operating points, too."""


class Cancel(Struct, frozen=True, omit_defaults=True, tag="cancel"):
    """Give up a request."""

    request_id: RequestId


class Release(Struct, frozen=True, omit_defaults=True, tag="release"):
    """Give shared-memory slots back. No reply."""

    leases: Annotated[tuple[Unsigned, ...], Meta(min_length=1, max_length=MAX_LEASES_PER_RELEASE)]


class Variants(Struct, frozen=True, omit_defaults=True, tag="variants"):
    """Ask for the registered variants."""


class Status(Struct, frozen=True, omit_defaults=True, tag="status"):
    """Ask for the service's state."""

    request_id: RequestId | None = None
    """Of a request of this client: tell its position, too."""


class Ping(Struct, frozen=True, omit_defaults=True, tag="ping"):
    """Ask for a sign of life; also renews this client's leases."""


class Load(Struct, frozen=True, omit_defaults=True, tag="load"):
    """Admin: load a variant on a device."""

    variant: Name
    device: Name | None = None


class Evict(Struct, frozen=True, omit_defaults=True, tag="evict"):
    """Admin: drop an idle variant from a device."""

    variant: Name
    device: Name | None = None


class SetMode(Struct, frozen=True, omit_defaults=True, tag="set_mode"):
    """Admin: change the memory mode of a resident."""

    variant: Name
    memory_mode: MemoryMode
    device: Name | None = None


class Pin(Struct, frozen=True, omit_defaults=True, tag="pin"):
    """Admin: keep a variant on a device, in its memory mode, whatever the autoscaler finds."""

    variant: Name
    device: Name | None = None
    pinned: bool = True
    """False: it may leave again."""


class Drain(Struct, frozen=True, omit_defaults=True, tag="drain"):
    """Admin: accept nothing new, finish what was accepted, stop."""


class Metrics(Struct, frozen=True, omit_defaults=True, tag="metrics"):
    """Ask for the service's numbers, as a monitoring system wants them."""


class Story(Struct, frozen=True, omit_defaults=True, tag="story"):
    """Admin: ask what happened to a request, or what happened last at all."""

    request_id: RequestId | None = None


class Quarantine(Struct, frozen=True, omit_defaults=True, tag="quarantine"):
    """Admin: ask for the contents that are not tried again for a while."""


class ClearQuarantine(Struct, frozen=True, omit_defaults=True, tag="clear_quarantine"):
    """Admin: let one content be tried again, or all."""

    digest: Digest | None = None


ClientMessage = (
    Generate
    | Explain
    | Cancel
    | Release
    | Variants
    | Status
    | Ping
    | Load
    | Evict
    | SetMode
    | Pin
    | Drain
    | Metrics
    | Story
    | Quarantine
    | ClearQuarantine
)

# ---- broker -> client ---------------------------------------------------------------------------


class Prediction(Struct, frozen=True, omit_defaults=True):
    """Predicted seconds of each part of a request, and where the costs come from."""

    queue_s: float
    load_s: float
    encode_s: float
    steps_s: float
    decode_s: float
    total_s: float
    source: Literal["measured", "estimated", "assumed"]


class Alternative(Struct, frozen=True, omit_defaults=True):
    """An operating point that was not chosen, and why not."""

    variant: str
    device: str
    steps: int
    guidance_scale: float
    total_s: float
    """Predicted, with all waiting."""
    why_not: str
    """Empty for the chosen one."""
    expected_quality: float | None = None
    memory_mode: MemoryMode = "full"


class Plan(Struct, frozen=True, omit_defaults=True):
    """The chosen operating point, its prediction and the reason."""

    variant: str
    family: str
    precision: str
    device: str
    memory_mode: MemoryMode
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    prediction: Prediction
    reason: str
    policy: str
    keeps_latency: bool | None = None
    """Whether the prediction keeps `latency_s`; None when none was stated."""
    expected_quality: float | None = None
    """None: not measured for this variant."""
    quality_source: str | None = None
    """Where the expected quality comes from."""
    floor_steps: int | None = None
    """To how few steps it may be cut while it runs, to keep `latency_s`; None: to none fewer."""
    alternatives: tuple[Alternative, ...] = ()
    """The next best points, the nearest first."""
    notes: tuple[str, ...] = ()

    def describe(self, needs: Requirements) -> str:
        """Return what an image file says of how it came to be: plan and stated goal, as JSON."""
        return msgspec.json.encode({"plan": self, "goal": needs}).decode()


class Accepted(Struct, frozen=True, omit_defaults=True, tag="accepted"):
    """The request will end in exactly one `result` or `error`. May come again when the plan changes."""

    request_id: str
    epoch: int
    attempt: int
    """Dispatches so far: 0 while the request waits for its first."""
    plan: Plan | None = None
    """None while no device is ready to plan for."""


class Preview(Struct, frozen=True, omit_defaults=True):
    """A small picture of what an image is becoming: `height` rows of `width` RGB pixels."""

    height: int
    width: int
    pixels: bytes


class Progress(Struct, frozen=True, omit_defaults=True, tag="progress"):
    """One denoising step is done."""

    request_id: str
    image: int
    step: int
    steps: int
    preview: Preview | None = None


class Image(Struct, frozen=True, omit_defaults=True):
    """One image of a result: in a payload frame, or in a slot of shared memory."""

    seed: int
    height: int
    width: int
    channels: int
    format: Format
    nbytes: int
    crc32: int
    frame: int | UnsetType = UNSET
    """Inline: index of the payload frame, 0 = first after the map."""
    segment: str | UnsetType = UNSET
    """Shared memory: path of the file to map."""
    offset: int | UnsetType = UNSET
    """Shared memory: where the slot's header begins; the pixels follow `HEADER_BYTES` later."""
    generation: int | UnsetType = UNSET
    lease: int | UnsetType = UNSET


class Timings(Struct, frozen=True, omit_defaults=True):
    """Measured seconds of a request's parts; `total_s` from acceptance to this message."""

    queue_s: float
    encode_s: float
    steps_s: float
    decode_s: float
    deliver_s: float
    total_s: float
    shared_by: float = 1.0
    """Images that shared a call of its steps, on average."""


class Result(Struct, frozen=True, omit_defaults=True, tag="result"):
    """The request's images."""

    request_id: str
    epoch: int
    attempt: int
    images: tuple[Image, ...]
    plan: Plan
    timings: Timings
    seed_contract: SeedContract
    lease_s: float
    """Seconds after which an unreleased lease is taken back; a `ping` starts them anew."""
    notes: tuple[str, ...] = ()
    seed_bound: float = 0.0
    """Largest difference of a value (0..1) to a run alone that was measured; 0.0 if bitwise."""


class Error(Struct, frozen=True, omit_defaults=True, tag="error"):
    """A request or a message failed."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None
    field: str | None = None
    limit: str | None = None
    retry_after_s: float | None = None


class Beat(Struct, frozen=True, omit_defaults=True, tag="beat"):
    """Sign of life, sent twice a second to clients with open requests or leases. No answer is owed."""

    epoch: int


class Pong(Struct, frozen=True, omit_defaults=True, tag="pong"):
    """Answer to `ping`."""

    epoch: int
    ready: bool
    protocol: int = 1


class Explanation(Struct, frozen=True, omit_defaults=True, tag="explanation"):
    """Answer to `explain`: the plan, or the refusal that `generate` would get now."""

    request_id: str
    plan: Plan | None = None
    refusal: Error | None = None
    points: tuple[Alternative, ...] = ()
    """If a survey was asked for: the operating points, the best first; at most MAX_POINTS."""


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


class Done(Struct, frozen=True, omit_defaults=True, tag="done"):
    """An admin message was taken."""

    what: str


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


BrokerMessage = (
    Accepted
    | Progress
    | Result
    | Error
    | Beat
    | Pong
    | Explanation
    | VariantList
    | StatusReport
    | Done
    | MetricsReport
    | StoryReport
    | QuarantineList
)
