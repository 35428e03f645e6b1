"""What README promises of predictions, in virtual time: the real policy and broker on measured tables."""

from functools import cache
from typing import Any

import pytest

from bench import embedded, floor, predictions
from bench.promises import Ended, best_told, figures

REQUESTS, SEEDS = 200, (1, 2)
MODELS = embedded.models()


@cache
def alone() -> dict[str, Any]:
    """Return what came of requests that never met."""
    return figures(predictions.run(MODELS, REQUESTS // 3, 0.0, SEEDS[0], 0.0))


@cache
def beside_others(load: float) -> dict[str, Any]:
    """Return what came of requests at a load of which 1 is one in the mean seconds of one alone."""
    rate = load / alone()["mean_s"]
    ended = [one for seed in SEEDS for one in predictions.run(MODELS, REQUESTS, rate, seed, load)]
    return figures(ended)


def test_alone_a_picture_takes_the_seconds_that_were_predicted() -> None:
    assert alone()["error_p90"] < 0.001


@pytest.mark.parametrize(("load", "error"), [(0.5, 0.08), (0.8, 0.13)])
def test_nine_of_ten_predictions_are_right_within_a_seventh(load: float, error: float) -> None:
    found = beside_others(load)
    assert found["requests"] - found["refused"] > 330, "it does not keep its word by refusing"
    assert found["error_p50"] <= 0.07
    assert found["error_p90"] <= error


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_what_was_promised_beside_others_is_kept(load: float) -> None:
    found = beside_others(load)
    assert found["promised"] > 120
    assert found["kept"] >= 0.98


def test_the_floor_is_what_the_best_of_the_means_of_the_last_calls_misses() -> None:
    assert floor.error([2.0] * 30) == 0.0
    changed = [1.0] * 20 + [2.0] * 20  # the newest call alone tells all but the one where it changes
    assert floor.error(changed) == 0.0
    assert floor.error(changed, share=1.0) == 1.0
    swinging = [1.0, 2.0] * 50  # the last call is always wrong, by half or by all; a mean is by less
    assert 0.3 < floor.error(swinging) < 0.5


def test_what_could_be_told_of_unshared_pictures_does_not_ask_how_much_they_are() -> None:
    def done(variant: str, seconds: float, n: int = 1) -> Ended:
        return Ended(variant=variant, steps=4, shape=(64, 64, n), own_s=(1.0, seconds))

    steady = [done("small", 1.0), done("large", 5.0), done("small", 3.0, 2)] * 20
    assert best_told(steady) == 0.0
    swinging = [done("small", second) for second in (1.0, 2.0) * 20]
    assert 0.3 < (best_told(swinging) or 0.0) < 0.5
    assert best_told([*steady[:3], Ended(variant="shared", steps=4)]) is None
