"""The life of an actor process: start, load, warm up, ready, serve, drain, exit. One method each.

The loop of `serve`: take messages, do one unit of work, send the reports, for ever. It obeys the
broker and decides nothing but to announce itself again when the broker is silent.
"""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

from difs import rooms
from difs.actor_messages import (
    Abort,
    CancelLoad,
    Counted,
    EvictVariant,
    Execute,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Ready,
    Resident,
    Retiring,
    Stop,
    SwitchMode,
    ToActor,
    Welcome,
)
from difs.actors.awake import Cores
from difs.actors.engine import Engine
from difs.actors.link import Link
from difs.actors.reporting import Reporter
from difs.actors.units import DeviceBroken, Report
from difs.clock import Clock
from difs.errors import EngineFailed
from difs.messages import Reading

log = logging.getLogger(__name__)

EXIT_SOFTWARE = os.EX_SOFTWARE
"""70: the supervisor starts the actor anew."""
IDLE_WAIT_S = 0.25
CALM_S = 1.0
"""Variants for the start that nobody waits for are loaded when there was no work for so long."""
BROKER_SILENCE_S = 1.5
"""After this much silence the actor announces itself again: the broker may be a new one."""


class Actor:
    """One incarnation of an actor."""

    def __init__(
        self,
        device: str,
        engine: Engine,
        link: Link,
        clock: Clock,
        *,
        pid: int,
        max_credits: int,
        profiled: tuple[Resident, ...] = (),
        read: Callable[[], Reading] | None = None,
        cores: Cores | None = None,
    ) -> None:
        """Put the parts together; nothing runs yet. `profiled`: see `Ready`.

        `read`: looks at the device; None: nobody can tell how much memory there is. `cores`: are kept
        awake for the work; None: they do not do it.
        """
        self._device = device
        self._pid = pid
        self._engine = engine
        self._link = link
        self._clock = clock
        self._credits = max_credits
        self._profiled = profiled
        self._read = read
        self._cores = cores
        self._epoch: int | None = None
        self._heard_at = clock.now()
        self._is_draining = False
        self._has_retired = False
        self._wants_restart = False
        self._wanted: deque[str] = deque()
        self._worked_at = clock.now()
        self._reporter = Reporter()
        self.progress = 0
        """Units of work done; read by the heartbeat's thread."""

    def live(self, preload: Sequence[str]) -> int:
        """Go through all phases; returns the exit status."""
        try:
            self.load(preload)
            self.announce()
            self.serve()
        except DeviceBroken as error:
            log.error("the device is broken: %s", error)
            return EXIT_SOFTWARE
        self.leave()
        return EXIT_SOFTWARE if self._wants_restart else 0

    def load(self, variants: Sequence[str]) -> None:
        """Make the first variant that loads resident and warm; the others follow in calm moments.

        Raises DifsError when none loads.
        """
        self._wanted = deque(variants)
        problem = None
        self._rouse()
        while self._wanted and not self._engine.residents:
            self._engine.load(self._wanted.popleft())
            while not self._engine.is_idle:
                for report in self._engine.turn():
                    _tell(report)
                    if isinstance(report, LoadFailed):
                        problem = report.message
                self.progress += 1
                if not self._engine.is_busy:
                    self._link.pause(self.rest_s())
        if problem is not None and not self._engine.residents:
            raise EngineFailed(problem)

    def announce(self) -> None:
        """Tell the broker that this actor is ready."""
        ready = Ready(
            device=self._device,
            incarnation=self._link.incarnation,
            pid=self._pid,
            credits=self._credits,
            residents=self._engine.residents,
            attempts=self._engine.attempts,
            profiled=self._profiled,
        )
        self._link.send(ready)
        self._heard_at = self._clock.now()

    def serve(self) -> None:
        """Work until told to stop and everything taken is done."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._asked_to_stop)
        self._worked_at = self._clock.now()
        while not self.is_over:
            self.turn()

    @property
    def is_over(self) -> bool:
        """Whether it was told to stop, and everything taken is done."""
        return self._is_draining and self._engine.is_idle

    def turn(self) -> None:
        """Take messages, do one unit of work, send the reports. Raises DeviceBroken."""
        if self._is_draining and not self._has_retired:
            self._has_retired = True
            self._link.send(Retiring())
        for message in self._link.receive(self.rest_s()):
            self._heard_at = self._clock.now()
            self._obey(message)
        self._rouse()
        reports = self._engine.turn()
        for report in self._reporter.pass_on(reports, self._clock.now()):
            _tell(report)
            self._link.send(report)
        self._load_another()
        self.progress += 1
        if self._engine.wants_restart and not self._wants_restart:
            log.error("memory failed too often: leaving, to be started anew")
            self._wants_restart = self._is_draining = True
        if self._clock.now() - self._heard_at > BROKER_SILENCE_S:
            self.announce()

    def _rouse(self) -> None:
        """Take note of work, and keep the cores awake for it and for what may follow."""
        now = self._clock.now()
        if self._engine.is_busy or not self._engine.is_idle:
            self._worked_at = now
        if self._cores is not None:
            self._cores.rouse(now - self._worked_at)

    def _load_another(self) -> None:
        """Load one more of the variants for the start, once nobody has wanted anything for a while."""
        is_calm = self._engine.is_idle and not self._engine.is_busy
        rested_s = self._clock.now() - self._worked_at
        if self._wanted and not self._is_draining and is_calm and rested_s > CALM_S:
            variant = self._wanted.popleft()
            if self._has_room(variant):
                self._engine.load(variant)
            else:
                log.info(
                    "%s is not loaded before it is wanted: memory has no room beside others", variant
                )

    def _has_room(self, variant: str) -> bool:
        """Whether a variant for which nobody waits has room beside those that are loaded."""
        if self._read is None:
            return True
        reading = self._read()
        budget_bytes = reading.memory_own_bytes + reading.memory_free_bytes
        newcomer = next((r for r in self._profiled if r.variant == variant), None)
        return rooms.may_join(newcomer, self._engine.residents, budget_bytes)

    def rest_s(self) -> float:
        """Return how long the next turn may wait for a message."""
        return 0.0 if self._engine.is_busy else max(0.0, min(IDLE_WAIT_S, self._engine.wait_s()))

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._is_draining = True

    def leave(self) -> None:
        """Say good-bye."""
        self._engine.close()
        self._link.send(Leaving())

    def _obey(self, message: ToActor) -> None:
        engine = self._engine
        match message:
            case Execute():
                self._reporter.begin(message)
                engine.submit(message)
            case Abort(attempt):
                engine.abort(attempt)
            case LoadVariant(variant, mode):
                engine.load(variant, mode)
            case CancelLoad(variant):
                engine.cancel_load(variant)
            case EvictVariant(variant, is_final):
                engine.evict(variant, is_final=is_final)
            case SwitchMode(variant, mode):
                engine.switch_mode(variant, mode)
            case Stop():
                self._is_draining = True
            case Welcome(epoch):
                self._greet(epoch)

    def _greet(self, epoch: int) -> None:
        """Drop the work of an earlier broker: it is nobody's any more."""
        if self._epoch not in (None, epoch):
            log.info("a new broker: dropping the work of the old one")
            self._engine.clear()
            self._reporter.forget()
        self._epoch = epoch


def _tell(report: Report | Counted) -> None:
    """Log how a load ended."""
    if isinstance(report, LoadFailed):
        log.error("%s does not load: %s", report.variant, report.message)
    elif isinstance(report, Loaded):
        log.info("%s is loaded and warm", report.resident.variant)
