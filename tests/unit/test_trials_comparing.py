"""Two trials beside each other: a difference is found, and chance is not taken for one."""

from typing import Any

import numpy as np
import pytest

from difs.messages import MAX_LATENCY_S
from difs.trials import comparing, display
from difs.trials.comparing import Compared, Comparison, compare
from difs.trials.records import Trial
from tests.trials import delivered, lost, trial


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "RESAMPLES", 250)


def waits(seed: int, count: int, *, memory: float = 0.0, scale: float = 1.0) -> list[float]:
    """Return latencies of which each hangs on the one before by `memory` (0..1)."""
    dice, now, found = np.random.default_rng(seed), 0.0, []
    for _ in range(count):
        now = memory * now + (1 - memory**2) ** 0.5 * dice.normal()
        found.append(float(scale * np.exp(0.5 * now)))
    return found


def made(latencies: list[float], **facts: Any) -> Trial:
    assert max(latencies) < MAX_LATENCY_S
    return trial([delivered(i, s, kind=i % 3) for i, s in enumerate(latencies)], **facts)


def figure(found: Comparison, name: str) -> Compared:
    return next(f for f in found.figures if f.name == name)


def test_a_trial_beside_itself_differs_by_nothing() -> None:
    one = made(waits(1, 200))
    found = compare(one, one)
    assert found.paired
    assert {f.name for f in found.figures} == set(comparing.FIGURES)
    for f in found.figures:
        assert f.low == f.change == f.high == (1.0 if f.is_ratio else 0.0)
        assert not f.is_beyond_chance


def test_a_difference_is_found_and_its_size() -> None:
    found = compare(made(waits(1, 300)), made(waits(2, 300, scale=2.0), seed=2))
    assert not found.paired
    for name in ("mean_s", "p50_s", "p95_s"):
        f = figure(found, name)
        assert f.is_beyond_chance
        assert f.low < 2.0 < f.high
    assert figure(found, "attainment").change < 0


def test_pairs_show_what_separate_samples_hide() -> None:
    base = waits(1, 300)
    slower = [s * 1.03 for s in base]
    assert figure(compare(made(base), made(slower)), "mean_s").is_beyond_chance
    assert not figure(compare(made(base), made(slower, seed=2)), "mean_s").is_beyond_chance


def test_requests_that_wait_for_each_other_are_not_taken_for_independent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of equal services about one in twenty pairs is said to differ, not every second."""
    monkeypatch.setattr(comparing, "FIGURES", {"mean_s": comparing.FIGURES["mean_s"]})
    pairs = [
        (made(waits(i, 300, memory=0.8)), made(waits(1000 + i, 300, memory=0.8), seed=2))
        for i in range(50)
    ]

    def wrong() -> float:
        return sum(figure(compare(a, b), "mean_s").is_beyond_chance for a, b in pairs) / len(pairs)

    assert wrong() < 0.19
    monkeypatch.setattr(comparing, "block_length", lambda values: 1)
    assert wrong() > 0.25, "the blocks are what keeps it honest"


def test_the_same_seed_gives_the_same_answer() -> None:
    a, b = made(waits(1, 100)), made(waits(2, 100), seed=2)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b) != compare(a, b, seed=5)


def test_neighbours_hang_together_as_far_as_they_do() -> None:
    alone = comparing.block_length(np.array(waits(1, 1000)))
    together = comparing.block_length(np.array(waits(1, 1000, memory=0.95)))
    assert alone <= 20 < together <= 100
    assert comparing.block_length(np.full(100, 1.0)) == 1


def test_too_few_requests_say_nothing() -> None:
    found = compare(made(waits(1, 10)), made(waits(2, 10)))
    assert found.figures == ()
    assert any("too few" in words for words in found.warnings)


def test_trials_without_a_picture_are_compared_as_far_as_they_go() -> None:
    none = trial([lost(i, "overloaded", kind=1) for i in range(50)])
    found = compare(made(waits(1, 50)), none)
    assert {f.name for f in found.figures} == {"throughput_hz", "goodput_hz", "attainment"}
    assert figure(found, "throughput_hz").b == 0.0


def test_what_else_differs_is_said() -> None:
    found = compare(made(waits(1, 50)), made(waits(2, 50), seed=2))
    assert any("not the same requests" in words for words in found.warnings)
    assert compare(made(waits(1, 50)), made(waits(2, 50))).warnings == ()


def test_people_are_told_plainly() -> None:
    far = "\n".join(
        display.sentences(compare(made(waits(1, 300)), made(waits(1, 300, scale=2))), "a", "b")
    )
    assert "b beside a, request by request" in far
    assert "2.000 times (2.000 to 2.000)  beyond chance" in far
    one = made(waits(1, 300))
    same = "\n".join(display.sentences(compare(one, one), "a", "b"))
    assert "nothing that chance alone could not do" in same
