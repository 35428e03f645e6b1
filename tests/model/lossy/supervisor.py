"""The supervisor's process: what `Supervision` decides is done, as `difs.supervisor` does it."""

from collections.abc import Callable
from random import Random
from typing import Any

from difs import config
from difs.actor_messages import ActorExited, Excuse, Fleet, KillActor, Supervise
from difs.supervision import Kill, Spawn, Supervision, Terminate
from tests.model.lossy.links import Link
from tests.model.lossy.timeline import Timeline

REINTRODUCE_S = 1.0
RULES = config.Supervisor(backoff=0.2, backoff_cap=1.0, max_restarts=1000, start_timeout=8.0)
"""It never gives up: that is not what is tried here."""


class Supervisor:
    """It cannot die: with it, everything does."""

    def __init__(
        self,
        time: Timeline,
        dice: Random,
        devices: tuple[str, ...],
        *,
        link: Callable[[str, Callable[[Any], None]], Link],
        spawn: Callable[[str], None],
        kill: Callable[[str, int | None], None],
    ) -> None:
        """Nothing runs yet."""
        self._time, self._dice, self._devices = time, dice, devices
        self._spawn, self._kill = spawn, kill
        self._plan = Supervision(RULES, list(devices), time.now)
        self._heard_at = time.now
        self._wake_at = float("inf")
        self.link = link("supervisor", self._hear)

    def start(self) -> None:
        """Introduce itself and start everybody."""
        self.link.send(Supervise(1))
        self._decide()

    def buried(self, name: str, pid: int, status: int) -> None:
        """Take note of a child that is gone, and tell the broker."""
        self._plan.exited(name, self._time.now, self._dice.random(), status=status)
        if name in self._devices:
            how = "SIGKILL" if status < 0 else "left" if status == 0 else f"status_{status}"
            self.link.send(ActorExited(name, pid, f"{name} is gone: {how}", how))
        self._decide()

    def _decide(self) -> None:
        now = self._time.now
        for action in self._plan.decide(now):
            match action:
                case Spawn(name):
                    self._plan.started(name, now)
                    self._spawn(name)
                case Kill(name):
                    self._kill(name, None)
                case Terminate():
                    raise AssertionError("nothing ends here")
        if now - self._heard_at > REINTRODUCE_S:
            self._heard_at = now
            self.link.send(Supervise(1))
        due = self._plan.next_wake(now)
        if not now < self._wake_at <= due:
            self._wake_at = due
            self._time.at(due, lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if self._wake_at == due:
            self._decide()

    def _hear(self, message: Any) -> None:
        match message:
            case Fleet():
                self._heard_at = self._time.now
                self._plan.heard(message.ready, self._heard_at, message.proven)
            case KillActor(device, pid):
                self._time.after(self._dice.uniform(0.0, 0.01), lambda: self._kill(device, pid))
            case Excuse(devices):
                for name in devices:
                    self._plan.excused(name, self._time.now)
