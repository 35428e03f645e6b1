"""An actor's side of a segment: places to paint into, and the seal that makes an image of one.

Segments are made in `difs.shm.segment`, for which nobody needs numpy.
"""

import contextlib
import math
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from difs.actor_messages import Sealed, Slot
from difs.errors import InternalError
from difs.shm import layout


class SegmentWriter:
    """An actor's view of its segment."""

    def __init__(self, path: Path) -> None:
        """Map the segment at `path`, every page touched."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._map = mmap.mmap(fd, os.fstat(fd).st_size, flags=flags)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)

    def whole(self) -> NDArray[np.uint8]:
        """Return the mapped segment, to be registered with a device."""
        return np.frombuffer(self._map, np.uint8)

    def canvas(self, slot: Slot, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Return the slot's place for an image of `shape` (height, width, channels), to be written into.

        No reader takes what is there for whole until `seal`.
        """
        nbytes = math.prod(shape)
        body = self._begin(slot, nbytes)
        return np.frombuffer(self._map, np.uint8, nbytes, body).reshape(shape)

    def seal(self, slot: Slot, nbytes: int, shape: tuple[int, int, int]) -> Sealed:
        """Make the first `nbytes` bytes of the slot an image; `shape` is (height, width, channels)."""
        body = slot.offset + layout.HEADER_BYTES
        crc = isal_zlib.crc32(self._view[body : body + nbytes])
        header = layout.pack(layout.Header(slot.generation, nbytes, crc, *shape))
        self._view[slot.offset : slot.offset + len(header)] = header
        return Sealed(slot.index, nbytes, crc)

    def write(self, slot: Slot, data: memoryview, shape: tuple[int, int, int]) -> Sealed:
        """Write one image's bytes and seal them; `shape` is (height, width, channels)."""
        body = self._begin(slot, data.nbytes)
        self._view[body : body + data.nbytes] = data
        return self.seal(slot, data.nbytes, shape)

    def _begin(self, slot: Slot, nbytes: int) -> int:
        """Break the slot's seal and return where its image begins."""
        if nbytes > slot.nbytes:
            raise InternalError(f"{nbytes} bytes do not fit a slot of {slot.nbytes}")
        self._view[slot.offset : slot.offset + 8] = bytes(8)
        return slot.offset + layout.HEADER_BYTES

    def close(self) -> None:
        """Unmap; what is still being written into a canvas keeps the mapping until it is done."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
