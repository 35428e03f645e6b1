"""The folder that a batch paints into: the one door to its files.

A file that has its name is whole: it is written aside and renamed. Names come from `difs.batches.lines`.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from difs import whole


def prepare(folder: Path, files: Iterable[str]) -> None:
    """Make the folder, and refuse one that cannot be written or has any of `files`; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    there = set(os.listdir(folder))
    for name in files:
        if name in there:
            words = "there is such a file already, and a batch overwrites none; choose another folder"
            raise FileExistsError(errno.EEXIST, words, str(folder / name))


def free_bytes(folder: Path) -> int:
    """Return how much may still be written; raises OSError, also where the folder is gone."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def missing(folder: Path, files: Sequence[str]) -> list[str]:
    """Return which of `files` are not there."""
    return [name for name in files if not (folder / name).is_file()]


def keep(folder: Path, batch: str, name: str, data: bytes) -> None:
    """Put a file in place, whole and synced; raises OSError."""
    whole.write(folder / name, data, _prefix(batch))


def sweep(folder: Path, batch: str) -> None:
    """Remove what a killed worker left half-written for a batch."""
    with suppress(OSError):
        for left in folder.iterdir():
            if left.name.startswith(_prefix(batch)):
                left.unlink(missing_ok=True)


def _prefix(batch: str) -> str:
    return f".difs-{batch}-"
