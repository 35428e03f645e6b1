"""difs.quality: what a curve says between and beyond its measured points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difs import quality
from difs.messages import QualityPoint, VariantInfo
from tests.builders import variant

CURVE = tuple(
    QualityPoint(side, steps, guidance, score)
    for side, guidance, line in (
        (64, 1.0, {2: 0.5, 4: 0.7, 8: 0.9}),
        (64, 2.5, {2: 0.2, 4: 0.6, 8: 0.8}),
        (128, 1.0, {2: 0.3, 8: 0.5}),
    )
    for steps, score in line.items()
)


@pytest.mark.parametrize(
    ("steps", "guidance", "side", "score"),
    [
        (4, 1.0, 64, 0.7),
        (6, 1.0, 64, 0.8),
        (1, 1.0, 64, 0.25),
        (50, 1.0, 64, 0.9),
        (4, 2.0, 64, 0.6),
        (4, 7.0, 64, 0.6),
        (4, 0.0, 64, 0.7),
        (5, 9.0, 128, 0.4),
        (5, 1.0, 1024, 0.4),
        (4, 1.0, 48, 0.7),
    ],
)
def test_the_nearest_size_and_guidance_count_and_steps_are_interpolated(
    steps: int, guidance: float, side: int, score: float
) -> None:
    assert quality.expected(CURVE, steps, guidance, side) == pytest.approx(score)


def test_without_a_curve_nothing_is_expected() -> None:
    assert quality.expected((), 4, 1.0, 64) is None


@given(st.integers(1, 60), st.floats(0, 10), st.sampled_from([64, 100, 128, 512]))
def test_expectations_stay_within_what_was_measured(steps: int, guidance: float, side: int) -> None:
    found = quality.expected(CURVE, steps, guidance, side)
    assert found is not None
    assert 0 <= found <= 0.9


@given(st.integers(1, 149))
def test_what_is_assumed_rises_with_steps_and_stays_low(steps: int) -> None:
    info = variant()
    assert 0 < quality.assumed(info, steps) <= quality.assumed(info, steps + 1) <= quality.ASSUMED_MOST


# ---- rulers ---------------------------------------------------------------------------------------


def judged(name: str, kind: str | None, judge: str = "") -> VariantInfo:
    return variant(name, quality=CURVE if kind else (), quality_kind=kind, quality_judge=judge)


def test_only_what_one_ruler_measured_is_compared() -> None:
    by_reference = judged("a", "reference", "emoji-base")
    by_clip = [judged(name, "clip", "vit") for name in "bcd"]
    assert quality.common_ruler([by_reference, *by_clip]) == ("reference", "emoji-base")
    assert quality.common_ruler(by_clip) == ("clip", "vit")
    others = [judged("e", "clip", "another"), *by_clip]
    assert quality.common_ruler(others) == ("clip", "vit"), "the one that measured most of them"
    assert quality.common_ruler([judged("f", None)]) is None


def test_agreement_with_oneself_says_nothing_of_others() -> None:
    alone, other = judged("a", "agreement", "a"), judged("b", "agreement", "b")
    assert quality.common_ruler([alone]) == ("agreement", "a")
    assert quality.common_ruler([alone, other]) is None
    assert quality.common_ruler([alone, judged("c", None)]) is None
