"""Attempts on their way through an engine: what is done, what was measured. No decisions, no tensors."""

import math
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from difs.actor_messages import Costs, Ended, Execute, Finished, Resident, Sealed
from difs.actors import elastic
from difs.actors.batching import Candidate
from difs.profiles import decode_seconds, limited, step_seconds


class Painting:
    """One image of an attempt."""

    def __init__(self, job: "Job", index: int) -> None:
        """Begin before the noise is drawn."""
        self.job = job
        self.index = index
        self.work: Any = None
        """What the engine keeps of it between two units: noise, latents, a scheduler."""
        self.done = 0
        self.total = 0
        """UNet calls; 0 before the noise is drawn."""
        self.is_running = False
        self.is_shared = False
        """Some call of it was shared with another image."""
        self.is_alone = job.execute.is_alone
        """It shares no call: it was asked to, or a call that it shared failed."""
        self.sharers = 0
        """Images in each of its calls, summed."""
        self.is_tiled = False
        self.began_at = 0.0
        self.is_shortened = False
        """Some of its steps were left out, so that its latency is kept."""
        self.decoded_at = 0.0
        self.delivery: Future[Sealed] | None = None

    @property
    def seed(self) -> int:
        """Return the seed of its noise."""
        return self.job.execute.seeds[self.index]

    @property
    def is_decoded(self) -> bool:
        """Whether nothing is left to compute."""
        return self.delivery is not None or self.index in self.job.sealed

    def restart(self) -> None:
        """Begin anew from the noise: its sampler's state may be spoilt."""
        self.work, self.done, self.total, self.is_shortened = None, 0, 0, False


class Job:
    """An attempt: its images, and the seconds in which it was at work."""

    def __init__(self, execute: Execute) -> None:
        """Begin before the prompt is encoded."""
        self.execute = execute
        self.conditioning: Any = None
        self.paintings = [Painting(self, i) for i in range(len(execute.seeds))]
        self.sealed: dict[int, Sealed] = {}
        self.encode_s = self.steps_s = self.decode_s = self.deliver_s = 0.0
        self.notes: list[str] = []
        self.scores: list[float | None] = []
        """Of the pictures that are finished, where they are to be judged."""
        self.is_cached = False
        """Its prompts had been encoded before: the seconds say nothing of what encoding costs."""
        self.is_exact = True
        """Nothing but the batch can make it differ from a run of diffusers."""
        self.ending: Ended | None = None
        """How it ends once its slots are written no more."""

    @property
    def due(self) -> float:
        """Return when its images are wanted."""
        return self.execute.due or self.execute.deadline

    @property
    def group(self) -> tuple[str, int, int]:
        """Return what its images may share a call with."""
        return (self.execute.variant, self.execute.width, self.execute.height)

    @property
    def undecoded(self) -> int:
        """Return how many of its images are still to be decoded: it is done with the last of them."""
        return sum(not p.is_decoded for p in self.paintings)

    @property
    def is_delivering(self) -> bool:
        """Whether one of its slots is being written in the background."""
        return any(p.delivery is not None for p in self.paintings)

    @property
    def is_over(self) -> bool:
        """Whether it can be reported: it ended or has all images, and writes into no slot."""
        return not self.is_delivering and (
            self.ending is not None or len(self.sealed) == len(self.paintings)
        )

    def part(self) -> None:
        """Part it from its images: they refer to each other, and such a ring waits for the collector."""
        self.paintings.clear()

    def note(self, words: str) -> None:
        """Tell the client something, once."""
        if words and words not in self.notes:
            self.notes.append(words)

    def finished(self, resident: Resident | None, rows: int) -> Finished:
        """Return the report of a job whose images are all sealed.

        `resident` painted them; its calls have so many `rows` at most, which is told with its costs.
        """
        calls = sum(p.total for p in self.paintings)
        if cut := [p.total for p in self.paintings if p.is_shortened]:
            self.note(elastic.note(min(cut), self.execute.steps))
        exact = self.is_exact and not any(p.is_shared for p in self.paintings)
        return Finished(
            attempt=self.execute.attempt,
            images=tuple(self.sealed[i] for i in range(len(self.paintings))),
            encode_s=self.encode_s,
            steps_s=self.steps_s,
            decode_s=self.decode_s,
            deliver_s=self.deliver_s,
            seed_contract="bitwise" if exact else "same-noise",
            notes=tuple(self.notes),
            seed_bound=resident.seed_bound if resident is not None and not exact else 0.0,
            shared_by=sum(p.sharers for p in self.paintings) / calls if calls else 1.0,
            costs=limited(resident.costs, rows) if resident is not None else None,
            score=self._score(),
        )

    def _score(self) -> float | None:
        """Return the score of the worst picture; None where one has none."""
        known = [score for score in self.scores if score is not None]
        return min(known) if known and len(known) == len(self.paintings) else None


def lagging(job: Job, costs: Costs, rows: int, now: float) -> Iterator[tuple[Painting, int]]:
    """Yield the images of a job that fell behind, with the steps that each is to do from here.

    `rows`: UNet rows of one image of it.
    """
    execute = job.execute
    pixels = execute.width * execute.height
    rest_s = job.undecoded * decode_seconds(costs, pixels)
    for painting in job.paintings:
        left = painting.total - painting.done
        if left <= 1 or painting.done == 0:
            continue
        seen_s = (now - painting.began_at) / painting.done
        course = elastic.Course(
            done=painting.done,
            left=left,
            floor=execute.floor_steps,
            step_s=max(step_seconds(costs, pixels, rows), seen_s),
            rest_s=rest_s,
            time_s=execute.latest - now,
        )
        wanted = elastic.steps_left(course)
        if wanted < left:
            yield painting, wanted


def candidates_of(key: int, job: Job, costs: Costs, rows: int, evaluations: int) -> list[Candidate]:
    """Return a job's units that can be done now; `key` + i stands for image i.

    `rows` and `evaluations`: UNet rows and UNet calls of one image of it.
    """
    execute, group, due = job.execute, job.group, job.due
    pixels = execute.width * execute.height
    step_s = step_seconds(costs, pixels, rows)
    decode_s = decode_seconds(costs, pixels)
    latest, told, gives_way = execute.latest or math.inf, execute.told or math.inf, execute.is_best_effort
    in_haste = execute.is_in_haste
    if job.conditioning is None:
        n = len(job.paintings)
        calls_s = evaluations * step_seconds(costs, pixels, n * rows)
        all_s = costs.encode_s + calls_s + n * decode_s
        first = Candidate(
            key,
            "encode",
            group,
            rows,
            due,
            all_s,
            costs.encode_s,
            latest=latest,
            told=told,
            is_in_haste=in_haste,
            is_best_effort=gives_way,
        )
        return [first]
    found = []
    last_s = job.undecoded * decode_s
    for painting in job.paintings:
        if painting.is_decoded:
            continue
        left = (painting.total or evaluations) - painting.done
        own = Candidate(  # thousands are made a second: names would cost as much again
            key + painting.index,
            "step" if left else "decode",
            (*group, key + painting.index) if painting.is_alone else group,
            rows,
            due,
            left * step_s + last_s,
            step_s if left else decode_s,
            left,
            latest,
            told,
            in_haste,
            painting.is_running,
            gives_way,
        )
        found.append(own)
    return found
