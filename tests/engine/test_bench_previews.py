"""bench.previews: what a preview costs is told from what drifts, by chance or by habit."""

from collections.abc import Iterable

import numpy as np
import pytest

from bench import previews

pytestmark = pytest.mark.torch


def numbered(seconds: Iterable[float]) -> dict[int, float]:
    return dict(enumerate(map(float, seconds), 1))


def batches(extra: float, count: int = 20) -> list[dict[int, float]]:
    """Return steps that grow slower, with noise of 1 %; every other one takes `extra` more."""
    chance = np.random.default_rng(3)
    drift = np.linspace(1.0, 1.5, previews.STEPS)
    shown = np.arange(previews.STEPS) % 2  # steps count from 1: every second one
    return [
        numbered(drift * (1 + extra * shown) * (1 + 0.01 * chance.standard_normal(previews.STEPS)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("extra", [0.0, 0.01, 0.05])
def test_what_a_preview_adds_lies_in_its_interval_and_a_percent_can_be_seen(extra: float) -> None:
    middle, low, high = previews.interval([previews.excesses(steps) for steps in batches(extra)])
    assert low <= middle <= high
    assert low <= extra * 100 <= high
    assert high - low < 1.0


def test_a_step_is_compared_with_its_two_neighbours() -> None:
    steps = numbered([1.0, 3.0, 2.0, 3.0, 4.0, 9.0])
    assert previews.excesses(steps) == [1.0, 0.0]
    del steps[1]  # of which fewer images were
    assert previews.excesses(steps) == [0.0]
