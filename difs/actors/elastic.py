"""When a request falls behind: how many of its steps are left out, so that its latency is kept. Pure.

Only a request whose client stated a latency has a floor, and none is cut below it: what its quality
needs. Steps are what a sampler can do without, evenly (see `difs.actors.schedulers.respace`).
"""

from msgspec import Struct


class Course(Struct, frozen=True):
    """An image on its way, as its engine sees it."""

    done: int
    """Steps."""
    left: int
    floor: int
    """The fewest steps of the whole way."""
    step_s: float
    """What a step takes now: alone by the costs, or longer if its steps took longer so far."""
    rest_s: float
    """Everything after the last step."""
    time_s: float
    """Until it is due."""


def steps_left(course: Course) -> int:
    """Return how many steps to do from here: all that are left, or fewer if they would be late.

    One step late is left alone: predictions are not that good.
    """
    late_s = course.left * course.step_s + course.rest_s - course.time_s
    if late_s <= course.step_s or course.step_s <= 0:
        return course.left
    fitting = int((course.time_s - course.rest_s) / course.step_s)
    return min(course.left, max(1, course.floor - course.done, fitting))


def note(steps: int, asked: int) -> str:
    """Return what the client is told."""
    return f"{steps} steps instead of {asked}: it fell behind, and its latency was to be kept"
