"""The states of requests, attempts and actors, and the tables of what may follow what.

These tables are the truth: every change of state goes through `Books.follow`, and the diagrams in the
docs are drawn from them. No records, no decisions here.
"""

from enum import StrEnum

from difs.errors import InternalError


class RequestState(StrEnum):
    """Where a request stands, as its client sees it."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """Where one dispatch stands, as its actor sees it."""

    RUNNING = "running"
    ABORTING = "aborting"
    ENDED = "ended"


class ActorState(StrEnum):
    """Whether an actor may be given work."""

    READY = "ready"
    LEAVING = "leaving"
    LOST = "lost"


class Cause(StrEnum):
    """Why a state changed."""

    DISPATCHED = "dispatched"
    FINISHED = "finished"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REQUEUED = "requeued"
    ABORTED = "aborted"
    ENDED = "ended"
    LOST = "lost"
    DRAINED = "drained"


REQUEST_TABLE: dict[RequestState, dict[Cause, RequestState]] = {
    RequestState.QUEUED: {
        Cause.DISPATCHED: RequestState.RUNNING,
        Cause.FAILED: RequestState.FAILED,
        Cause.EXPIRED: RequestState.EXPIRED,
        Cause.CANCELLED: RequestState.CANCELLED,
    },
    RequestState.RUNNING: {
        Cause.FINISHED: RequestState.FINISHED,
        Cause.FAILED: RequestState.FAILED,
        Cause.EXPIRED: RequestState.EXPIRED,
        Cause.CANCELLED: RequestState.CANCELLED,
        Cause.REQUEUED: RequestState.QUEUED,
    },
    RequestState.FINISHED: {},
    RequestState.FAILED: {},
    RequestState.EXPIRED: {},
    RequestState.CANCELLED: {},
}

ATTEMPT_TABLE: dict[AttemptState, dict[Cause, AttemptState]] = {
    AttemptState.RUNNING: {
        Cause.ABORTED: AttemptState.ABORTING,
        Cause.ENDED: AttemptState.ENDED,
        Cause.LOST: AttemptState.ENDED,
    },
    AttemptState.ABORTING: {
        Cause.ENDED: AttemptState.ENDED,
        Cause.LOST: AttemptState.ENDED,
    },
    AttemptState.ENDED: {},
}

ACTOR_TABLE: dict[ActorState, dict[Cause, ActorState]] = {
    ActorState.READY: {Cause.DRAINED: ActorState.LEAVING, Cause.LOST: ActorState.LOST},
    ActorState.LEAVING: {Cause.LOST: ActorState.LOST},
    ActorState.LOST: {},
}


class InvalidTransition(InternalError):
    """A state was asked to change in a way that its table does not know: a bug."""
