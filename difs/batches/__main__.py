"""The worker: `python -m difs.batches RUN_DIR PARENT_PID LEVEL FORM`, started by `difs serve`."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from pathlib import Path

from difs import logs, processes
from difs.batches import store
from difs.batches.store import Store
from difs.errors import DifsError
from difs.rundir import RunDir

log = logging.getLogger("difs.batches")

NICENESS = 5
"""Files are written beside what others compute."""


def main(arguments: list[str]) -> int:
    """Paint what waits in a service; returns the exit status."""
    path, parent_pid, level, form = arguments
    processes.die_with_parent(int(parent_pid))
    processes.set_name("difs batches")
    logs.to_stderr("batches", level, "json" if form == "json" else "human")
    os.nice(NICENESS)
    home = RunDir(Path(path))
    lock = os.open(home.batch_lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # until a predecessor that was killed is really gone
    try:
        with Store(store.place()) as opened:
            home.batch_call.unlink(missing_ok=True)  # before the look: who submits calls after it wrote
            if opened.open_in(str(home.path)):
                asyncio.run(_work(opened, home))
    except (OSError, DifsError) as error:
        log.error("%s", error)
        return os.EX_IOERR
    return 0


async def _work(opened: Store, home: RunDir) -> None:
    """Paint until nothing waits, or until the service asks us to end."""
    from difs.batches.runner import Runner  # noqa: PLC0415 -- most often there is nothing to do
    from difs.client import AsyncClient  # noqa: PLC0415
    from difs.clock import MonotonicClock  # noqa: PLC0415

    async with AsyncClient(home.clients) as client:
        runner = Runner(opened, str(home.path), client, MonotonicClock())
        work = asyncio.create_task(runner.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
