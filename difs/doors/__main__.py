"""The door's process: `python -m difs.doors RUN_DIR LISTENING_FD PARENT_PID`."""

import functools
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from difs import logs, processes
from difs.client import AsyncClient
from difs.clock import MonotonicClock
from difs.doors import address, app
from difs.doors.patience import PatientProtocol
from difs.errors import ConfigError
from difs.rundir import RunDir

MOST_CONNECTIONS = 1024
HEAD_BYTES = 32 * 1024
KEEP_ALIVE_S = 30
END_S = 3
"""How long open answers may take when the service ends."""


def main(run_dir: str, fd: str, parent_pid: str) -> None:
    """Serve until terminated."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.die_with_parent(int(parent_pid))
    processes.set_name("difs-http")
    os.umask(0o077)
    _allow_files(2 * MOST_CONNECTIONS)
    home = RunDir(Path(run_dir))
    settings, _ = home.read_facts()
    logs.to_stderr("http", settings.service.log_level, settings.service.log_format)
    try:
        rules = address.watched(settings.http)
    except ConfigError as error:
        sys.exit(error.message)
    made = app.make(functools.partial(AsyncClient, home.clients), MonotonicClock(), rules)
    listener = socket.socket(fileno=int(fd))
    server = uvicorn.Server(
        uvicorn.Config(
            made,
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=END_S,
        )
    )
    server.run(sockets=[listener])


def _allow_files(count: int) -> None:
    """Let this process open so many files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
