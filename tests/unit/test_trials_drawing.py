"""Pictures of a trial: each is drawn in both forms, whatever the trial lacks."""

from pathlib import Path

import pytest
from PIL import Image

from difs.trials import drawing
from difs.trials.records import Trial
from tests.trials import delivered, lost, trial

pytest.importorskip("matplotlib")

FULL = trial([*(delivered(i, 0.1 + 0.02 * (i % 7), kind=i % 3) for i in range(20)), lost(20, "expired")])


@pytest.mark.parametrize("what", drawing.WHATS)
def test_every_picture_is_drawn(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.png"
    drawing.draw(path, FULL, what)
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50, "not a blank sheet"


def test_an_svg_says_in_words_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    drawing.draw(path, FULL, "all")
    text = path.read_text("utf-8")
    assert text.startswith("<?xml")
    for words in ("hand-over", "predicted", "base on cpu-0", "not delivered", "other programs"):
        assert words in text


@pytest.mark.parametrize(
    "made",
    [
        trial([]),
        trial([lost(0, "broker_lost")]),
        trial([delivered(0, 0.2, quality=None, predicted_s=None)]),
    ],
    ids=["empty", "nothing delivered", "one, of unknown quality"],
)
def test_a_poor_trial_can_be_drawn(tmp_path: Path, made: Trial) -> None:
    drawing.draw(tmp_path / "a.png", made, "all")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_residents_are_drawn_as_long_as_they_were_there() -> None:
    rows = drawing.residents(FULL.looks)
    assert rows["cpu-0", "base"] == {"loaded": [(-1.0, 1.0)], "parked": [(1.0, 1.0)]}
    assert rows["cpu-1", "base"] == {"loading": [(-1.0, 0.0)], "loaded": [(0.0, 1.0)]}
