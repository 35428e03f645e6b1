"""A simulated actor: the broker's messages in, an actor's reports out. As `difs.actors.actor`.

It does nothing by itself: the world calls `attend` when something came or is due, and hands the reports
on. Between two calls only time passes.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from difs import telemetry
from difs.actor_messages import (
    Abort,
    CancelLoad,
    EvictVariant,
    Execute,
    FromActor,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Pulse,
    Ready,
    Resident,
    Retiring,
    Stepped,
    Stop,
    SwitchMode,
    ToActor,
)
from difs.messages import Reading
from difs.simulation.memory import Memory
from difs.simulation.residents import Residents
from difs.simulation.tables import Model
from difs.simulation.work import Work

CALM_S = 1.0
"""What is to be loaded at the start and waits is loaded after so long without work; as an actor's."""
SILENT_S = 1.5
"""A heartbeat that tells nothing new is left out, but never for so long."""


class Device:
    """One incarnation of an actor, and its device."""

    def __init__(
        self,
        name: str,
        models: Mapping[str, Model],
        *,
        life: int,
        number: int,
        memory_bytes: int,
        parking_bytes: int,
        max_credits: int,
        max_rows: int,
        score: Callable[[Execute], float | None],
        painted: Callable[[Execute, int], None],
    ) -> None:
        """`life` counts the incarnations of the device from 0; `number` is its process, as it were."""
        kind = telemetry.kind_of(name)
        self.name, self.life, self.pid = name, life, number
        self.route = f"{name}.{life}".encode()
        self.incarnation = f"{name}.{life}"
        self.memory = Memory(memory_bytes)
        self.residents = Residents(kind, models, self.memory, parking_bytes)
        self.work = Work(
            self.residents, self.memory, kind=kind, max_rows=max_rows, score=score, painted=painted
        )
        self.is_ready = False
        self.is_hung = False
        self.hits = self.misses = 0
        """Attempts whose variant was loaded when they came, and others."""
        self._kind = kind
        self._models = models
        self._credits = max_credits
        self._wanted: deque[str] = deque()
        self._worked_at = 0.0
        self._is_draining = self._has_retired = False
        self._switches: deque[SwitchMode] = deque()
        self._told: tuple[int, int, float] = (-1, -1, -math.inf)

    # ---- life -------------------------------------------------------------------------------------

    def start(self, preload: tuple[str, ...], now: float, *, is_warm: bool) -> None:
        """Begin to load what is wanted at the start; warm: what fits is here at once."""
        self._worked_at = now
        self._wanted = deque(preload)
        if is_warm:
            self._wanted = deque(name for name in preload if not self.residents.put(name))
        elif self._wanted:
            self.residents.load(self._wanted.popleft(), None, now)

    @property
    def is_stillborn(self) -> bool:
        """Whether it has nothing to be ready with, and nothing comes."""
        coming = self.residents.next_due < math.inf or self.residents.has_news
        return not (self.is_ready or self.residents.here or coming or self._wanted)

    def announce(self) -> Ready:
        """Return its announcement."""
        self.is_ready = True
        return Ready(
            device=self.name,
            incarnation=self.incarnation,
            pid=self.pid,
            credits=self._credits,
            residents=tuple(self.residents.here.values()),
            attempts=self.work.attempts,
            profiled=tuple(_profiled(self._models)),
        )

    @property
    def next_wake(self) -> float:
        """Return when it has something to report or to begin."""
        if self.is_hung:
            return math.inf
        run = self.work.run
        due = min(run.ends if run is not None else math.inf, self.residents.next_due)
        if self._wanted and run is None and self.is_ready and not self._is_draining:
            due = min(due, self._worked_at + CALM_S)
        return due

    # ---- in ---------------------------------------------------------------------------------------

    def take(self, message: ToActor, now: float) -> None:
        """Take a message; what follows from it, `attend` tells."""
        if self.work.run is not None and not self.is_hung:
            self.work.run.cut(now)
        match message:
            case Execute():
                is_here = message.variant in self.residents.here
                self.hits, self.misses = self.hits + is_here, self.misses + (not is_here)
                self.work.submit(message)
            case Abort(attempt):
                self.work.abort(attempt)
            case LoadVariant(variant):
                self.residents.load(variant, message.memory_mode, now)
            case CancelLoad(variant):
                self.residents.cancel(variant, now)
            case EvictVariant(variant, is_final):
                self.residents.evict(variant, now, is_final=is_final)
            case SwitchMode():
                self._switches.append(message)
            case Stop():
                self._is_draining = True

    # ---- out --------------------------------------------------------------------------------------

    def steps(self, now: float) -> Iterator[tuple[float, Stepped]]:
        """Yield the steps that were done until now and are not told yet, with their times."""
        if not self.is_hung:
            yield from self.work.steps(now)

    def attend(self, now: float) -> list[FromActor]:
        """Do what is due now; returns what there is to report, `steps` before it."""
        if self.is_hung:
            return []
        work = self.work
        reports: list[FromActor] = []
        work.finish(now)
        reports += self.residents.collect(now)
        while work.run is None:
            ended = work.settle(now)
            reports += ended
            self._switch(now)
            work.begin(now)
            reports += self.residents.collect(now)
            if not ended and work.run is None and not self._switches and not work.has_endings:
                break
        if not self.is_ready:
            return self._be_born(reports, now)
        self._load_another(now)
        return reports + self._take_leave()

    def _switch(self, now: float) -> None:
        while self._switches and self.work.run is None:
            message = self._switches.popleft()
            seconds = self.residents.switch(message.variant, message.memory_mode)
            if seconds:
                self.work.block(seconds, now)

    def _be_born(self, reports: list[FromActor], now: float) -> list[FromActor]:
        """Return the announcement once the first variant is here; one that fails lets the next try."""
        if any(isinstance(report, Loaded) for report in reports) or self.residents.here:
            return [self.announce()]
        failed = any(isinstance(report, LoadFailed) for report in reports)
        if failed and self._wanted:
            self.residents.load(self._wanted.popleft(), None, now)
            return self._be_born(list(self.residents.collect(now)), now)
        return []

    def _load_another(self, now: float) -> None:
        """Load one more of the variants for the start, once nobody has wanted anything for a while."""
        if self.work.run is not None or self.residents.next_due < math.inf:
            self._worked_at = now
        elif self._wanted and not self._is_draining and now >= self._worked_at + CALM_S:
            variant = self._wanted.popleft()
            if self.residents.may_join(variant):
                self.residents.load(variant, None, now)

    def _take_leave(self) -> list[FromActor]:
        if not self._is_draining:
            return []
        told: list[FromActor] = [] if self._has_retired else [Retiring()]
        self._has_retired = True
        is_idle = self.work.run is None and not self.work.attempts
        return [*told, Leaving()] if is_idle else told

    # ---- heartbeat --------------------------------------------------------------------------------

    def pulse(self, now: float) -> Pulse | None:
        """Return the heartbeat that is due; None: it would tell nothing new, and its last is not old."""
        reading = self.reading()
        told = (reading.memory_own_bytes, reading.memory_free_bytes)
        if told == self._told[:2] and now - self._told[2] < SILENT_S:
            return None
        self._told = (*told, now)
        run = self.work.run
        progress = self.work.units + (run.done_by(now) if run is not None and not self.is_hung else 0)
        return Pulse(self.incarnation, progress, reading)

    def reading(self) -> Reading:
        """Return a look at the device."""
        memory = self.memory
        return Reading(
            kind=self._kind,
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.own + memory.others,
            memory_own_bytes=memory.own,
            memory_free_bytes=memory.free,
            utilisation=1.0 if self.work.run is not None else 0.0,
        )


def _profiled(models: Mapping[str, Model]) -> Iterator[Resident]:
    for model in models.values():
        for mode in model.modes.values():
            yield mode.resident
