"""Finding and removing what dead owners left in shared memory.

Segments lie in `<shm dir>/difs-<uid>/<pid>.<start time>.<random>/`; the start time tells a process
from a later one with the same number.
"""

import os
import shutil
import stat
from pathlib import Path

from difs.errors import ConfigError


def owners_root(shm_dir: Path) -> Path:
    """Return the folder of this user's segments below `shm_dir`, made private if it is new."""
    root = shm_dir / f"difs-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"shm.dir: cannot make {root}: {error.strerror}") from None
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise ConfigError(f"{root} must be a folder of yours with mode 0700; remove it")
    return root


def process_tag(pid: int) -> str | None:
    """Return `<pid>.<start time>` of a living process, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    state, start_ticks = fields[0], fields[19]
    return None if state in "XZ" else f"{pid}.{start_ticks}"


def reap(shm_dir: Path) -> list[Path]:
    """Remove the segments of dead owners; returns the folders removed."""
    removed = []
    for home in owners_root(shm_dir).iterdir():
        pid, _, _ = home.name.partition(".")
        tag = home.name.rpartition(".")[0]
        if home.is_symlink() or not pid.isdecimal() or process_tag(int(pid)) == tag:
            continue
        shutil.rmtree(home, ignore_errors=True)
        removed.append(home)
    return removed
