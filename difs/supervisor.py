"""The supervisor: starts broker and actors, watches them, owns the shared memory, cleans up.

It performs what `difs.supervision` decides. Children are started from the main thread only: they die
with the thread that made them.
"""

import contextlib
import importlib.util
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec
import zmq

from difs import config, processes, repository, telemetry, wire
from difs.actor_messages import ActorExited, DrainAll, Excuse, Fleet, KillActor, Supervise
from difs.batches.keeper import Keeper
from difs.clock import MonotonicClock
from difs.doors import address
from difs.errors import ConfigError, DifsError
from difs.policy import registry
from difs.rundir import RunDir
from difs.shm import layout, reaper, segment
from difs.supervision import DOOR, METRICS, Action, Finish, Kill, Spawn, Supervision, Terminate

log = logging.getLogger("difs.supervisor")

REINTRODUCE_S = 1.0


class Supervisor:
    """One running service."""

    def __init__(
        self,
        settings: config.Config,
        home: RunDir,
        on_ready: Callable[[tuple[str, ...]], None],
        door: socket.socket | None = None,
    ) -> None:
        """`on_ready` is called once, when all devices are ready that were not given up.

        `door` is where the HTTP door listens, None for no such door.
        """
        self._settings = settings
        self._home = home
        self._on_ready: Callable[[tuple[str, ...]], None] | None = on_ready
        self._clock = MonotonicClock()
        self._devices = telemetry.discover(settings.actors.devices)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, str] = {}
        self._heard_at = 0.0
        self._door = door
        beside = [METRICS] if settings.metrics.port else []
        beside += [DOOR] if door is not None else []
        self._plan = Supervision(
            settings.supervisor, self._devices, self._clock.now(), beside=tuple(beside)
        )
        self._batches = Keeper(home, settings.service)

    def run(self) -> int:
        """Serve until stopped; returns the exit status."""
        with self._resources() as (poller, link):
            while True:
                now = self._clock.now()
                for action in self._plan.decide(now):
                    if isinstance(action, Finish):
                        log.log(logging.ERROR if action.status else logging.INFO, "%s", action.reason)
                        return action.status
                    self._perform(action, poller)
                self._batches.look(now, is_draining=self._plan.is_draining)
                wait_s = max(0.0, self._plan.next_wake(now) - now)
                for fd, _ in poller.poll(int(wait_s * 1000) + 1):
                    if fd is link:
                        self._listen(link)
                    elif fd in self._pidfds:
                        self._bury(self._pidfds[fd], poller, link)
                    else:
                        self._signalled(link)
                if self._clock.now() - self._heard_at > REINTRODUCE_S:
                    self._introduce(link)

    # ---- resources ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _resources(self) -> "Iterator[tuple[zmq.Poller, zmq.Socket[bytes]]]":
        """Make segments, sockets and signal handlers; nothing of them stays behind."""
        shm_dir = Path(self._settings.shm.dir)
        for left in reaper.reap(shm_dir):
            log.info("removed what a dead service left: %s", left.name)
        self._home.clear()
        segments = segment.make_home(shm_dir)
        with contextlib.ExitStack() as stack:
            stack.callback(self._home.clear)
            stack.callback(shutil.rmtree, segments, ignore_errors=True)
            plan = layout.plan(config.slot_classes(self._settings.shm))
            made = {device: str(segment.create(segments, plan)) for device in self._devices}
            self._home.write_facts(self._settings, made)
            stack.callback(self._end_all)
            stack.callback(self._batches.close)
            context = zmq.Context()
            stack.callback(context.destroy, linger=200)
            link = context.socket(zmq.DEALER)
            link.connect(self._home.actors)
            poller = zmq.Poller()
            poller.register(link, zmq.POLLIN)
            self._signals = Signals()
            stack.callback(self._signals.close)
            poller.register(self._signals.fileno(), zmq.POLLIN)
            self._introduce(link)
            yield poller, link

    def _end_all(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for fd in self._pidfds:
            os.close(fd)

    # ---- children -------------------------------------------------------------------------------

    def _perform(self, action: Action, poller: zmq.Poller) -> None:
        match action:
            case Spawn(name):
                self._spawn(name, poller)
            case Kill(name, reason):
                log.warning("%s is killed: %s", name, reason)
                self._processes[name].kill()
            case Terminate(name):
                self._processes[name].terminate()

    def _spawn(self, name: str, poller: zmq.Poller) -> None:
        run_dir, me = str(self._home.path), str(os.getpid())
        fds: tuple[int, ...] = ()
        if name in self._devices:
            words = ["difs.actors", run_dir, name, str(self._threads(name)), me]
        elif name == DOOR:
            assert self._door is not None
            fds = (self._door.fileno(),)
            words = ["difs.doors", run_dir, str(self._door.fileno()), me]
        else:
            words = ["difs.metrics" if name == METRICS else "difs.broker", run_dir, me]
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=self._environment(name),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=fds,
        )
        fd = os.pidfd_open(process.pid)
        self._processes[name] = process
        self._pidfds[fd] = name
        poller.register(fd, zmq.POLLIN)
        self._plan.started(name, self._clock.now())
        log.info("%s started as process %d", name, process.pid)

    def _threads(self, device: str) -> int:
        """Return an actor's threads: as configured, else its share of the cores."""
        if self._settings.actors.threads:
            return self._settings.actors.threads
        return (
            processes.cores_share(len(self._devices)) if telemetry.kind_of(device) != "simulated" else 1
        )

    def _environment(self, name: str) -> dict[str, str]:
        computes = name in self._devices
        return processes.computing_environment(self._threads(name)) if computes else dict(os.environ)

    def _bury(self, name: str, poller: zmq.Poller, link: "zmq.Socket[bytes]") -> None:
        """Take note of a child that is gone, and tell the broker."""
        process = self._processes.pop(name)
        status = process.wait()
        for fd in [fd for fd, owner in self._pidfds.items() if owner == name]:
            poller.unregister(fd)
            os.close(fd)
            del self._pidfds[fd]
        reason = f"{name} {_how_it_ended(status)}"
        log.log(logging.INFO if self._plan.is_draining else logging.WARNING, "%s", reason)
        self._plan.exited(name, self._clock.now(), random.random(), status=status)
        if name in self._devices:
            self._send(link, ActorExited(name, process.pid, reason, _in_a_word(status)))
        if why := self._plan.children[name].given_up:
            log.error("%s is given up: %s", name, why)

    # ---- messages -------------------------------------------------------------------------------

    def _introduce(self, link: "zmq.Socket[bytes]") -> None:
        self._heard_at = self._clock.now()
        self._send(link, Supervise(os.getpid()))

    def _send(self, link: "zmq.Socket[bytes]", message: msgspec.Struct) -> None:
        with contextlib.suppress(zmq.Again):  # the broker is away; it learns from the next actor
            link.send_multipart(wire.encode(message), zmq.DONTWAIT)

    def _listen(self, link: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                message = wire.decode_to_supervisor(link.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            except DifsError as error:
                log.error("the broker broke the protocol: %s", error)
                continue
            if isinstance(message, Fleet):
                self._hear(message)
            elif isinstance(message, KillActor):
                self._kill(message)
            else:
                self._excuse(message)

    def _hear(self, fleet: Fleet) -> None:
        self._heard_at = self._clock.now()
        self._plan.heard(fleet.ready, self._heard_at, fleet.proven)
        if fleet.ready:
            self._batches.open()
        if self._on_ready is not None and self._plan.is_complete(fleet.ready):
            self._on_ready(fleet.ready)
            self._on_ready = None

    def _excuse(self, message: Excuse) -> None:
        for name in message.devices:
            self._plan.excused(name, self._clock.now())

    def _kill(self, message: KillActor) -> None:
        process = self._processes.get(message.device)
        if process is not None and process.pid == message.pid:
            log.warning("%s is killed: %s", message.device, message.reason)
            process.kill()

    def _signalled(self, link: "zmq.Socket[bytes]") -> None:
        for _ in range(self._signals.take()):
            again = self._plan.is_draining
            log.info("stopping at once" if again else "draining; a second signal stops at once")
            self._plan.asked_to_stop(self._clock.now())
            if not again:
                self._send(link, DrainAll(self._settings.supervisor.drain))


class Signals:
    """SIGTERM and SIGINT as something that can be polled (signal.set_wakeup_fd)."""

    def __init__(self) -> None:
        """Take the signals over."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old = {n: signal.signal(n, _ignore) for n in (signal.SIGTERM, signal.SIGINT)}
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def take(self) -> int:
        """Return how many signals came since the last time."""
        return len(self._reader.recv(64))

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor tells."""


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return "left" if status == 0 else f"exited with status {status}"


def _in_a_word(status: int) -> str:
    if status < 0:
        return signal.Signals(-status).name
    return "left" if status == 0 else f"status_{status}"


def serve(settings: config.Config, on_ready: Callable[[tuple[str, ...]], None]) -> int:
    """Run a service until it is stopped; returns the exit status.

    Raises ConfigError (AlreadyRunning too) before anything is started when it cannot run.
    """
    settings = msgspec.structs.replace(
        settings,
        service=msgspec.structs.replace(
            settings.service,
            model_repo=str(repository.locate(settings.service.model_repo)),
            user_repo=str(config.user_repo(settings)),
        ),
    )
    registry.load(settings.policy.name)
    if settings.metrics.port and importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError("metrics.port needs prometheus-client; install it, or difs[metrics]")
    if settings.http.listen:
        address.check(settings.http)
    home = RunDir(config.run_dir(settings))
    home.make()
    lock = home.take()
    try:
        with contextlib.ExitStack() as stack:
            door = stack.enter_context(address.listen(settings.http)) if settings.http.listen else None
            if door is not None:
                log.info("HTTP at %s", address.url(door))
            return Supervisor(settings, home, on_ready, door).run()
    finally:
        os.close(lock)
