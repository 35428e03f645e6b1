"""What a simulated device computes: the engine's own jobs and batching, with a table's seconds.

As `difs.actors.engine` does it, with one difference: a call that would be made again and again, because
nothing came that could change the choice, is one `Run` of many units. A run ends early, at the end of a
unit, when something comes.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from difs import learning, samplers
from difs.actor_messages import Costs, Ended, Execute, Finished, Resident, Sealed, Stepped
from difs.actors import batching, ladder
from difs.actors.batching import Candidate, Pace
from difs.actors.jobs import Job, Painting, candidates_of, lagging
from difs.drift import Drift
from difs.messages import MAX_IMAGES, MemoryMode
from difs.profiles import decode_seconds, rows_of, step_seconds
from difs.simulation.memory import Memory
from difs.simulation.residents import Residents

MOST_UNITS = 64
"""Of one run: what falls behind while it waits is looked at again after so many."""
LEARNED = 1e-3
"""An error of a prediction below which nothing is learned from it."""
CHANNELS = 3


@dataclass(eq=False, slots=True)
class Run:
    """Units of work that follow each other without a new choice."""

    phase: str
    paintings: list[Painting]
    started: float
    unit_s: float
    units: int = 1
    told: int = 0
    """Units whose steps were reported."""

    @property
    def ends(self) -> float:
        """Return when it is done."""
        return self.started + self.units * self.unit_s

    def done_by(self, now: float) -> int:
        """Return the units that are done."""
        if self.unit_s <= 0:
            return self.units
        return min(self.units, int((now - self.started) / self.unit_s + 1e-6))

    def cut(self, now: float) -> None:
        """End after the unit that is under way."""
        if self.unit_s > 0 and self.units > 1:
            under_way = math.ceil((now - self.started) / self.unit_s - 1e-6)
            self.units = max(1, min(self.units, under_way))


class Work:
    """All attempts of one device, and the run that it is at."""

    def __init__(
        self,
        residents: Residents,
        memory: Memory,
        *,
        kind: str,
        max_rows: int,
        score: Callable[[Execute], float | None],
        painted: Callable[[Execute, int], None],
    ) -> None:
        """Start with nothing to do.

        `score`: what the scorer says of an attempt's picture. `painted` is told of each attempt that is
        done, and of how many steps its pictures are, the least of them.
        """
        self._residents = residents
        self._memory = memory
        self._kind = kind
        self._score = score
        self._painted = painted
        self._jobs: list[Job] = []
        self._limits = ladder.RowLimits(max_rows)
        self._aside_s = 0.0
        self._drift = Drift()
        self._reports: list[Finished | Ended] = []
        self._is_ripe = False
        """Some job may be over."""
        self.run: Run | None = None
        self.slowness = 1.0
        """How many times its table's seconds everything takes."""
        self.units = 0
        self.busy_s = 0.0

    # ---- what the device asks ---------------------------------------------------------------------

    @property
    def attempts(self) -> tuple[int, ...]:
        """Return the attempts that are not done."""
        return tuple(job.execute.attempt for job in self._jobs)

    @property
    def has_endings(self) -> bool:
        """Whether `settle` has something to tell."""
        return self._is_ripe

    def submit(self, execute: Execute) -> None:
        """Take an attempt."""
        self._jobs.append(Job(execute))

    def abort(self, attempt: int) -> None:
        """Give an attempt up; told at the end of the unit under way."""
        for job in self._jobs:
            if job.execute.attempt == attempt:
                self._end(job, "cancelled", "aborted between two steps")

    def block(self, seconds: float, now: float) -> None:
        """Let the device do nothing else for so long: a memory mode is changed."""
        self.run = Run("switch", [], now, seconds)

    def steps(self, now: float) -> Iterator[tuple[float, Stepped]]:
        """Yield the steps that were done until `now` and are not told yet, with their times."""
        run = self.run
        if run is None or run.phase != "step":
            return
        done = run.done_by(now)
        for unit in range(run.told + 1, done + 1):
            at = run.started + unit * run.unit_s
            for painting in run.paintings:
                step = painting.done + unit
                yield at, Stepped(painting.job.execute.attempt, painting.index, step, painting.total)
        run.told = max(run.told, done)

    def finish(self, now: float) -> None:
        """End the run that is due, if one is."""
        run = self.run
        if run is None or run.ends > now + 1e-9:
            return
        self.run = None
        self._memory.end()
        self.units += run.units
        self.busy_s += run.units * run.unit_s
        if run.phase == "step":
            self._end_steps(run)
        elif run.phase == "encode":
            self._end_encode(run)
        elif run.phase == "decode":
            self._end_decode(run)

    def settle(self, now: float) -> list[Finished | Ended]:
        """Return what ended by now: done, given up, expired, or without its variant."""
        for job in self._jobs:
            if now >= job.execute.deadline:
                self._end(job, "expired", "the deadline passed")
            elif not self._is_expected(job):
                self._end(job, "engine_failed", f"{job.execute.variant} is not loaded")
        if self._is_ripe:
            self._is_ripe = False
            over = [job for job in self._jobs if job.is_over]
            self._jobs = [job for job in self._jobs if not job.is_over]
            self._report(over, now)
        reports, self._reports = self._reports, []
        return reports

    def _report(self, over: Iterable[Job], now: float) -> None:
        for job in over:
            if job.ending is None:
                self._painted(job.execute, min(_steps_of(p) for p in job.paintings))
            variant = job.execute.variant
            resident, rows = self._residents.here.get(variant), self._limits.allowed(variant, now)
            done = job.ending or replace(job.finished(resident, rows), drift=self._drift.moved)
            self._reports.append(done)
            job.part()

    def begin(self, now: float) -> None:
        """Choose the next run, if there is anything to do."""
        while self.run is None:
            self._hurry(now)
            keys, candidates, paces = self._survey(now)
            turn = batching.choose(candidates, paces, now, self._aside_s)
            if turn is None:
                return
            paintings = [keys[key] for key in turn.keys]
            unit_s, peak = self._cost(turn.phase, paintings)
            if not self._memory.begin(peak):
                self._climb(turn.phase, paintings, now)
                if self.has_endings:
                    return
                continue
            self.run = Run(turn.phase, paintings, now, unit_s)
            if turn.phase == "step":
                for painting in paintings:
                    self._start(painting, now)
                if not any(self._may_fall_behind(p, unit_s, now) for p in paintings):
                    self.run.units = self._units(turn.keys, candidates, unit_s, now)

    # ---- choosing ---------------------------------------------------------------------------------

    def _is_expected(self, job: Job) -> bool:
        variant = job.execute.variant
        return variant in self._residents.here or self._residents.is_coming(variant)

    def _can_work(self, job: Job) -> bool:
        return job.ending is None and job.execute.variant in self._residents.here

    def _hurry(self, now: float) -> None:
        """Leave out steps of what fell behind: see Engine."""
        for job in self._jobs:
            execute = job.execute
            has_begun = job.steps_s > 0  # before that nothing is to be cut
            if not (has_begun and execute.floor_steps and execute.latest and self._can_work(job)):
                continue
            costs = self._believed(job)
            for painting, left in list(lagging(job, costs, rows_of(execute.guidance_scale), now)):
                if samplers.SAMPLERS[execute.sampler].is_elastic:
                    painting.total, painting.is_shortened = painting.done + left, True

    def _survey(self, now: float) -> tuple[dict[int, Painting], list[Candidate], dict[Hashable, Pace]]:
        keys: dict[int, Painting] = {}
        found: list[Candidate] = []
        paces: dict[Hashable, Pace] = {}
        here = self._residents.here
        for i, job in enumerate(self._jobs):
            execute, key = job.execute, i * MAX_IMAGES
            resident = here.get(execute.variant)
            if job.ending is not None or resident is None:
                continue
            costs = resident.costs
            if costs.encode_s <= 0:  # a table that does not tell the parts apart
                job.conditioning = True
            for painting in job.paintings:
                keys[key + painting.index] = painting
            calls = samplers.evaluations(execute.sampler, execute.steps)
            fresh = candidates_of(key, job, costs, rows_of(execute.guidance_scale), calls)
            found += fresh
            for candidate in fresh:
                if candidate.group not in paces:
                    rows = self._limits.allowed(execute.variant, now)
                    paces[candidate.group] = Pace(costs, execute.width * execute.height, rows)
        return keys, found, paces

    def _units(
        self, keys: tuple[int, ...], candidates: list[Candidate], unit_s: float, now: float
    ) -> int:
        """Return how many steps follow each other before the choice may be another one.

        Who may share calls may join the next one, and a promise that has to wait goes first at its last.
        """
        batch = [c for c in candidates if c.key in keys]
        others = [c for c in candidates if c.key not in keys]
        if unit_s <= 0 or any(c.phase != "step" or c.group == batch[0].group for c in others):
            return 1
        most = min(MOST_UNITS, *(c.evaluations for c in batch))
        spare_s = [c.latest - now - c.remaining_s for c in others if c.latest < math.inf]
        return max(1, min([most, *(int(spare / unit_s) for spare in spare_s if spare >= 0)]))

    def _may_fall_behind(self, painting: Painting, unit_s: float, now: float) -> bool:
        """Whether steps may have to be left out, which is decided between two of them."""
        job, execute = painting.job, painting.job.execute
        left = painting.total - painting.done
        if not (execute.floor_steps and execute.latest) or left <= max(
            1, execute.floor_steps - painting.done
        ):
            return False
        decode_s = decode_seconds(self._believed(job), execute.width * execute.height)
        rest_s = len(job.paintings) * decode_s
        return left * unit_s + rest_s - (execute.latest - now) > unit_s

    # ---- units ------------------------------------------------------------------------------------

    def _believed(self, job: Job) -> Costs:
        return self._residents.here[job.execute.variant].costs

    def _true(self, job: Job) -> Resident:
        here = self._residents.here[job.execute.variant]
        return self._residents.truth(here.variant, here.memory_mode).resident

    def _cost(self, phase: str, paintings: list[Painting]) -> tuple[float, int]:
        """Return the seconds of a unit and the bytes that it takes beyond what rests."""
        job = paintings[0].job
        execute, true = job.execute, self._true(job)
        pixels, room = execute.width * execute.height, true.room
        if phase == "encode":
            return true.costs.encode_s * self.slowness, 0
        share = pixels / true.costs.pixels
        if phase == "decode":
            mode: MemoryMode = "tiled" if paintings[0].is_tiled else true.memory_mode
            other = self._residents.truth(execute.variant, mode).resident.room
            peak = (other.decode_peak_bytes or 0) if other is not None else 0
            return decode_seconds(true.costs, pixels) * self.slowness, round(peak * share)
        rows = self._rows(paintings)
        peak = (room.step_peak_bytes or 0) if room is not None else 0
        # measured of a guided image, which is two rows
        return step_seconds(true.costs, pixels, rows) * self.slowness, round(peak * share * rows / 2)

    def _rows(self, paintings: list[Painting]) -> int:
        return sum(rows_of(p.job.execute.guidance_scale) for p in paintings)

    def _start(self, painting: Painting, now: float) -> None:
        """Note that an image takes part in a step, its first one perhaps."""
        execute = painting.job.execute
        if painting.work is None:
            painting.work = True
            painting.total = painting.total or samplers.evaluations(execute.sampler, execute.steps)
        if not painting.done:
            painting.began_at = now

    def _end_steps(self, run: Run) -> None:
        self._aside_s = 0.0
        for job in self._jobs:
            for painting in job.paintings:
                painting.is_running = False
        seconds, sharers = run.units * run.unit_s, len(run.paintings)
        for painting in run.paintings:
            painting.done += run.units
            painting.is_running = True
            painting.sharers += run.units * sharers
            painting.is_shared = painting.is_shared or sharers > 1
        for job in {id(p.job): p.job for p in run.paintings}.values():
            job.steps_s += seconds
        for painting in run.paintings:
            costs = self._known(painting.job)
            if painting.done >= painting.total and costs is not None and costs.decode_s <= 0:
                self._seal(painting)
        first = run.paintings[0].job
        pixels, rows = first.execute.width * first.execute.height, self._rows(run.paintings)
        for _ in range(run.units):
            costs = self._known(first)
            if costs is None or not _is_news(step_seconds(costs, pixels, rows), run.unit_s):
                break
            common = learning.common(costs, pixels, rows, run.unit_s)
            self._learn(first, learning.step(costs, pixels, rows, run.unit_s), common)

    def _end_encode(self, run: Run) -> None:
        job = run.paintings[0].job
        self._aside_s += run.unit_s
        job.encode_s += run.unit_s
        job.conditioning = True
        costs = self._known(job)
        if costs is not None and _is_news(costs.encode_s, run.unit_s):
            self._learn(job, learning.encode(costs, run.unit_s))

    def _end_decode(self, run: Run) -> None:
        painting = run.paintings[0]
        job, execute = painting.job, painting.job.execute
        pixels = execute.width * execute.height
        self._aside_s += run.unit_s
        job.decode_s += run.unit_s
        self._seal(painting)
        costs = self._known(job)
        if costs is not None and _is_news(decode_seconds(costs, pixels), run.unit_s):
            common = learning.common(costs, pixels, 0, run.unit_s)
            self._learn(job, learning.decode(costs, pixels, run.unit_s), common)

    def _seal(self, painting: Painting) -> None:
        job, execute = painting.job, painting.job.execute
        if execute.is_judged:
            job.scores.append(self._score(execute))
        nbytes = execute.width * execute.height * CHANNELS
        job.sealed[painting.index] = Sealed(execute.slots[painting.index].index, nbytes, 0)
        self._is_ripe = True

    def _known(self, job: Job) -> Costs | None:
        """Return the believed costs of a job's variant, which may have left meanwhile."""
        found = self._residents.here.get(job.execute.variant)
        return found.costs if found is not None else None

    def _learn(self, job: Job, costs: Costs, common: float = 0.0) -> None:
        moved = self._drift.moved + common
        self._drift.learned(self._residents.here, job.execute.variant, costs, moved)

    # ---- memory -----------------------------------------------------------------------------------

    def _climb(self, phase: str, paintings: list[Painting], now: float) -> None:
        """Take the next rung of the ladder out of an out-of-memory error, or fail the job."""
        job = paintings[0].job
        variant = job.execute.variant
        kind: ladder.Phase = "decode" if phase == "decode" else "step"
        rung = ladder.next_rung(
            kind,
            images=len(paintings),
            rows=self._rows(paintings),
            is_tiled=paintings[0].is_tiled,
            mode=self._residents.here[variant].memory_mode,
            kind=self._kind,
        )
        if rung is None or not self._take(rung, paintings, now):
            self._end(job, "out_of_memory", f"out of memory at {phase}")
            return
        for painting in paintings:
            painting.job.note(ladder.describe(rung, kind))

    def _end(self, job: Job, code: str, message: str) -> None:
        if job.ending is None:
            job.ending = Ended(job.execute.attempt, code, message)
            self._is_ripe = True

    def _take(self, rung: ladder.Rung, paintings: list[Painting], now: float) -> bool:
        variant = paintings[0].job.execute.variant
        match rung:
            case ladder.Tile():
                paintings[0].is_tiled = True
            case ladder.Shrink(rows):
                self._limits.shrink(variant, rows, now)
            case ladder.Lighten(mode):
                seconds = self._residents.switch(variant, mode)
                if seconds:
                    self.block(seconds, now)
                return seconds is not None
        return True


def _is_news(predicted_s: float, seen_s: float) -> bool:
    return abs(seen_s - predicted_s) > LEARNED * max(predicted_s, 1e-9)


def _steps_of(painting: Painting) -> int:
    """Return the steps of a finished image: as asked, or fewer if some were left out."""
    execute = painting.job.execute
    return painting.total if painting.is_shortened else execute.steps
