"""Where slots lie in a segment, and the header that stands before each image. Pure arithmetic.

A segment is one file: a page of its own header, then slots, smallest class first, each aligned to a
page. A slot is a 64-byte header, then the image's bytes. The header lets a reader notice that the
slot was used again; who owns a slot is known to the broker alone.
"""

import struct
from collections.abc import Sequence

from msgspec import Struct

PAGE_BYTES = 4096
HEADER_BYTES = 64
SEGMENT_MAGIC = b"DIFSSEG1"
SLOT_MAGIC = b"DIFSIMG1"

_HEADER = struct.Struct("<8sQQIIII")
"""magic, generation, nbytes, crc32, height, width, channels: little-endian, no padding."""


class SlotPlace(Struct, frozen=True):
    """A slot: where its header begins, and how many bytes of image it can hold."""

    index: int
    offset: int
    capacity_bytes: int


class Layout(Struct, frozen=True):
    """All slots of a segment and its size."""

    slots: tuple[SlotPlace, ...]
    total_bytes: int


class Header(Struct, frozen=True):
    """What stands before an image in its slot."""

    generation: int
    nbytes: int
    crc32: int
    height: int
    width: int
    channels: int


def plan(classes: Sequence[tuple[int, int]]) -> Layout:
    """Lay out `(capacity bytes, count)` classes, smallest first."""
    places: list[SlotPlace] = []
    offset = PAGE_BYTES
    for capacity, count in sorted(classes):
        for _ in range(count):
            places.append(SlotPlace(len(places), offset, capacity))
            offset += _aligned(HEADER_BYTES + capacity)
    return Layout(tuple(places), offset)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


def pack(header: Header) -> bytes:
    """Return the bytes of a slot header."""
    return _HEADER.pack(
        SLOT_MAGIC,
        header.generation,
        header.nbytes,
        header.crc32,
        header.height,
        header.width,
        header.channels,
    )


def unpack(data: bytes | memoryview) -> Header | None:
    """Read a slot header, or None when no sealed image stands there."""
    magic, *values = _HEADER.unpack_from(data)
    return Header(*values) if magic == SLOT_MAGIC else None


ENCODED_EXTRA_BYTES = 16 * 1024
"""Room for an image file's metadata: two prompts and a plan."""


def needed_bytes(height: int, width: int, channels: int, *, encoded: bool) -> int:
    """Return the bytes to lease for one image.

    An encoded file may outgrow its pixels: PNG adds a byte a row and five bytes a deflate block to
    what cannot be compressed (RFC 1951, 2083); a 64th more covers that from 64 pixels on.
    """
    raw = height * width * channels
    return raw + raw // 64 + ENCODED_EXTRA_BYTES if encoded else raw
