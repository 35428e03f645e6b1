"""Mapping a segment read-only: the client's and the broker's side."""

import mmap
import os
import stat
from pathlib import Path

from isal import isal_zlib

from difs.errors import LeaseLost, RemoteProtocolError
from difs.shm import layout


class SegmentReader:
    """A segment, mapped read-only."""

    def __init__(self, path: Path) -> None:
        """Map the segment at `path`; raises RemoteProtocolError when it is none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
            raise RemoteProtocolError(f"cannot open the image segment: {error}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or os.pread(fd, 8, 0) != layout.SEGMENT_MAGIC:
                raise RemoteProtocolError("the named file is no image segment")
            self._map = mmap.mmap(fd, info.st_size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)

    def header(self, offset: int) -> layout.Header | None:
        """Return the slot header at `offset`; None when nothing is sealed there."""
        if not 0 <= offset <= len(self._view) - layout.HEADER_BYTES:
            raise RemoteProtocolError(f"offset {offset} lies outside of the segment")
        return layout.unpack(self._view[offset : offset + layout.HEADER_BYTES])

    def image(self, offset: int, nbytes: int, generation: int) -> memoryview:
        """Return the image's bytes, without a copy; raises LeaseLost when the slot was reused."""
        self.check(offset, generation)
        return self.bytes_at(offset + layout.HEADER_BYTES, nbytes)

    def bytes_at(self, start: int, nbytes: int) -> memoryview:
        """Return `nbytes` bytes from `start` on, without a copy and without a look at any header."""
        if not 0 <= start <= start + nbytes <= len(self._view):
            raise RemoteProtocolError(f"{nbytes} bytes at {start} lie outside of the segment")
        return self._view[start : start + nbytes]

    def check(self, offset: int, generation: int) -> None:
        """Raise LeaseLost unless the slot at `offset` still holds `generation`."""
        found = self.header(offset)
        if found is None or found.generation != generation:
            raise LeaseLost("the image's shared-memory slot was given back and used again")


def matches(data: memoryview, crc: int) -> bool:
    """Whether `data` has the CRC-32 (IEEE 802.3, as zlib's) `crc`."""
    return isal_zlib.crc32(data) == crc
