"""Files that appear whole or not at all, and stay after a power cut. Not: where they belong."""

import os
import tempfile
from pathlib import Path


def write(path: Path, data: bytes, prefix: str = ".") -> None:
    """Write a file in one go: a reader sees the old one or the new one, never a part; raises OSError.

    Killed in the middle, it leaves at most a file beside it whose name begins with `prefix`.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name as durable as what it names (fsync(2): the folder needs one of its own)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
