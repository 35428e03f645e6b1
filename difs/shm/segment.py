"""Making a segment: the supervisor's side. What actors write into it is `difs.shm.writer`'s.

A segment is a file of its own on tmpfs, allocated whole when made, so that a full tmpfs is an error
at start and never a SIGBUS later. `multiprocessing.shared_memory` is not used: its resource tracker
unlinks segments under their owner.
"""

import errno
import os
import secrets
from pathlib import Path

from difs.errors import ConfigError
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
