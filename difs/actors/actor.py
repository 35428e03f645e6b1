"""The life of an actor process: start, load, warm up, ready, serve, drain, exit. One method each.

The loop of `serve`: take messages, do one unit of work, send the reports, for ever. It obeys the
broker and decides nothing but to announce itself again when the broker is silent.
"""

import logging
import signal
from types import FrameType
from typing import Any

from difs.actor_messages import (
    Abort,
    Evicted,
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
    ToActor,
    Welcome,
)
from difs.actors.engine import Engine
from difs.actors.link import Link
from difs.clock import Clock
from difs.errors import DifsError

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.25
BROKER_SILENCE_S = 1.5
"""After this much silence the actor announces itself again: the broker may be a new one."""


class Actor:
    """One incarnation of an actor."""

    def __init__(
        self, device: str, engine: Engine[Any], link: Link, clock: Clock, *, pid: int, max_credits: int
    ) -> None:
        """Put the parts together; nothing runs yet."""
        self._device = device
        self._pid = pid
        self._engine = engine
        self._link = link
        self._clock = clock
        self._credits = max_credits
        self._residents: dict[str, Resident] = {}
        self._epoch: int | None = None
        self._heard_at = clock.now()
        self._is_draining = False
        self._has_retired = False
        self.progress = 0
        """Units of work done; read by the heartbeat's thread."""

    def live(self, preload: list[str]) -> None:
        """Go through all phases."""
        self.load(preload)
        self.announce()
        self.serve()
        self.leave()

    def load(self, variants: list[str]) -> None:
        """Make variants resident; each is warmed up with a real image.

        One that does not load is left out. Raises DifsError when none does.
        """
        problem = None
        for variant in variants:
            try:
                self._residents[variant] = self._engine.load(variant)
            except DifsError as error:
                log.error("%s does not load: %s", variant, error)
                problem = error
            else:
                log.info("%s is loaded and warm", variant)
            self.progress += 1
        if problem is not None and not self._residents:
            raise problem

    def announce(self) -> None:
        """Tell the broker that this actor is ready."""
        ready = Ready(
            device=self._device,
            incarnation=self._link.incarnation,
            pid=self._pid,
            credits=self._credits,
            residents=tuple(self._residents.values()),
            attempts=self._engine.attempts,
        )
        self._link.send(ready)
        self._heard_at = self._clock.now()

    def serve(self) -> None:
        """Work until told to stop and everything taken is done."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._asked_to_stop)
        while self._engine.is_busy or not self._is_draining:
            if self._is_draining and not self._has_retired:
                self._has_retired = True
                self._link.send(Retiring())
            for message in self._link.receive(0.0 if self._engine.is_busy else IDLE_WAIT_S):
                self._heard_at = self._clock.now()
                self._obey(message)
            report = self._engine.turn()
            if report is not None:
                self._link.send(report)
            self.progress += 1
            if self._clock.now() - self._heard_at > BROKER_SILENCE_S:
                self.announce()

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._is_draining = True

    def leave(self) -> None:
        """Say good-bye."""
        self._link.send(Leaving())

    def _obey(self, message: ToActor) -> None:
        match message:
            case Execute():
                self._engine.submit(message)
            case Abort(attempt):
                report = self._engine.abort(attempt)
                if report is not None:
                    self._link.send(report)
            case LoadVariant(variant):
                self._load_one(variant)
            case EvictVariant(variant):
                self._engine.evict(variant)
                self._residents.pop(variant, None)
                self._link.send(Evicted(variant))
            case Stop():
                self._is_draining = True
            case Welcome(epoch):
                self._greet(epoch)

    def _load_one(self, variant: str) -> None:
        try:
            self._residents[variant] = self._engine.load(variant)
        except DifsError as error:
            log.error("%s does not load: %s", variant, error)
            self._link.send(LoadFailed(variant, error.message))
        else:
            self._link.send(Loaded(self._residents[variant]))

    def _greet(self, epoch: int) -> None:
        """Drop the work of an earlier broker: it is nobody's any more."""
        if self._epoch not in (None, epoch):
            log.info("a new broker: dropping the work of the old one")
            self._engine.clear()
        self._epoch = epoch
