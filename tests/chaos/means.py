"""What this machine lets a run do: a small tmpfs of its own, a memory cgroup. Said where it does not."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
TMPFS_SIZE = "192m"
LIMIT_BYTES = 64 * 2**20


def can_mount() -> bool:
    """Whether a private mount namespace with a tmpfs is to be had."""
    try_it = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    try:
        return subprocess.run(try_it, capture_output=True, check=False, timeout=10).returncode == 0
    except OSError:
        return False


def mount_tmpfs(folder: Path) -> None:
    """Mount a small tmpfs; only within a mount namespace of our own."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE},mode=700", "tmpfs", str(folder)]
    subprocess.run(command, check=True, timeout=10)


class MemoryGroup:
    """A memory cgroup (of version 1 or 2) that processes can be put into."""

    def __init__(self, path: Path, limit_file: str) -> None:
        self.path = path
        self._limit_file = limit_file

    def squeeze(self, pid: int) -> None:
        """Let a process have little more memory than it has; much more ends it."""
        (self.path / self._limit_file).write_text(str(LIMIT_BYTES))
        with contextlib.suppress(OSError):  # it may have ended just now
            (self.path / "cgroup.procs").write_text(str(pid))


def _make_group() -> MemoryGroup | None:
    for root, limit_file in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        path = root / f"difs-chaos-{os.getpid()}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            path.mkdir()
            if (path / limit_file).exists():
                return MemoryGroup(path, limit_file)
            path.rmdir()
    return None


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup | None]:
    """Yield a new group, or None where we may make none."""
    group = _make_group()
    try:
        yield group
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                group.path.rmdir()
