"""A message's frames as they go between the door and the nodes. Pure."""

from collections.abc import Sequence

import msgspec

from difs import wire

Frames = list[bytes]


def framed(message: msgspec.Struct, payloads: Sequence[wire.Frame] = ()) -> Frames:
    """Return a message's frames as bytes: a view of memory cannot leave its process."""
    return [bytes(frame) for frame in wire.encode(message, payloads)]
