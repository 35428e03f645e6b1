"""difs.actors.judging: what a picture of the embedded family is worth, and when nobody can tell."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from difs import repository
from difs.actors.judging import Judge
from difs.messages import Adapter
from difs.repository import Repository
from difs.scorer import REFERENCES, Scorer
from tests import builders

BASE = "emoji-base"


@cache
def house() -> Repository:
    return repository.scan(repository.locate("model_repo"))


@cache
def scorer() -> Scorer:
    return Scorer.load(house().variant(BASE).folder)


@cache
def judge() -> Judge:
    """Return one that has read its drawings."""
    found = Judge(house())
    found.judge(builders.execute(variant=BASE, prompt="red apple"), drawing())
    found.close()
    return found


def drawing(name: str = "red-apple", side: int = 64) -> NDArray[np.uint8]:
    return scorer().reference(name, side)


def verdict(prompt: str = "red apple", picture: Any = None, **changes: Any) -> float | str:
    order = builders.execute(variant=BASE, prompt=prompt, **changes)
    return judge().judge(order, drawing() if picture is None else picture)


def test_the_drawing_itself_is_worth_1_and_another_nothing() -> None:
    assert verdict() == pytest.approx(1.0)
    assert verdict("a photo of a red apple") == pytest.approx(1.0)
    assert verdict("frog") == 0.0


def test_a_picture_is_worth_less_the_more_noise_it_has() -> None:
    noise = np.random.default_rng(1).normal(0, 1, drawing().shape)
    worth = [
        verdict(picture=np.clip(drawing() + s * noise, 0, 255).astype(np.uint8)) for s in (5, 20, 60)
    ]
    assert all(isinstance(score, float) for score in worth)
    assert worth == sorted(worth, reverse=True)
    assert len(set(worth)) == 3


def test_a_picture_is_judged_at_its_own_size() -> None:
    assert verdict(picture=drawing(side=128), width=128, height=128) == pytest.approx(1.0)


@pytest.mark.parametrize("prompt", ["", "quantum entanglement", "red apple and frog"])
def test_what_is_not_one_thing_with_a_drawing_cannot_be_judged(prompt: str) -> None:
    assert str(verdict(prompt)).startswith("not judged: the prompt names")


@pytest.mark.parametrize(
    "changes", [{"adapters": (Adapter("style-mono"),)}, {"width": 128, "height": 64}]
)
def test_what_the_drawings_do_not_show_cannot_be_judged(changes: dict[str, Any]) -> None:
    picture = np.zeros((64, changes.get("width", 64), 3), np.uint8)
    assert "square pictures without adapters only" in str(verdict(picture=picture, **changes))


def test_other_checkpoints_cannot_be_judged() -> None:
    found = house().variant(BASE)
    stranger = replace(found, manifest=replace(found.manifest, captions=None), captions=())
    order = builders.execute(variant=BASE, prompt="red apple")
    said = Judge(Repository({BASE: stranger})).judge(order, drawing())
    assert said == f"not judged: {BASE} has no reference drawings"


def test_a_scorer_that_fails_costs_nobody_the_picture(caplog: pytest.LogCaptureFixture) -> None:
    assert verdict(picture=np.zeros((3,), np.uint8)) == "not judged: the scorer failed"
    assert "the scorer failed" in caplog.text


def test_nobody_waits_until_the_drawings_are_read() -> None:
    fresh, order = Judge(house()), builders.execute(variant=BASE, prompt="red apple")
    assert fresh.judge(order, drawing()) == "not judged: the reference drawings are not read yet"
    fresh.close()
    assert fresh.judge(order, drawing()) == pytest.approx(1.0)


def test_drawings_that_cannot_be_read_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / REFERENCES).write_bytes(b"no picture")
    broken = replace(house().variant(BASE), folder=tmp_path)
    it, order = Judge(Repository({BASE: broken})), builders.execute(variant=BASE, prompt="red apple")
    it.judge(order, drawing())
    it.close()
    assert it.judge(order, drawing()) == "not judged: the reference drawings cannot be read"
    assert it.judge(order, drawing()) == "not judged: the reference drawings cannot be read"
    assert caplog.text.count("the drawings cannot be read") == 1
