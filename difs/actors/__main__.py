"""The actor process: `python -m difs.actors RUN_DIR DEVICE THREADS PARENT_PID`."""

import logging
import os
import sys
from pathlib import Path

from difs import catalogue, config, logs, processes, telemetry
from difs.actor_messages import Resident
from difs.actors.actor import Actor
from difs.actors.awake import Cores
from difs.actors.delivery import Easel
from difs.actors.engine import Engine
from difs.actors.link import Link
from difs.catalogue import Library
from difs.clock import MonotonicClock
from difs.errors import DifsError
from difs.profiling import store
from difs.repository import Repository
from difs.rundir import RunDir
from difs.shm.writer import SegmentWriter

log = logging.getLogger("difs.actors")


def make_engine(
    device: str,
    threads: int,
    settings: config.Config,
    library: Library,
    *,
    easel: Easel,
    link: Link,
    profiled: tuple[Resident, ...],
) -> Engine:
    """Return the engine for a device: torch, or the simulated one."""
    clock = MonotonicClock()
    if telemetry.kind_of(device) == "simulated":
        from difs.actors.simulated import SimulatedEngine, parse_script

        return SimulatedEngine(
            parse_script(settings.actors.script),
            library,
            easel,
            clock,
            max_rows=settings.actors.max_rows,
            device=device,
            memory_bytes=settings.actors.memory_budget,
        )
    from difs.actors.torch_engine import TorchEngine

    return TorchEngine(
        device,
        library,
        easel,
        clock,
        settings.actors,
        threads=threads,
        wake=link.wake,
        profiled=profiled,
    )


def profiles_here(
    device: str, threads: int, found: Repository, settings: config.Config
) -> tuple[Resident, ...]:
    """Return what the profiled variants would be on a device; a simulated one has its script."""
    if telemetry.kind_of(device) == "simulated":
        from difs.actors.simulated import parse_script, profiled

        return profiled(parse_script(settings.actors.script), found.variants.values())
    residents = store.residents(found.variants.values(), store.device_facts(device, threads))
    log.info("profiles of %d variants are valid here", len({found.variant for found in residents}))
    return residents


def preloads(settings: config.Config, found: Repository) -> list[str]:
    """Return the variants to load at start: those that are configured, `*` for all that are shipped."""
    names = settings.actors.preload
    shipped = sorted(name for name, variant in found.variants.items() if not variant.is_users)
    return shipped if "*" in names else list(names)


def main(run_dir: str, device: str, threads: str, parent_pid: str) -> int:
    """Serve until told to stop; returns the exit status."""
    processes.die_with_parent(int(parent_pid))
    processes.set_name(f"difs-{device}")
    processes.collect_rarely()  # torch's imports alone make millions of objects
    home = RunDir(Path(run_dir))
    settings, segments = home.read_facts()
    logs.to_stderr(device, settings.service.log_level, settings.service.log_format)
    shelves = catalogue.open_for(settings)
    clock, sharers = MonotonicClock(), settings.actors.memory_sharers
    link = Link(home.actors)
    try:
        with SegmentWriter(segments[device]) as writer:
            easel = Easel(writer, link.wake)
            profiled = profiles_here(device, int(threads), shelves.found, settings)
            engine = make_engine(
                device, int(threads), settings, shelves, easel=easel, link=link, profiled=profiled
            )
            read = telemetry.reader(
                device,
                settings.actors.memory_budget,
                held=engine.held_bytes,
                others=lambda: engine.others_bytes() + telemetry.resident_bytes(sharers),
            )
            actor = Actor(
                device,
                engine,
                link,
                clock,
                pid=os.getpid(),
                max_credits=settings.actors.credits,
                profiled=profiled,
                read=read,
                cores=Cores(settings.actors.awake) if telemetry.kind_of(device) == "cpu" else None,
            )
            processes.collect_rarely()  # what was imported is looked at no more
            link.start_pulse(read, lambda: actor.progress)
            return actor.live(preloads(settings, shelves.found))
    except DifsError as error:
        log.error("%s", error)
        return processes.EXIT_CONFIG
    finally:
        link.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
