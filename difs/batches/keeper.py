"""The supervisor's side of batches: keeps the worker running while it is called for.

It performs what `difs.batches.keeping` decides. Called from the supervisor's main thread only: the worker
dies with the thread that started it.
"""

import logging
import os
import subprocess
import sys

from difs import config
from difs.batches import store
from difs.batches.keeping import Keeping
from difs.rundir import RunDir

log = logging.getLogger("difs.supervisor")


class Keeper:
    """The worker of one service."""

    def __init__(self, home: RunDir, service: config.Service) -> None:
        """Nothing is started; `service` says how the worker logs."""
        self._home = home
        self._manner = [service.log_level, service.log_format]
        self._keeping = Keeping()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_open = False

    def open(self) -> None:
        """Call the worker once if there is a database: an earlier life may have left work in it."""
        if not self._is_open and store.place().exists():
            self._home.call_batches()
        self._is_open = True

    def look(self, now: float, *, is_draining: bool) -> None:
        """Bury, start or stop the worker, as it is due."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self._process = None
            self._keeping.ended(status, now)
            log.log(logging.WARNING if status else logging.DEBUG, "batches ended with status %d", status)
        match self._keeping.decide(
            now, is_called=self._home.batch_call.exists(), is_draining=is_draining
        ):
            case "start":
                self._start(now)
            case "stop" if self._process is not None:
                self._process.terminate()

    def _start(self, now: float) -> None:
        named = [str(self._home.path), str(os.getpid()), *self._manner]
        command = [sys.executable, "-m", "difs.batches", *named]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:  # no process or memory to be had: the service goes on without batches
            log.warning("batches cannot be started: %s", error)
            self._keeping.ended(os.EX_OSERR, now)
            return
        self._keeping.started()
        log.info("batches started as process %d", self._process.pid)

    def close(self) -> None:
        """End the worker at once: what was under way begins anew another time."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
