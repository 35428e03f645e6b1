"""The run directory: the private place where one running service keeps its sockets, lock and logs.

The only door to the paths in it.
"""

import fcntl
import os
import stat
import time
from pathlib import Path

import msgspec

from difs import config
from difs.errors import ConfigError, Unavailable

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (unix(7): sun_path is 108 with its final NUL)."""


LOCK_TRIES, LOCK_REST_S = 5, 0.01


class AlreadyRunning(ConfigError):
    """Another service holds the lock of this run directory."""


def _locked(fd: int) -> bool:
    """Take the exclusive lock; one that `is_running` holds for a moment is waited for."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(LOCK_REST_S)
        else:
            return True
    return False


class RunDir:
    """The paths of one service."""

    def __init__(self, path: Path) -> None:
        """Name the paths below `path`; nothing is touched."""
        self.path = path
        self.lock = path / "lock"
        self.config = path / "config.json"
        self.segments = path / "segments.json"
        self.log = path / "difs.log"
        self.batch_call = path / "batches"
        self.batch_lock = path / "batches.lock"
        self._clients = path / "clients.sock"
        self._actors = path / "actors.sock"

    @property
    def clients(self) -> str:
        """Return the ZeroMQ address of the clients' socket."""
        return f"ipc://{self._clients}"

    @property
    def actors(self) -> str:
        """Return the ZeroMQ address of the actors' socket."""
        return f"ipc://{self._actors}"

    def make(self) -> None:
        """Make the directory private to this user; raises ConfigError when it cannot be."""
        longest = len(os.fsencode(self._clients))
        if longest > MAX_SOCKET_PATH:
            raise ConfigError(
                f"service.run_dir: {longest} bytes in a socket's path, {MAX_SOCKET_PATH} are possible;"
                " choose a shorter directory"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"service.run_dir: cannot make {self.path}: {error.strerror}") from None
        info = self.path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise ConfigError(f"service.run_dir: {self.path} must be a folder of yours with mode 0700")

    def take(self) -> int:
        """Lock the directory for this process's life; raises AlreadyRunning. Returns the lock's fd."""
        try:
            fd = os.open(self.lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"service.run_dir: cannot lock {self.lock}: {error.strerror}") from None
        if not _locked(fd):
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"DIFS is running already in {self.path} (process {holder or 'unknown'});"
                " stop it, or choose another --run-dir"
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd

    def is_running(self) -> bool:
        """Whether a service holds the lock."""
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def write_facts(self, settings: config.Config, segments: dict[str, str]) -> None:
        """Write what child processes need to know."""
        self.config.write_bytes(config.dump(settings))
        self.segments.write_bytes(msgspec.json.encode(segments))

    def read_facts(self) -> tuple[config.Config, dict[str, Path]]:
        """Return what `write_facts` wrote: the configuration and each device's segment."""
        try:
            settings = config.undump(self.config.read_bytes())
            named = msgspec.json.decode(self.segments.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(f"no service runs in {self.path}: {error}") from None
        return settings, {device: Path(path) for device, path in named.items()}

    def call_batches(self) -> None:
        """Have the supervisor start the worker of batches; that takes the call back when it looks."""
        self.batch_call.touch(mode=0o600)

    def clear(self) -> None:
        """Remove what a stopped service leaves; the lock file and the log stay."""
        for path in (self.config, self.segments, self._clients, self._actors):
            path.unlink(missing_ok=True)
