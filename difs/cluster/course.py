"""What follows a failure: another node, a rest, or the end. Pure; time is passed in.

A request keeps its id wherever it is tried. A node that died, or whose broker did, while it had the
request costs one of its attempts: a request that ends services must not end them all. A node that is full
costs none: the others are asked first.
"""

from msgspec import Struct
from msgspec.structs import replace

from difs.client.core import rest_s
from difs.errors import ActorLost, BrokerLost, DifsError, Infeasible, UnknownName
from difs.messages import Generate

LEAST_LEFT_S = 0.001
"""What is left at least of a deadline that has passed: the node says what that means."""
_OTHERS_MAY = (UnknownName, Infeasible)
"""Refusals that another node need not share."""


class Course(Struct, frozen=True):
    """What has become of a request so far."""

    lost: int = 0
    """Attempts that ended with their node."""
    refused: tuple[str, ...] = ()
    """Nodes that had no room, since the last rest."""
    left: tuple[str, ...] = ()
    """Nodes on which it was lost."""
    rests: int = 0

    @property
    def avoid(self) -> tuple[str, ...]:
        """Return the nodes that are not to be tried next."""
        return (*self.left, *self.refused)


class Elsewhere(Struct, frozen=True):
    """Try another node, now."""

    course: Course


class Rest(Struct, frozen=True):
    """Try again after a while."""

    course: Course
    seconds: float


class End(Struct, frozen=True):
    """Tell the caller."""

    error: Exception


Next = Elsewhere | Rest | End


class Terms(Struct, frozen=True):
    """What bounds a request's course."""

    attempts: int
    nodes: int
    """How many there are now."""
    retries: int
    left_s: float
    """Until the request is given up."""
    wants_to_know: bool = False
    """A refusal for lack of room is told at once."""


def lost(course: Course, node: str, terms: Terms) -> Next:
    """Decide after a node, or its broker, died with the request."""
    gone = course.lost + 1
    if gone >= terms.attempts:
        return End(ActorLost(f"{gone} attempts ended with the death of their node"))
    return Elsewhere(replace(course, lost=gone, left=(*course.left, node)))


def refused(course: Course, node: str, error: DifsError, terms: Terms, jitter: float) -> Next:
    """Decide after a node answered with an error; `jitter` in 0..1 spreads what rests."""
    if isinstance(error, BrokerLost):
        return lost(course, node, terms)
    if not (error.retryable or isinstance(error, _OTHERS_MAY)):
        return End(error)
    is_new = node not in course.avoid
    course = replace(course, refused=(*course.refused, node))
    if is_new and len(set(course.avoid)) < terms.nodes:
        return Elsewhere(course)
    seconds = rest_s(course.rests, error, jitter)
    has_time = course.rests < terms.retries and seconds < terms.left_s
    if not (error.retryable and has_time) or (terms.wants_to_know and error.code == "overloaded"):
        return End(error)
    return Rest(replace(course, rests=course.rests + 1, refused=()), seconds)


def remaining(request: Generate, elapsed_s: float) -> Generate:
    """Return a request as it is to be asked `elapsed_s` after its caller asked it."""
    needs = request.requirements
    if needs.latency_s is not None:
        needs = replace(needs, latency_s=max(LEAST_LEFT_S, needs.latency_s - elapsed_s))
    timeout_s = max(LEAST_LEFT_S, request.timeout_s - elapsed_s)
    return replace(request, requirements=needs, timeout_s=timeout_s)
