"""Making a segment and writing images into it: the supervisor's and the actor's side.

A segment is a file of its own on tmpfs, allocated whole when made, so that a full tmpfs is an error
at start and never a SIGBUS later. `multiprocessing.shared_memory` is not used: its resource tracker
unlinks segments under their owner.
"""

import errno
import mmap
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from difs.actor_messages import Sealed, Slot
from difs.errors import ConfigError, InternalError
from difs.shm import layout, reaper


def make_home(shm_dir: Path) -> Path:
    """Return a new private folder for this process's segments below `shm_dir`."""
    owner = reaper.owners_root(shm_dir)
    home = owner / f"{reaper.process_tag(os.getpid())}.{secrets.token_hex(8)}"
    home.mkdir(mode=0o700)
    return home


def create(home: Path, plan: layout.Layout) -> Path:
    """Make and allocate a segment of random name in `home`; raises ConfigError when it does not fit."""
    path = home / secrets.token_hex(16)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, plan.total_bytes)
        os.pwrite(fd, layout.SEGMENT_MAGIC, 0)
    except (OSError, OverflowError) as error:
        path.unlink()
        if isinstance(error, OSError) and error.errno not in (
            errno.ENOSPC,
            errno.ENOMEM,
            errno.EFBIG,
        ):
            raise
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        raise ConfigError(
            f"shm.slots need {plan.total_bytes} bytes in {home.parent.parent} but {free} are free;"
            " lower the counts in [shm.slots] or enlarge that tmpfs"
        ) from None
    finally:
        os.close(fd)
    return path


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

    def write(self, slot: Slot, data: memoryview, shape: tuple[int, int, int]) -> Sealed:
        """Write one image's bytes and seal them; `shape` is (height, width, channels)."""
        nbytes = data.nbytes
        if nbytes > slot.nbytes:
            raise InternalError(f"{nbytes} bytes do not fit a slot of {slot.nbytes}")
        head, body = slot.offset, slot.offset + layout.HEADER_BYTES
        self._view[head : head + 8] = bytes(8)  # no reader may take a half-written image for whole
        self._view[body : body + nbytes] = data
        crc = isal_zlib.crc32(data)
        header = layout.pack(layout.Header(slot.generation, nbytes, crc, *shape))
        self._view[head : head + len(header)] = header
        return Sealed(slot.index, nbytes, crc)

    def write_pixels(self, slot: Slot, pixels: NDArray[np.uint8]) -> Sealed:
        """Write an image of shape (height, width, channels)."""
        height, width, channels = pixels.shape
        flat = np.ascontiguousarray(pixels).data.cast("B")
        return self.write(slot, flat, (height, width, channels))

    def close(self) -> None:
        """Unmap."""
        self._view.release()
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
