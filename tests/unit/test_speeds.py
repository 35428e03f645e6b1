"""difs.speeds: how fast a device is, fitted to what was measured."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import speeds
from difs.speeds import Amounts, Speed

CPU = speeds.usual("cpu")
calls = st.tuples(st.floats(1, 1e3), st.floats(1e4, 1e9), st.floats(1e6, 1e12))
factors = st.tuples(*[st.floats(0.2, 5.0)] * 3)


def timed(of: list[Amounts], speed: Speed) -> list[tuple[Amounts, float]]:
    return [(amounts, speeds.seconds(speed, amounts)) for amounts in of]


def test_what_the_calls_tell_apart_is_found() -> None:
    truth = (3 * CPU[0], 0.5 * CPU[1], 2 * CPU[2])
    of = [(100.0, 1e6, 1e7), (1000.0, 1e6, 1e7), (100.0, 1e8, 1e7), (100.0, 1e6, 1e10)]
    assert speeds.fitted(timed(of * 25, truth), CPU) == pytest.approx(truth, rel=0.02)


@settings(max_examples=100)
@given(calls, st.floats(1e-3, 1e3))
def test_of_one_call_the_usual_proportions_are_kept(of: Amounts, factor: float) -> None:
    found = speeds.fitted(timed([of], tuple(factor * s for s in CPU)), CPU)  # type: ignore[arg-type]
    assert [f / s for f, s in zip(found, CPU, strict=True)] == pytest.approx([factor] * 3, rel=1e-6)


@settings(max_examples=100)
@given(st.lists(st.tuples(calls, st.floats(1e-4, 100)), min_size=1, max_size=20))
def test_nothing_is_negative_and_every_call_takes_time(measured: list[tuple[Amounts, float]]) -> None:
    found = speeds.fitted(measured, CPU)
    assert min(found) >= 0
    assert all(speeds.seconds(found, of) > 0 for of, _ in measured)


@settings(max_examples=100)
@given(st.lists(calls, min_size=1, max_size=10), factors, st.floats(0.01, 100))
def test_on_a_device_that_is_slower_all_is_slower_alike(
    of: list[Amounts], truth: Speed, factor: float
) -> None:
    speed = (truth[0] * CPU[0], truth[1] * CPU[1], truth[2] * CPU[2])
    measured = timed(of, speed)
    found = speeds.fitted([(amounts, factor * s) for amounts, s in measured], CPU)
    assert found == pytest.approx([factor * s for s in speeds.fitted(measured, CPU)], rel=1e-3, abs=1e-18)


def test_without_calls_a_kind_is_as_usual() -> None:
    assert speeds.fitted([], CPU) == CPU
    assert speeds.usual("simulated") == CPU != speeds.usual("cuda")
