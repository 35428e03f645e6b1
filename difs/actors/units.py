"""One unit of an engine: an encoding, a call for a batch of images, a decoding, a measurement.

Which unit is decided by `difs.actors.batching`, what follows an out-of-memory error by
`difs.actors.ladder`; how it is computed is the subclass's. What an actor asks of an engine stands in
`difs.actors.engine`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from difs import learning, memory_modes, profiles, samplers
from difs.actor_messages import (
    Costs,
    Ended,
    Evicted,
    Execute,
    Finished,
    Loaded,
    LoadFailed,
    Resident,
    Stepped,
    Switched,
    SwitchFailed,
)
from difs.actors import batching, ladder
from difs.actors.batching import Candidate, Pace
from difs.actors.book import JobBook
from difs.actors.delivery import Easel
from difs.actors.jobs import Job, Painting, candidates_of, lagging
from difs.actors.measuring import Measuring, measurement
from difs.actors.shapes import Shape, Shapes
from difs.clock import Clock
from difs.drift import Drift
from difs.errors import DifsError, EngineFailed, OutOfMemory
from difs.messages import MAX_IMAGES, MemoryMode, Preview
from difs.profiles import rows_of

log = logging.getLogger(__name__)

Report = Stepped | Finished | Ended | Loaded | LoadFailed | Evicted | Switched | SwitchFailed


class DeviceBroken(Exception):
    """The device answers no more until the process is started anew (a sticky CUDA error)."""


class Units(ABC):
    """The half of an engine that computes, unit by unit, and bears what breaks."""

    def __init__(
        self,
        clock: Clock,
        easel: Easel,
        *,
        kind: str,
        max_rows: int,
        profiled: Sequence[Resident] = (),
    ) -> None:
        """Start with no residents and no jobs; `kind` is the device's, for its memory modes.

        `profiled` is what variants would be here, as profiles say.
        """
        self._clock = clock
        self._easel = easel
        self._kind = kind
        self._residents: dict[str, Resident] = {}
        self._profiled = {(found.variant, found.memory_mode): found for found in profiled}
        self._limits = ladder.RowLimits(max_rows)
        self._measuring: dict[str, Measuring] = {}
        self._book = JobBook(clock, self.drop)
        self._reports: list[Report] = []
        self._aside_s = 0.0
        self._incidents = ladder.Incidents()
        self._drift = Drift()
        self._shapes = Shapes()

    # ---- what a subclass computes -----------------------------------------------------------------

    def collect(self) -> None:  # noqa: B027 -- many have nothing to do here
        """Take over what was done in the background since the last turn."""

    @abstractmethod
    def encode(self, job: Job) -> None:
        """Set the job's conditioning: its prompts encoded, its adapters loaded."""

    @abstractmethod
    def begin(self, painting: Painting) -> None:
        """Draw an image's noise and prepare its own sampler: sets `work` and `total`."""

    @abstractmethod
    def step(self, paintings: list[Painting]) -> None:
        """Evaluate the UNet once for all and step each one's sampler; raises `done` of each that is."""

    @abstractmethod
    def shorten(self, painting: Painting, left: int) -> bool:
        """Let an image that is on its way do only `left` more steps: sets `total`; False: it cannot."""

    @abstractmethod
    def decode(self, painting: Painting, canvas: NDArray[np.uint8]) -> None:
        """Write an image's pixels into `canvas`, of shape (height, width, 3)."""

    def enter(self, variant: str, mode: MemoryMode) -> None:  # noqa: B027 -- many have nothing to do
        """Put a resident into a memory mode that its device has; raises DifsError."""

    def judge(self, painting: Painting, canvas: NDArray[np.uint8]) -> float | None:
        """Return what a finished picture is worth, 0..1; None, and a note, where it cannot be judged."""
        return None

    def preview(self, painting: Painting) -> Preview | None:
        """Return a small picture of what an image is becoming."""
        return None

    def drop(self, painting: Painting) -> None:
        """Let go of an image that is not wanted any more."""
        painting.work = None

    def timed(self, act: Callable[[], None], then: Callable[[float], None]) -> None:
        """Do `act` and tell `then` its seconds; a device that works behind may tell them later."""
        started = self._clock.now()
        act()
        then(self._clock.now() - started)

    def rows(self, execute: Execute) -> int:
        """Return the UNet rows that one image of an attempt takes."""
        return rows_of(execute.guidance_scale)

    def free(self) -> None:  # noqa: B027 -- many have nothing to do here
        """Give unused memory back to the device."""

    def catch_up(self) -> None:  # noqa: B027 -- many have nothing to do here
        """Wait until the seconds of all units are told."""

    # ---- a unit -----------------------------------------------------------------------------------

    def _is_expected(self, job: Job) -> bool:
        """Whether a job's variant is here or on its way."""
        return job.execute.variant in self._residents or self.is_loading_variant(job.execute.variant)

    @abstractmethod
    def is_loading_variant(self, variant: str) -> bool:
        """Whether this variant is on its way."""

    def _can_work(self, job: Job) -> bool:
        is_here = job.execute.variant in self._residents and job.ending is None
        return is_here and job.undecoded > 0

    def _settle(self) -> None:
        """Report the jobs that are over."""
        for job in self._book.settle():
            if job.ending is not None:
                self._reports.append(job.ending)
            else:
                self.catch_up()
                variant = job.execute.variant
                rows = self._limits.allowed(variant, self._clock.now())
                done = job.finished(self._residents.get(variant), rows)
                self._reports.append(replace(done, drift=self._drift.moved))
            job.part()

    def _hurry(self, now: float) -> None:
        """Leave out steps of what fell behind, where its client stated when it is due."""
        for job in self._book:
            if not (job.execute.floor_steps and job.execute.latest and self._can_work(job)):
                continue
            costs, rows = self._residents[job.execute.variant].costs, self.rows(job.execute)
            for painting, left in list(lagging(job, costs, rows, now)):
                painting.is_shortened |= self.shorten(painting, left)

    def _work(self, now: float) -> None:
        self._hurry(now)
        keys, candidates, paces = self._survey(now)
        turn = batching.choose(candidates, paces, now, self._aside_s)
        if turn is None:
            return
        started = self._clock.now()
        if turn.phase == "step":
            self._step([keys[key] for key in turn.keys])
            self._aside_s = 0.0
            return
        if turn.phase == "measure":
            self._measure(list(self._measuring)[-1 - turn.keys[0]])
        elif turn.phase == "encode":
            self._encode(keys[turn.keys[0]].job)
        else:
            self._decode(keys[turn.keys[0]])
        self._aside_s += self._clock.now() - started

    def _survey(self, now: float) -> tuple[dict[int, Painting], list[Candidate], Mapping[Hashable, Pace]]:
        """Return everything that could be done now; keys below 0 stand for measurements."""
        keys: dict[int, Painting] = {}
        found = [
            measurement(-1 - i, measuring, now)
            for i, measuring in enumerate(self._measuring.values())
            if not measuring.is_broken
        ]
        paces: dict[Hashable, Pace] = {}
        for i, job in enumerate(self._book):
            if not self._can_work(job):
                continue
            execute, costs = job.execute, self._residents[job.execute.variant].costs
            key = i * MAX_IMAGES
            keys |= {key + p.index: p for p in job.paintings}
            calls = samplers.evaluations(execute.sampler, execute.steps)
            fresh = candidates_of(key, job, costs, self.rows(execute), calls)
            found += fresh
            rows = self._limits.allowed(execute.variant, now)
            measuring = self._measuring.get(execute.variant)
            if measuring is not None and not measuring.is_whole:
                rows = 1  # how far sharing changes a picture is not known yet
            pace = Pace(costs, execute.width * execute.height, rows)
            paces |= {c.group: pace for c in fresh}
        return keys, found, paces

    def _encode(self, job: Job) -> None:
        def then(seconds: float) -> None:
            job.encode_s += seconds
            if not job.is_cached:
                self._learn(job, lambda costs: learning.encode(costs, seconds))

        self._guarded("encode", job.paintings, lambda: self.timed(lambda: self.encode(job), then))

    def _step(self, paintings: list[Painting]) -> None:
        for painting in paintings:
            if painting.work is None and not self._guarded(
                "step",
                [painting],
                lambda p=painting: self.begin(p),  # type: ignore[misc]
            ):
                return
            if not painting.done:
                painting.began_at = self._clock.now()
        before = [p.done for p in paintings]
        jobs = {id(p.job): p.job for p in paintings}.values()
        first = paintings[0].job
        rows = self._rows_of(paintings)
        pixels = first.execute.width * first.execute.height

        def then(seconds: float) -> None:
            for job in jobs:
                job.steps_s += seconds
            self._learn(first, lambda costs: learning.step(costs, pixels, rows, seconds), rows, seconds)

        self._guarded("step", paintings, lambda: self.timed(lambda: self.step(paintings), then))
        self._tell_steps(paintings, before)

    def _rows_of(self, paintings: list[Painting]) -> int:
        return sum(self.rows(p.job.execute) for p in paintings)

    def _tell_steps(self, paintings: list[Painting], before: list[int]) -> None:
        for job in self._book:
            for painting in job.paintings:
                painting.is_running = False
        for painting, done in zip(paintings, before, strict=True):
            if painting.done <= done:
                continue
            painting.is_running = True
            painting.sharers += len(paintings)
            painting.is_shared = painting.is_shared or len(paintings) > 1
            execute = painting.job.execute
            is_shown = (
                execute.preview_every
                and painting.done % execute.preview_every == 0
                and painting.done < painting.total
            )
            report = Stepped(
                execute.attempt,
                painting.index,
                painting.done,
                painting.total,
                self.preview(painting) if is_shown else None,
            )
            self._reports.append(report)

    def _decode(self, painting: Painting) -> None:
        job = painting.job
        pixels = job.execute.width * job.execute.height

        def then(seconds: float) -> None:
            job.decode_s += seconds
            self._learn(job, lambda costs: learning.decode(costs, pixels, seconds), 0, seconds)

        def act() -> None:
            canvas = self._easel.canvas(job.execute, painting.index)
            self.timed(lambda: self.decode(painting, canvas), then)
            if job.execute.is_judged:
                job.scores.append(self.judge(painting, canvas))
            painting.decoded_at = self._clock.now()
            self._book.hang(painting, self._easel.deliver(job.execute, painting.index, canvas))

        if self._guarded("decode", [painting], act):
            self.drop(painting)

    def _measure(self, variant: str) -> None:
        """Do one unit of a variant's warm-up; the first that knows enough makes the variant resident."""
        measuring, started = self._measuring[variant], self._clock.now()
        try:
            found = next(measuring.units)
        except StopIteration:
            del self._measuring[variant]
        except DeviceBroken:
            raise
        except DifsError as error:
            self._stop_measuring(variant, error.message)
        except Exception as error:
            log.exception("%s broke while it was measured", variant)
            self._stop_measuring(variant, f"it does not run: {type(error).__name__}")
        else:
            if not measuring.is_rough:
                measuring.load_s += self._clock.now() - started
            if found is not None:
                self._enter_measured(measuring, found)

    def _enter_measured(self, measuring: Measuring, found: Resident) -> None:
        """Let a variant serve as it was measured until now."""
        costs = replace(found.costs, load_s=measuring.load_s)
        resident = self._with_profile(replace(found, costs=costs))
        self._residents[found.variant] = resident
        self._reports.append(Switched(resident) if measuring.is_rough else Loaded(resident))
        measuring.is_rough, measuring.since = True, self._clock.now()
        measuring.told += 1

    def _stop_measuring(self, variant: str, message: str) -> None:
        """Report a load that failed; one that serves already goes on with what is known of it."""
        if self._measuring[variant].is_whole:
            log.warning("%s: not all numbers of rows could be called (%s)", variant, message)
            del self._measuring[variant]
        elif self._measuring[variant].is_rough:
            log.warning("%s: the rest could not be measured (%s): it shares no call", variant, message)
            self._measuring[variant].is_broken = True
        else:
            self._give_up_load(variant, message)

    def _with_profile(self, measured: Resident) -> Resident:
        """Return a resident that was measured at one size, with what a profile says of the others."""
        found = self._profiled.get((measured.variant, measured.memory_mode))
        if found is None:
            return measured
        return replace(measured, costs=profiles.reconciled(measured.costs, found.costs), room=found.room)

    def _give_up_load(self, variant: str, message: str) -> None:
        """Report a load that failed; the subclass lets go of what it has."""
        self._measuring.pop(variant, None)
        self.forget(variant)
        self._reports.append(LoadFailed(variant, message))

    @abstractmethod
    def forget(self, variant: str) -> None:
        """Let go of whatever is held of a variant."""

    def _learn(
        self, job: Job, learn: Callable[[Costs], Costs], rows: int = 0, seconds: float | None = None
    ) -> None:
        """Enter what a call of a job took; `seconds`: of a step of so many rows, of a decoding if 0."""
        execute = job.execute
        resident = self._residents.get(execute.variant)
        shape = Shape(execute.variant, execute.width, execute.height, rows)
        if resident is None or (seconds is not None and self._shapes.is_first(shape)):
            return
        moved = self._drift.moved
        if seconds is not None:
            moved += learning.common(resident.costs, execute.width * execute.height, rows, seconds)
        self._drift.learned(self._residents, execute.variant, learn(resident.costs), moved)

    # ---- failures ---------------------------------------------------------------------------------

    def _guarded(self, phase: ladder.Phase, paintings: list[Painting], act: Callable[[], None]) -> bool:
        """Do a unit; whatever breaks it must not take others along. Returns whether it went well."""
        job = paintings[0].job
        variant = job.execute.variant
        try:
            act()
        except DeviceBroken:
            raise
        except OutOfMemory as error:
            self._climb(phase, paintings, error)
        except Exception as error:
            self._isolate(paintings, error)
        else:
            self._incidents.over(variant, phase)
            return True
        return False

    def _isolate(self, paintings: list[Painting], error: Exception) -> None:
        """Fail the job of a unit that broke; of several, each is tried alone."""
        if len({p.job.execute.attempt for p in paintings}) > 1:
            log.warning("a shared step broke (%s): each of its images goes on alone", error)
            for painting in paintings:
                painting.is_alone = True
            return
        self._book.fail(paintings[0].job, error)

    def _climb(self, phase: ladder.Phase, paintings: list[Painting], error: OutOfMemory) -> None:
        """Take the next rung of the ladder, or fail the job."""
        self.free()
        job = paintings[0].job
        variant, now = job.execute.variant, self._clock.now()
        self._incidents.happened(variant, phase, now)
        is_call = phase == "step"
        rung = ladder.next_rung(
            phase,
            images=len(paintings) if is_call else 1,
            rows=self._rows_of(paintings) if is_call else 0,
            is_tiled=paintings[0].is_tiled,
            mode=self._residents[variant].memory_mode,
            kind=self._kind,
        )
        if rung is None or not self._take(rung, paintings, now):
            self._incidents.over(variant, phase)
            self._book.fail(paintings[0].job, error)
            return
        log.warning("%s: %s", variant, ladder.describe(rung, phase))
        for painting in paintings:
            painting.job.note(ladder.describe(rung, phase))

    def _take(self, rung: ladder.Rung, paintings: list[Painting], now: float) -> bool:
        variant = paintings[0].job.execute.variant
        match rung:
            case ladder.Tile():
                paintings[0].is_tiled = True
                paintings[0].job.is_exact = False
            case ladder.Shrink(rows):
                self._limits.shrink(variant, rows, now)
            case ladder.Lighten(mode):
                try:
                    self._switch(variant, mode)
                except DifsError as error:
                    log.error("%s: memory mode %s: %s", variant, mode, error)
                    return False
        return True

    def _switch(self, variant: str, mode: MemoryMode) -> None:
        """Change a resident's memory mode and report it; raises DifsError."""
        if variant not in self._residents:
            raise EngineFailed(f"{variant} is not loaded")
        usable = memory_modes.available(self._kind)
        if mode not in usable:
            words = f"memory mode {mode} does not work on {self._kind}; {', '.join(usable)} do"
            raise EngineFailed(words)
        self.enter(variant, mode)
        self._residents[variant] = self._switched(self._residents[variant], mode)
        self._reports.append(Switched(self._residents[variant]))

    def _switched(self, resident: Resident, mode: MemoryMode) -> Resident:
        """Return a resident in another mode: with what a profile says of it, else as it was."""
        found = self._profiled.get((resident.variant, mode))
        if found is None:
            return replace(resident, memory_mode=mode, room=None)
        costs = replace(found.costs, load_s=resident.costs.load_s)
        return replace(resident, memory_mode=mode, costs=costs, room=found.room)
