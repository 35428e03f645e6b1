"""The attempts that an actor has: taken, given up, ended, finished. Computes nothing."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from difs.actor_messages import Ended, Execute, Sealed
from difs.actors.jobs import Job, Painting
from difs.clock import Clock
from difs.errors import DifsError

log = logging.getLogger(__name__)


class JobBook:
    """All jobs of an engine, in the order in which they came."""

    def __init__(self, clock: Clock, drop: Callable[[Painting], None]) -> None:
        """`drop` lets go of what is kept for an image."""
        self._clock = clock
        self._drop = drop
        self._jobs: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def submit(self, execute: Execute) -> None:
        """Take an attempt."""
        self._jobs.append(Job(execute))

    def end(self, job: Job, code: str, message: str) -> None:
        """Let a job end without images, as soon as none of its slots is being written."""
        if job.ending is None:
            job.ending = Ended(job.execute.attempt, code, message)
            self._drop_all(job)

    def fail(self, job: Job, error: BaseException) -> None:
        """End a job by an error; one that is not ours is logged and told by its name only."""
        if isinstance(error, DifsError):
            self.end(job, error.code, error.message)
        else:
            log.error("attempt %d broke", job.execute.attempt, exc_info=error)
            self.end(job, "engine_failed", f"the engine failed: {type(error).__name__}")

    def clear(self) -> None:
        """Forget all jobs; no slot is written any more when this returns."""
        for job in self._jobs:
            self._drop_all(job)
            for painting in job.paintings:
                if painting.delivery is not None:
                    painting.delivery.exception()
            job.part()
        self._jobs.clear()

    def settle(self) -> list[Job]:
        """Take finished deliveries; returns the jobs that are over, which leave the book."""
        for job in self._jobs:
            for painting in job.paintings:
                if painting.delivery is not None and painting.delivery.done():
                    self._take_delivery(painting, painting.delivery)
        over = [job for job in self._jobs if job.is_over]
        self._jobs = [job for job in self._jobs if not job.is_over]
        return over

    def hang(self, painting: Painting, delivered: Sealed | Future[Sealed]) -> None:
        """Enter a decoded image: its slot is sealed, or will be."""
        if isinstance(delivered, Future):
            painting.delivery = delivered
            return
        painting.job.deliver_s += self._clock.now() - painting.decoded_at
        painting.job.sealed[painting.index] = delivered

    def _take_delivery(self, painting: Painting, delivery: Future[Sealed]) -> None:
        painting.delivery = None
        error = delivery.exception()
        if error is None:
            self.hang(painting, delivery.result())
        else:
            self.fail(painting.job, error)

    def _drop_all(self, job: Job) -> None:
        for painting in job.paintings:
            self._drop(painting)
