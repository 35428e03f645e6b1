"""A private service for one caller: started, waited for, and stopped again.

`difs generate` uses it where no service runs; tests and benches use it too.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from difs.errors import Unavailable
from difs.rundir import RunDir
from difs.shm import reaper

POLL_S = 0.02
STOP_S = 40.0


PREFIX = f"difs-{os.getuid()}-private-"


def _folder() -> Path:
    return Path(tempfile.gettempdir())


def _reap() -> None:
    """Remove the run directories of private services whose owner was killed."""
    for left in _folder().glob(f"{PREFIX}*"):
        tag = left.name.removeprefix(PREFIX).rpartition(".")[0]
        pid = tag.partition(".")[0]
        if pid.isdecimal() and reaper.process_tag(int(pid)) != tag:
            shutil.rmtree(left, ignore_errors=True)


class PrivateService:
    """A `difs serve` of our own in a temporary run directory; dies with this process."""

    def __init__(self, options: Sequence[str] = (), *, wait_s: float = 300.0) -> None:
        """`options` are those of `difs serve`; `wait_s` bounds the wait for readiness."""
        self._options = list(options)
        self._wait_s = wait_s
        tag = reaper.process_tag(os.getpid())
        self.home = RunDir(_folder() / f"{PREFIX}{tag}.{secrets.token_hex(6)}")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return the address for clients."""
        return self.home.clients

    def start(self) -> None:
        """Start and wait until every device is ready; raises Unavailable with the log's end."""
        _reap()
        self.home.make()
        command = [
            *(sys.executable, "-m", "difs", "serve"),
            *("--run-dir", str(self.home.path), "--parent-pid", str(os.getpid())),
            *("--ready-file", str(self._ready_file)),
            *self._options,
        ]
        with self.home.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + self._wait_s
        while not self._ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.home.log.read_text("utf-8", "replace")
                self.stop()
                raise Unavailable(f"the private service did not become ready:\n{text[-2000:]}")
            time.sleep(POLL_S)

    @property
    def _ready_file(self) -> Path:
        return self.home.path / "ready"

    def stop(self) -> int:
        """Drain and remove everything; returns the exit status."""
        status = 0
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                status = self.process.wait()
            self.process = None
        shutil.rmtree(self.home.path, ignore_errors=True)
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
