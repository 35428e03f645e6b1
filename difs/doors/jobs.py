"""Jobs: what is known of a request while it runs, and for a while after. Pure; time is passed in."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from difs.doors.answers import Refused
from difs.doors.orders import Order, Outcome
from difs.errors import IdConflict, NotFound
from difs.messages import Accepted, Plan, Preview, Progress

KEPT_S = 600.0
"""How long an ended job can be asked for."""
KEPT_JOBS = 512
KEPT_BYTES = 256 * 2**20
"""Bytes of pictures that are kept; the oldest go first."""


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (State.QUEUED, State.RUNNING)


@dataclass(slots=True)
class Job:
    """One request, as its events told."""

    caller: str
    request_id: str
    n: int
    begun_at: float
    order: Order | None = None
    state: State = State.QUEUED
    version: int = 0
    """Counts the changes: a reader sees whether there is news."""
    position: int | None = None
    """Where it waits, 1 for the next, as it was at `placed_at`."""
    placed_at: float = float("-inf")
    plan: Plan | None = None
    planned_at: float = 0.0
    steps: int = 0
    steps_of: dict[int, int] = field(default_factory=dict)
    """Steps done of each image."""
    preview: Preview | None = None
    preview_of: int = 0
    outcome: Outcome | None = None
    refused: Refused | None = None
    ended_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN

    @property
    def step(self) -> int:
        """Return the steps done of the image that is furthest."""
        return max(self.steps_of.values(), default=0)

    def heard(self, event: Accepted | Progress, now: float) -> None:
        """Take a sign of progress."""
        self.version += 1
        if isinstance(event, Accepted):
            if event.plan is not None:
                self.plan, self.planned_at = event.plan, now
            return
        self.state, self.steps = State.RUNNING, event.steps
        self.steps_of[event.image] = event.step
        if event.preview is not None:
            self.preview, self.preview_of = event.preview, event.image

    def done(self, outcome: Outcome, now: float) -> None:
        """End with pictures."""
        self._end(State.DONE, now)
        self.outcome, self.plan = outcome, outcome.plan

    def failed(self, refused: Refused, now: float) -> None:
        """End without."""
        self._end(State.CANCELLED if refused.code == "cancelled" else State.FAILED, now)
        self.refused = refused

    def _end(self, state: State, now: float) -> None:
        self.version += 1
        self.state, self.ended_at, self.preview = state, now, None

    def share(self) -> float:
        """Return which part of all steps is done, 0..1."""
        total = self.n * self.steps
        return min(1.0, sum(self.steps_of.values()) / total) if total else 0.0

    def left_s(self, now: float) -> float | None:
        """Return the predicted seconds until the result; None where nothing is predicted."""
        if not self.is_open or self.plan is None:
            return None
        return max(0.0, self.planned_at + self.plan.prediction.total_s - now)

    def nbytes(self) -> int:
        """Return the bytes of its pictures."""
        return sum(len(p.data) + len(p.base64) for p in self.outcome.pictures) if self.outcome else 0


class Jobs:
    """All jobs of all callers; nobody sees another's."""

    def __init__(self) -> None:
        """Start with none."""
        self._jobs: dict[tuple[str, str], Job] = {}

    def add(self, job: Job) -> None:
        """Take a new job; raises IdConflict where its caller has one of this id."""
        key = (job.caller, job.request_id)
        if key in self._jobs:
            raise IdConflict("a request of this id is known already", field="request_id")
        self._jobs[key] = job

    def find(self, caller: str, request_id: str) -> Job:
        """Return a caller's job; raises NotFound."""
        job = self._jobs.get((caller, request_id))
        if job is None:
            raise NotFound(f"no request {request_id[:64]!r}; ended ones are kept for {KEPT_S:g} s")
        return job

    def known(self, caller: str, request_id: str) -> Job | None:
        """Return a caller's job, if there is one."""
        return self._jobs.get((caller, request_id))

    def forget(self, job: Job) -> None:
        """Drop a job."""
        self._jobs.pop((job.caller, job.request_id), None)

    def sweep(self, now: float) -> None:
        """Drop what ended long ago, and the oldest of what is too much."""
        ended = sorted((job for job in self if not job.is_open), key=lambda job: job.ended_at)
        nbytes, count = sum(job.nbytes() for job in ended), len(ended)
        for job in ended:
            if now - job.ended_at <= KEPT_S and nbytes <= KEPT_BYTES and count <= KEPT_JOBS:
                return
            nbytes, count = nbytes - job.nbytes(), count - 1
            self.forget(job)

    def __iter__(self) -> Iterator[Job]:
        """Go through all jobs, the oldest first."""
        return iter(self._jobs.values())
