"""Limits of the protocol, the types of its fields, and what refuses a value that a type allows.

No messages: those are in the files beside this one.
"""

import math
import unicodedata
from typing import Annotated, Literal

from msgspec import Meta

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


def finite(name: str, value: float | None) -> None:
    """Refuse NaN and infinities: raises Bad."""
    if value is not None and not math.isfinite(value):
        raise Bad(f"{name}: must be a finite number, got {value}")


def text(name: str, value: str) -> str:
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
