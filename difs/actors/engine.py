"""What an actor asks of its engine, and what all engines share: jobs, turns, and what failures cost.

`turn` does one unit (see `difs.actors.units`) and returns what the broker shall hear. Between two units
the actor takes messages, so a cancel costs one step at most.
"""

from abc import abstractmethod

from difs.actor_messages import Execute, Resident, SwitchFailed
from difs.actors.units import Report, Units
from difs.errors import DifsError
from difs.messages import MemoryMode


class Engine(Units):
    """Computes; knows nothing of sockets."""

    # ---- what an actor asks -----------------------------------------------------------------------

    @abstractmethod
    def load(self, variant: str, mode: MemoryMode | None = None) -> None:
        """Begin to make a variant resident and warm; `Loaded` or `LoadFailed` is reported by a turn.

        In a memory mode; None: its own. One that is parked returns as it was.
        """

    @abstractmethod
    def cancel_load(self, variant: str) -> None:
        """Give a load up; `LoadFailed` is reported, or `Loaded` if it was done."""

    @abstractmethod
    def evict(self, variant: str, *, is_final: bool = False) -> None:
        """Take a resident off the device, `is_final`: out of host memory, too; `Evicted` is reported."""

    def switch_mode(self, variant: str, mode: MemoryMode) -> None:
        """Change a resident's memory mode; `Switched` or `SwitchFailed` is reported."""
        try:
            self._switch(variant, mode)
        except DifsError as error:
            self._reports.append(SwitchFailed(variant, error.message))

    @property
    @abstractmethod
    def is_moving(self) -> bool:
        """Whether a variant is on its way to the device, or from it."""

    def wait_s(self) -> float:
        """Return after how many seconds a turn has something to do that nobody announces."""
        return float("inf")

    def close(self) -> None:
        """End what runs in the background."""
        self._easel.close()

    @property
    def residents(self) -> tuple[Resident, ...]:
        """Return what is loaded and measured."""
        return tuple(self._residents.values())

    def held_bytes(self) -> int:
        """Return the bytes of device memory that this process holds; asked from another thread."""
        return 0

    def others_bytes(self) -> int:
        """Return what others take of a device that is only simulated; asked from another thread."""
        return 0

    @property
    def attempts(self) -> tuple[int, ...]:
        """Return the attempts that are not done."""
        return tuple(job.execute.attempt for job in self._book)

    @property
    def is_busy(self) -> bool:
        """Whether a turn has something to compute now."""
        measures = any(not measuring.is_broken for measuring in self._measuring.values())
        return bool(self._reports or measures) or any(self._can_work(job) for job in self._book)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do that anybody waits for."""
        is_awaited = any(not measuring.is_rough for measuring in self._measuring.values())
        return not (self._book or self._reports or is_awaited or self.is_moving)

    @property
    def wants_restart(self) -> bool:
        """Whether memory failed so often that the process had better start anew."""
        return self._incidents.are_too_many(self._clock.now())

    def submit(self, execute: Execute) -> None:
        """Take an attempt."""
        self._book.submit(execute)

    def abort(self, attempt: int) -> None:
        """Give an attempt up; nothing happens when it is not here (any more)."""
        for job in self._book:
            if job.execute.attempt == attempt:
                self._book.end(job, "cancelled", "aborted between two steps")

    def clear(self) -> None:
        """Forget all attempts without a report; no slot is written any more when this returns."""
        self._book.clear()

    def turn(self) -> list[Report]:
        """Do one unit of work; returns what there is to report. Raises DeviceBroken."""
        self.collect()
        now = self._clock.now()
        for job in self._book:
            if now >= job.execute.deadline:
                self._book.end(job, "expired", "the deadline passed")
            elif not self._is_expected(job):
                self._book.end(job, "engine_failed", f"{job.execute.variant} is not loaded")
        self._settle()
        self._work(now)
        self._settle()
        reports, self._reports = self._reports, []
        return reports
