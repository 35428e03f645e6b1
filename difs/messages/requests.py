"""What a client sends to the broker.

Decoding does all checks that a message needs no more knowledge for than itself.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from difs.messages.limits import (
    DEFAULT_PRIORITY,
    DEFAULT_TIMEOUT_S,
    MAX_ADAPTER_WEIGHT,
    MAX_ADAPTERS,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_LATENCY_S,
    MAX_LEASES_PER_RELEASE,
    MAX_PRIORITY,
    MAX_STEPS,
    MAX_TIMEOUT_S,
    Auto,
    Bad,
    Digest,
    Format,
    Level,
    MemoryMode,
    Name,
    RequestId,
    SamplerName,
    Side,
    Unit,
    Unsigned,
    finite,
    text,
)


class Requirements(Struct, frozen=True, omit_defaults=True):
    """What the client needs; everything optional."""

    latency_s: Annotated[float, Meta(gt=0, le=MAX_LATENCY_S)] | None = None
    quality: Unit | Level | Auto | None = None
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    on_infeasible: Literal["degrade", "reject"] = "degrade"
    best_effort: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite."""
        finite("latency_s", self.latency_s)
        if isinstance(self.quality, float):
            finite("quality", self.quality)

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
        finite("weight", self.weight)


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
        finite("guidance_scale", self.guidance_scale)


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
        force_setattr(self, "prompt", text("prompt", self.prompt))
        force_setattr(self, "negative_prompt", text("negative_prompt", self.negative_prompt))
        finite("timeout_s", self.timeout_s)
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
