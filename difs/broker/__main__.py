"""The broker process: `python -m difs.broker RUN_DIR PARENT_PID`."""

import logging
import os
import secrets
import signal
import sys
from pathlib import Path

from difs import catalogue, config, logs, processes
from difs.autoscaler import registry as planners
from difs.broker.books import Segment
from difs.broker.loop import BrokerLoop
from difs.broker.remote import RemoteDoor
from difs.broker.scaler import Scaling
from difs.broker.state import BrokerState
from difs.broker.watcher import Watcher
from difs.clock import MonotonicClock
from difs.errors import ConfigError, Unavailable
from difs.keys import KeyRing
from difs.policy import registry
from difs.policy.base import Options
from difs.rundir import RunDir
from difs.shm import layout

log = logging.getLogger("difs.broker")


def main(run_dir: str, parent_pid: str) -> None:
    """Serve until drained."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.die_with_parent(int(parent_pid))
    processes.set_name("difs-broker")
    os.umask(0o077)  # for the sockets; the run directory is private already
    home = RunDir(Path(run_dir))
    settings, segments = home.read_facts()
    logs.to_stderr("broker", settings.service.log_level, settings.service.log_format)
    shelves = catalogue.open_for(settings)
    found = shelves.found
    for problem in found.problems:
        log.warning("not registered: %s", problem)
    plan = layout.plan(config.slot_classes(settings.shm))
    clock = MonotonicClock()
    planner = planners.configured(settings.autoscaler, settings.actors.parking_budget)
    state = BrokerState(
        rules=settings.broker,
        policy=registry.load(
            settings.policy.name,
            Options(settings.policy.variant, settings.policy.light, settings.policy.heavy),
        ),
        variants={name: variant.info() for name, variant in found.variants.items()},
        adapters={name: adapter.info() for name, adapter in found.adapters.items()},
        segments={device: Segment(str(path), plan) for device, path in segments.items()},
        epoch=secrets.randbits(31),
        now=clock.now(),
        scaler=Scaling(*planner) if planner is not None else None,
    )
    network = settings.network
    try:
        loop = BrokerLoop(
            state,
            clock,
            clients=home.clients,
            actors=home.actors,
            segments=segments,
            patience_s=settings.broker.send_patience,
            watcher=Watcher(shelves),
            door=RemoteDoor(network, KeyRing(config.keys_dir(settings))) if network.listen else None,
        )
    except ConfigError as error:
        log.error("%s", error)
        sys.exit(processes.EXIT_CONFIG)  # no restart mends that
    except Unavailable as error:
        log.error("%s", error)
        sys.exit(os.EX_UNAVAILABLE)
    processes.collect_rarely()
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
