"""What an actor asks of its engine, and what both engines share: the jobs and their turns.

An engine holds residents and works in units: `turn` does one (an encoding, one denoising step, a
decoding) and returns what the broker shall hear. Between two units the actor takes messages, so a
cancel costs one step at most.
"""

import logging
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from difs.actor_messages import Ended, Execute, Finished, Resident, Sealed, Stepped
from difs.clock import Clock
from difs.errors import DifsError

log = logging.getLogger(__name__)

Report = Stepped | Finished | Ended


class Job:
    """An attempt on its way: which image, what was measured."""

    def __init__(self, execute: Execute) -> None:
        """Begin before the first image."""
        self.execute = execute
        self.image = 0
        self.sealed: list[Sealed] = []
        self.encode_s = self.steps_s = self.decode_s = self.deliver_s = 0.0
        self.notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Return the seed of the image at work."""
        return self.execute.seeds[self.image]

    def seal(self, sealed: Sealed, seed_contract: str) -> Finished | None:
        """Enter the image at work as done; returns the report once all are."""
        self.sealed.append(sealed)
        self.image += 1
        if self.image < len(self.execute.seeds):
            return None
        return Finished(
            attempt=self.execute.attempt,
            images=tuple(self.sealed),
            encode_s=self.encode_s,
            steps_s=self.steps_s,
            decode_s=self.decode_s,
            deliver_s=self.deliver_s,
            seed_contract=seed_contract,
            notes=self.notes,
        )


J = TypeVar("J", bound=Job)


class Engine(ABC, Generic[J]):
    """Computes; knows nothing of sockets. Attempts run in the order in which they were sent."""

    def __init__(self, clock: Clock) -> None:
        """Start with no jobs."""
        self._clock = clock
        self._jobs: list[J] = []

    @abstractmethod
    def load(self, variant: str) -> Resident:
        """Make a variant resident and warm; raises DifsError."""

    @abstractmethod
    def evict(self, variant: str) -> None:
        """Drop a resident."""

    @abstractmethod
    def new_job(self, execute: Execute) -> J:
        """Return the job of an attempt."""

    @abstractmethod
    def advance(self, job: J) -> Report | None:
        """Do the next unit of a job; raises DifsError when the attempt cannot go on."""

    @property
    def is_busy(self) -> bool:
        """Whether `turn` has something to do."""
        return bool(self._jobs)

    @property
    def attempts(self) -> tuple[int, ...]:
        """Return the attempts that are not done."""
        return tuple(job.execute.attempt for job in self._jobs)

    def submit(self, execute: Execute) -> None:
        """Take an attempt."""
        self._jobs.append(self.new_job(execute))

    def abort(self, attempt: int) -> Report | None:
        """Give an attempt up; None when it is not here (any more)."""
        for job in self._jobs:
            if job.execute.attempt == attempt:
                self._jobs.remove(job)
                return Ended(attempt, "cancelled", "aborted between two steps")
        return None

    def clear(self) -> None:
        """Forget all attempts without a report."""
        self._jobs.clear()

    def turn(self) -> Report | None:
        """Do one unit of work of the oldest attempt; returns what there is to report."""
        if not self._jobs:
            return None
        job = self._jobs[0]
        report = self._guarded(job)
        if report is not None and not isinstance(report, Stepped):
            self._jobs.remove(job)
        return report

    def _guarded(self, job: J) -> Report | None:
        """Advance a job; whatever breaks it must not take the others along."""
        number = job.execute.attempt
        if self._clock.now() >= job.execute.deadline:
            return Ended(number, "expired", "the deadline passed")
        try:
            return self.advance(job)
        except DifsError as error:
            return Ended(number, error.code, error.message)
        except Exception as error:
            log.exception("attempt %d broke", number)
            return Ended(number, "engine_failed", f"the engine failed: {type(error).__name__}")
