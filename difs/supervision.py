"""When to start, restart, kill or give up a child process: decisions only, time passed in.

As in Erlang/OTP, one child for itself, with a limit on the intensity of restarts; as in systemd, a
failed child stays failed. The processes themselves are `difs.supervisor`'s.
"""

import os
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from msgspec import Struct

from difs import config

BROKER = "broker"
METRICS, DOOR = "metrics", "http"
"""They stand beside the service: without them everything else goes on."""
MAX_EXCUSES = 10
"""So often is a device excused until it has worked again: where everything ends it, it is the device."""
BROKER_SILENCE_S = 5.0
"""A broker that was heard of and then is silent for so long is killed."""
DRAIN_SLACK_S = 5.0
"""Beyond the drain's time, everything is killed."""


class Spawn(Struct, frozen=True):
    """Start a child."""

    name: str


class Kill(Struct, frozen=True):
    """Kill a child at once."""

    name: str
    reason: str


class Terminate(Struct, frozen=True):
    """Ask a child to end."""

    name: str


class Finish(Struct, frozen=True):
    """Everything is over: leave with `status`, 0 when it was asked for."""

    status: int
    reason: str


Action = Spawn | Kill | Terminate | Finish


class ChildState(Enum):
    """Where a child stands."""

    DUE = "due"
    """Not running; starts at `due_at`."""
    UP = "up"
    GONE = "gone"
    """Not running and not to be started: the service ends."""
    FAILED = "failed"
    """Ended too often, or for a reason that stays; down until the service is started anew."""


@dataclass(slots=True)
class Child:
    """A process to keep alive."""

    name: str
    state: ChildState = ChildState.DUE
    due_at: float = 0.0
    started_at: float = 0.0
    heard_at: float | None = None
    unready_since: float | None = None
    """When it was started, or was last ready; None while it is ready."""
    restarts: deque[float] = field(default_factory=deque)
    is_misconfigured: bool = False
    """It said so itself: no restart mends that."""
    is_proven: bool = False
    """It has done what it is for since it was started."""
    excuses: int = 0
    """How often it was excused since it last worked."""
    given_up: str = ""
    """Why it has failed."""


class Supervision:
    """Decides for the broker and all actors."""

    def __init__(
        self, rules: config.Supervisor, devices: list[str], now: float, *, beside: tuple[str, ...] = ()
    ) -> None:
        """Everything is due at once; the children `beside` may fail without harm."""
        self._rules = rules
        self._devices = tuple(devices)
        self.children = {name: Child(name, due_at=now) for name in (BROKER, *devices, *beside)}
        self._drain_until: float | None = None
        self._forced = False
        self._failed_with = 1

    # ---- what happened --------------------------------------------------------------------------

    def started(self, name: str, now: float) -> None:
        """Note that a child runs."""
        child = self.children[name]
        child.state, child.started_at, child.heard_at = ChildState.UP, now, None
        child.unready_since, child.is_proven = now, False

    def heard(self, ready: tuple[str, ...], now: float, proven: tuple[str, ...] = ()) -> None:
        """Note the broker's sign of life, which devices are ready, and which have worked."""
        self.children[BROKER].heard_at = now
        for name, child in self.children.items():
            if name in proven:
                child.is_proven, child.excuses = True, 0
            if name in ready:
                child.unready_since = None
            elif child.unready_since is None:
                child.unready_since = now

    def excused(self, name: str, now: float) -> None:
        """Note that a request, not the device, is to blame for its ends: it has a clean record again."""
        child = self.children[name]
        if child.excuses >= MAX_EXCUSES or child.is_misconfigured:
            return
        child.excuses += 1
        child.restarts.clear()
        if child.state is ChildState.FAILED:
            child.state, child.due_at, child.given_up = ChildState.DUE, now, ""

    def exited(self, name: str, now: float, jitter: float, *, status: int) -> None:
        """Note that a child is gone with `status`; `jitter` in 0..1 spreads the restarts."""
        child, rules = self.children[name], self._rules
        if status == 0 and name == BROKER and self._drain_until is None:
            self._drain_until = now  # it leaves so only when a client's `drain` is done
        if self._drain_until is not None:
            child.state = ChildState.GONE
            return
        if status == os.EX_CONFIG:
            child.state, child.is_misconfigured = ChildState.FAILED, True
            child.given_up = "no restart mends a wrong configuration"
            if name in (BROKER, *self._devices):
                self._failed_with = status
            return
        if now - child.started_at >= rules.stable_after or child.is_proven:
            child.restarts.clear()
        while child.restarts and now - child.restarts[0] > rules.restart_window:
            child.restarts.popleft()
        if len(child.restarts) >= rules.max_restarts:
            child.state = ChildState.FAILED
            child.given_up = f"restarted {rules.max_restarts} times within {rules.restart_window:g} s"
            return
        longest = min(rules.backoff_cap, rules.backoff * 2 ** min(len(child.restarts), 30))
        child.restarts.append(now)
        child.state = ChildState.DUE
        child.due_at = now + longest * (0.5 + 0.5 * jitter)

    def asked_to_stop(self, now: float) -> None:
        """Drain; a second time: end at once."""
        if self._drain_until is not None:
            self._forced = True
        self._drain_until = now + self._rules.drain if self._drain_until is None else now

    def is_complete(self, ready: tuple[str, ...]) -> bool:
        """Whether all devices are ready that were not given up, and there is one."""
        wanted = {d for d in self._devices if self.children[d].state is not ChildState.FAILED}
        return bool(wanted) and wanted <= set(ready)

    @property
    def is_draining(self) -> bool:
        """Whether the service ends."""
        return self._drain_until is not None

    # ---- what to do -----------------------------------------------------------------------------

    def decide(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        if self._drain_until is not None:
            return self._decide_ending(now)
        broker, actors = self.children[BROKER], [self.children[name] for name in self._devices]
        if broker.state is ChildState.FAILED:
            return [Finish(self._failed_with, "the broker cannot be kept running")]
        if all(child.state is ChildState.FAILED for child in actors):
            return [Finish(self._failed_with, "no actor can be kept running")]
        actions: list[Action] = []
        for child in self.children.values():
            if child.state is ChildState.DUE and child.due_at <= now:
                actions.append(Spawn(child.name))
            elif child.state is ChildState.UP and (reason := self._hangs(child, now)):
                actions.append(Kill(child.name, reason))
        return actions

    def _hangs(self, child: Child, now: float) -> str | None:
        if child.name == BROKER:
            silent = child.heard_at is not None and now - child.heard_at > BROKER_SILENCE_S
            return f"silent for {BROKER_SILENCE_S:g} s" if silent else None
        if child.name not in self._devices:
            return None
        since, limit = child.unready_since, self._rules.start_timeout
        return f"not ready for {limit:g} s" if since is not None and now - since > limit else None

    def _decide_ending(self, now: float) -> list[Action]:
        up = [c for c in self.children.values() if c.state is ChildState.UP]
        if not up:
            why = "stopped at once" if self._forced else "drained"
            return [Finish(1 if self._forced else 0, why)]
        assert self._drain_until is not None
        if self._forced or now > self._drain_until + DRAIN_SLACK_S:
            self._forced = True
            return self._kill_all("the time to drain is over")
        if self.children[BROKER].state is not ChildState.UP:
            return [Terminate(c.name) for c in up]
        return []

    def _kill_all(self, reason: str) -> list[Action]:
        up = (c.name for c in self.children.values() if c.state is ChildState.UP)
        return [Kill(name, reason) for name in up]

    def next_wake(self, now: float) -> float:
        """Return when `decide` is due at the latest."""
        due = [c.due_at for c in self.children.values() if c.state is ChildState.DUE]
        return min([now + 0.5, *due])
