"""Starts the process that measures, and passes on what it reports. No torch here."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from difs import processes
from difs.errors import EngineFailed
from difs.profiling import reports
from difs.profiling.reports import Doing, Order, Report

STOP_S = 10.0


def run(order: Order) -> Iterator[Report]:
    """Measure in a process of its own, in an actor's environment; closing the iterator ends it.

    Raises EngineFailed when the process breaks; what it had measured is kept.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "difs.profiling"),
            msgspec.json.encode(order).decode(),
            str(os.getpid()),
        ],
        env=processes.computing_environment(order.threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other
    )
    assert process.stdout is not None
    at = "its start"
    try:
        for line in process.stdout:
            report = reports.decode(line)
            if isinstance(report, Doing):
                at = f"{report.variant}, {report.what}"
            yield report
        status = process.wait()
    finally:
        process.terminate()
        process.stdout.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if status:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
        raise EngineFailed(f"the process that measures {how} at {at}; what was measured before is kept")
