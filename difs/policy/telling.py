"""Why a point was not chosen, in words for people."""

from difs.messages import Alternative
from difs.policy.frontier import Point

FINE = 0.01
"""A difference below this is told in thousandths."""


def alternative(point: Point, chosen: Point, floor: float, budget: float) -> Alternative:
    """Return a point beside the chosen one, with the reason; the chosen one itself has none."""
    return Alternative(
        variant=point.info.name,
        device=point.device.device,
        steps=point.steps,
        guidance_scale=point.guidance,
        total_s=point.total_s,
        expected_quality=point.worth if point.is_measured else None,
        why_not="" if point == chosen else _why_not(point, chosen, floor, budget),
        memory_mode=point.memory_mode,
    )


def _why_not(point: Point, chosen: Point, floor: float, budget: float) -> str:
    if point.total_s > budget >= chosen.total_s:
        return f"not done in {budget:g} s"
    if point.worth < floor <= chosen.worth:
        return f"below the quality {floor:.2f} that is wanted"
    if point.worth < chosen.worth:
        return _less(point, chosen)
    return f"{point.total_s - chosen.total_s:.2f} s later"


def _less(point: Point, chosen: Point) -> str:
    """Return in which way a point is worth less; numbers only where both were measured."""
    if point.is_measured and chosen.is_measured:
        less = chosen.worth - point.worth
        return f"{less:.3f} less quality" if less < FINE else f"{less:.2f} less quality"
    return "fewer steps" if point.info.name == chosen.info.name else "its quality is not known"
