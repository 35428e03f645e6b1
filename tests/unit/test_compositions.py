"""model_repo.recipes: wordings and compositions, the pure parts of the family's recipe."""

import colorsys
import random
import re

import numpy as np
import pytest

from difs import captions, repository
from model_repo.recipes import compositions, wordings
from model_repo.recipes.compositions import COLOURS, HUES, Picture
from tests.unit.test_repository import MODEL_REPO


def apple(hue: float) -> Picture:
    """A square of one hue with a leaf of another one, on white."""
    picture = np.ones((32, 32, 3), np.float32)
    picture[8:28, 6:26] = colorsys.hsv_to_rgb(hue, 0.9, 0.8)
    picture[3:8, 14:18] = colorsys.hsv_to_rgb((hue + 0.4) % 1, 0.9, 0.6)
    return picture


@pytest.mark.parametrize("colour", HUES)
@pytest.mark.parametrize("hue", [0.02, 0.3, 0.65, 0.97])
def test_the_main_colour_turns_and_the_rest_stays(hue: float, colour: str) -> None:
    before = apple(hue)
    after = compositions.recolour(before, colour)
    found, saturation, _ = colorsys.rgb_to_hsv(*after[18, 16])
    assert abs((found - HUES[colour] + 0.5) % 1 - 0.5) < 0.06
    assert saturation > 0.3
    assert np.allclose(after[5, 16], before[5, 16], atol=1e-3), "the leaf"
    assert np.allclose(after[0, 0], 1, atol=1e-3), "the background"


def test_grey_takes_the_colour_away() -> None:
    after = compositions.recolour(apple(0.1), "grey")
    assert np.ptp(after[18, 16]) < 0.06


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_keeps_a_picture_a_picture(colour: str) -> None:
    dice = np.random.default_rng(3)
    after = compositions.recolour(dice.random((16, 16, 3)).astype(np.float32), colour)
    assert after.shape == (16, 16, 3)
    assert np.isfinite(after).all()
    assert -1e-6 <= after.min() <= after.max() <= 1 + 1e-6


def test_something_without_a_colour_is_tinted() -> None:
    ghost = np.ones((32, 32, 3), np.float32)
    ghost[8:24, 8:24] = 0.8
    after = compositions.recolour(ghost, "blue")
    assert after[16, 16, 2] > after[16, 16, 0] + 0.1
    assert np.allclose(after[0, 0], 1)


def test_a_pair_stands_left_and_right_at_half_the_size() -> None:
    both = compositions.pair(np.zeros((32, 32, 3), np.float32), np.full((32, 32, 3), 0.5, np.float32))
    assert (both[8:24, :16] == 0).all()
    assert (both[8:24, 16:] == 0.5).all()
    assert (both[:8] == 1).all()
    assert (both[24:] == 1).all()


def test_names_that_speak_of_colours_are_not_coloured() -> None:
    said = {"cat": "cat", "black-cat": "black cat", "red-apple": "red apple", "orange": "orange"}
    assert compositions.colourable(said) == ["cat"]


VOCABULARY = ["backdrop", "somebody", "flag", "clock", "cat"]


def test_every_unseen_wording_has_a_word_that_training_never_says() -> None:
    fillers = wordings.usable_fillers({"cat": []}, VOCABULARY)
    assert fillers.rare == ["flag", "clock"]
    trained = {*fillers.common, *fillers.rare, *" ".join(wordings.TEMPLATES).split()}
    assert len(set(wordings.UNSEEN)) == 40
    for wording in wordings.UNSEEN:
        words = re.findall(r"[a-z]+", wording.replace("{}", ""))
        assert set(words) - trained, wording


def test_no_unseen_wording_names_another_thing() -> None:
    known = repository.scan(MODEL_REPO).variant("emoji-base").captions
    for wording in wordings.UNSEEN:
        assert captions.named(known, wording.format("")) == (), wording


def test_fillers_are_no_words_for_things() -> None:
    assert "book" in wordings.usable_fillers({"cat": []}).common
    assert "book" not in wordings.usable_fillers({"blue book": []}).common
    assert "book" not in wordings.usable_fillers({"novel": ["book"]}).common


def test_a_dressed_caption_keeps_its_name() -> None:
    dice = random.Random(2)
    for _ in range(200):
        assert "black cat" in wordings.dress(
            "black cat", dice, wordings.Fillers(["please", "a"], ["flag"]), 0.5
        )
