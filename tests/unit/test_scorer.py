"""difs.scorer: nearer pictures score more, other things score nothing."""

import itertools

import numpy as np
import pytest

from difs.scorer import Pixels, Scorer, scaled, similarity
from tests.unit.test_repository import MODEL_REPO


def drawing(seed: int) -> Pixels:
    """A picture of some coloured rectangles on white."""
    dice = np.random.default_rng(seed)
    picture = np.full((128, 128, 3), 255, np.uint8)
    for _ in range(6):
        top, left = dice.integers(8, 80, 2)
        high, wide = dice.integers(10, 40, 2)
        picture[top : top + high, left : left + wide] = dice.integers(0, 256, 3)
    return picture


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer({f"thing {seed}": drawing(seed) for seed in range(12)})


def noisy(picture: Pixels, strength: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, strength, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [64, 128])
def test_the_drawing_itself_is_perfect(scorer: Scorer, side: int) -> None:
    judged = scorer.judge(scorer.reference("thing 3", side), "thing 3", side)
    assert judged.rank == 0
    assert judged.score == pytest.approx(1.0)
    assert judged.psnr_db > 80


def test_the_nearer_a_picture_is_the_more_it_scores(scorer: Scorer) -> None:
    wanted = scorer.reference("thing 3", 64)
    scores = [scorer.judge(noisy(wanted, s), "thing 3", 64).score for s in (0, 3, 8, 20)]
    assert all(a > b for a, b in itertools.pairwise(scores))


def test_another_thing_scores_nothing_however_sharp(scorer: Scorer) -> None:
    judged = scorer.judge(scorer.reference("thing 4", 64), "thing 3", 64)
    assert judged.rank > 0
    assert judged.score == 0.0


def test_a_small_picture_enlarged_is_worth_less_than_a_large_one(scorer: Scorer) -> None:
    small, large = (scorer.reference("thing 5", side) for side in (64, 128))
    assert scorer.judge(small, "thing 5", 128).score < scorer.judge(large, "thing 5", 128).score
    assert scorer.judge(large, "thing 5", 64).score == pytest.approx(1.0)


def test_similarity_is_symmetric_and_one_only_for_equals() -> None:
    a, b = drawing(1), drawing(2)
    assert similarity(a, a) == pytest.approx(1.0)
    assert similarity(a, b) == pytest.approx(similarity(b, a))
    assert similarity(a, b) < 0.9
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert similarity(grey, np.full((64, 64, 3), 130, np.uint8)) > 0.99


def test_pictures_are_scaled_to_the_asked_side() -> None:
    picture = drawing(1)
    assert scaled(picture, 128) is picture
    assert scaled(picture, 64).shape == scaled(scaled(picture, 64), 64).shape == (64, 64, 3)
    halves = picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(scaled(picture, 64) - halves).max() <= 1


def test_the_shipped_references_are_all_recognised_and_small() -> None:
    home = MODEL_REPO / "emoji-base"
    assert (home / "references.webp").stat().st_size < 5e6
    shipped = Scorer.load(home)
    assert len(shipped.names) == 389
    for name in shipped.names[::10]:
        assert shipped.judge(shipped.reference(name, 64), name, 64).score == pytest.approx(1.0)
