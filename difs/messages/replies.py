"""What the broker answers to a request for images: plans, progress, results and errors.

What it tells of itself is in `difs.messages.reports`.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from difs.messages.limits import Format, MemoryMode, SeedContract
from difs.messages.requests import Requirements


class Prediction(Struct, frozen=True, omit_defaults=True):
    """Predicted seconds of each part of a request, and where the costs come from."""

    queue_s: float
    load_s: float
    encode_s: float
    steps_s: float
    decode_s: float
    total_s: float
    source: Literal["measured", "estimated", "assumed"]
    later_s: float = 0.0
    """The part of `queue_s` that stands for those who come later, and for messages and the hand-over; see
    `difs.policy.lateness`."""


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


class Done(Struct, frozen=True, omit_defaults=True, tag="done"):
    """An admin message was taken."""

    what: str
