"""An actor's process: the real `Actor` and `SimulatedEngine`, a turn at a time, and ways to end them."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from difs.actor_messages import Pulse, Resident, ToActor
from difs.actors.actor import EXIT_SOFTWARE, Actor
from difs.actors.delivery import Easel
from difs.actors.jobs import Painting
from difs.actors.simulated import Script, SimulatedEngine
from difs.actors.units import DeviceBroken
from difs.clock import ManualClock
from difs.messages import Reading
from difs.repository import Repository
from difs.shm.writer import SegmentWriter
from tests.model.lossy.links import Link
from tests.model.lossy.timeline import Timeline

PULSE_S = 0.5
POISON, CURSED = "poison", "sticky"
"""A prompt that holds it ends the process at a step: by a signal, or as a broken device does."""
CREDITS = 4


class Killed(BaseException):
    """The process is ended by what it paints; no handler may see it."""


class Engine(SimulatedEngine):
    """An engine that prompts can hurt."""

    def step(self, paintings: list[Painting]) -> None:
        """See Engine.step."""
        super().step(paintings)
        prompts = [p.job.execute.prompt for p in paintings]
        if any(POISON in prompt for prompt in prompts):
            raise Killed
        if any(CURSED in prompt for prompt in prompts):
            raise DeviceBroken("as its prompt wants")


class _Pipe:
    """In the place of `difs.actors.link.Link`: what came, and what a turn says."""

    def __init__(self, incarnation: str, clock: ManualClock) -> None:
        self.incarnation = incarnation
        self.inbox: deque[ToActor] = deque()
        self.outbox: list[Any] = []
        self._clock = clock

    def send(self, message: Any) -> None:
        self.outbox.append(message)

    def receive(self, wait_s: float) -> Iterator[ToActor]:
        while self.inbox:
            yield self.inbox.popleft()

    def pause(self, wait_s: float) -> None:
        self._clock.advance(wait_s)


class Process:
    """One incarnation of an actor."""

    def __init__(
        self,
        time: Timeline,
        *,
        device: str,
        pid: int,
        script: Script,
        library: Repository,
        writer: SegmentWriter,
        profiled: tuple[Resident, ...],
        memory_bytes: int,
        link: Callable[[str, Callable[[Any], None]], Link],
        exited: Callable[["Process", int], None],
    ) -> None:
        """Nothing runs yet. `link` makes a link by name; `exited` is told of the end and its status."""
        self._time, self.device, self.pid = time, device, pid
        self._clock = ManualClock(time.now)
        self._memory_bytes = memory_bytes
        self._exited = exited
        self._pipe = _Pipe(f"{device}.{pid}", self._clock)
        self.link = link(f"{device}.{pid}", self._hear)
        self.pulses = link(f"{device}.{pid}.pulse", lambda _: None)
        self.slowness = 1.0
        self.engine = Engine(
            script,
            library,
            Easel(writer),
            self._clock,
            self._pass,
            device=device,
            memory_bytes=memory_bytes,
        )
        self.actor = Actor(
            device,
            self.engine,
            self._pipe,  # type: ignore[arg-type]
            self._clock,
            pid=pid,
            max_credits=CREDITS,
            profiled=profiled,
        )
        self.is_dead = self.is_hung = self.is_stopped = self.is_mute = False
        self.hung_at = float("inf")
        self._is_at_work = True
        self._turn = 0

    def _pass(self, seconds: float) -> None:
        self._clock.advance(seconds * self.slowness)

    def _catch_up(self) -> None:
        self._clock.advance(max(0.0, self._time.now - self._clock.now()))

    # ---- life -----------------------------------------------------------------------------------

    def start(self, preload: tuple[str, ...], boot_s: float) -> None:
        """Come up: load the first variant, announce it, work."""
        self._time.after(boot_s, lambda: self._load(preload))
        self._time.after(boot_s, self._beat)

    def _load(self, preload: tuple[str, ...]) -> None:
        if self.is_dead:
            return
        self._catch_up()
        self.actor.load(preload)
        self.actor.announce()
        self._time.at(self._clock.now(), self._end_turn)

    def end(self, status: int = -9) -> None:
        """End at once, as by SIGKILL: what it was about to say it never says."""
        if self.is_dead:
            return
        self.is_dead = True
        self.link.close()
        self.pulses.close()
        self.engine.close()
        self._exited(self, status)

    def hang(self) -> None:
        """Never make progress again; its heartbeat goes on."""
        self.is_hung, self.hung_at = True, self._time.now

    def stop(self, seconds: float) -> None:
        """Do nothing for so long, as after SIGSTOP."""
        self.is_stopped = True
        self._time.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.is_stopped = False
        if self.is_hung:
            self.hung_at = self._time.now  # as far as anybody can tell
        self._wake()

    def ask_to_leave(self) -> None:
        """Have it finish and leave, as by SIGTERM."""
        self.actor._asked_to_stop(15, None)
        self._wake()

    # ---- turns ----------------------------------------------------------------------------------

    def _hear(self, message: Any) -> None:
        self._pipe.inbox.append(message)
        self._wake()

    def _wake_from(self, turn: int) -> None:
        """End the rest after a turn, if nothing came meanwhile."""
        if turn == self._turn:
            self._wake()

    def _wake(self) -> None:
        """Begin a turn, unless one is under way."""
        if not self._is_at_work:
            self._begin_turn()

    def _begin_turn(self) -> None:
        if self.is_dead or self.is_hung or self.is_stopped:
            return
        self._is_at_work = True
        self._turn += 1
        self._catch_up()
        ending: int | None = None
        try:
            self.actor.turn()
        except DeviceBroken:
            ending = EXIT_SOFTWARE
        except Killed:
            ending = -9
        if ending is not None:
            self._time.at(self._clock.now(), lambda: self.end(ending))
        elif self._clock.now() <= self._time.now:
            self._end_turn()
        else:
            self._time.at(self._clock.now(), self._end_turn)

    def _end_turn(self) -> None:
        """Say what the turn had to say, and begin the next when it is due."""
        if self.is_dead:
            return
        if self.is_stopped or self.is_hung:
            self._is_at_work = False  # it goes on here
            return
        self._say()
        if self.actor.is_over:
            self.actor.leave()
            self._say()
            self._time.after(0.01, lambda: self.end(0))
            return
        self._is_at_work = False
        wait_s = 0.0 if self._pipe.inbox else self.actor.rest_s()
        turn = self._turn
        self._time.after(wait_s, lambda: self._wake_from(turn))

    def _say(self) -> None:
        said, self._pipe.outbox = self._pipe.outbox, []
        for message in said:
            self.link.send(message)

    # ---- heartbeat ------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Give a sign of life, from a thread of its own."""
        if self.is_dead:
            return
        self._time.after(PULSE_S, self._beat)
        if not (self.is_stopped or self.is_mute):
            self.pulses.send(Pulse(self._pipe.incarnation, self.actor.progress, self._reading()))

    def _reading(self) -> Reading:
        own, total = self.engine.held_bytes(), self._memory_bytes or 2**40
        return Reading("simulated", total, own, own, total - own)
