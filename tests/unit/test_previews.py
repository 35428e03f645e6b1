"""difs.client.previews: what a preview's bytes become, and what is no preview."""

from pathlib import Path

import numpy as np
import pytest

from difs import pictures
from difs.client import previews
from difs.errors import RemoteProtocolError
from difs.messages import Preview, Progress

PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)


def step(preview: Preview | None = None, image: int = 0, number: int = 4) -> Progress:
    """Return the news of a step."""
    return Progress("r1", image, number, 20, preview)


def seen() -> Preview:
    """Return a preview of `PIXELS`."""
    return Preview(5, 7, PIXELS.tobytes())


def test_a_preview_is_an_array_of_its_rows() -> None:
    found = previews.pixels(step(seen()))
    assert found is not None
    assert found.dtype == np.uint8
    assert np.array_equal(found, PIXELS)
    assert not found.flags.writeable, "the bytes are the message's"


def test_a_step_without_a_preview_has_none(tmp_path: Path) -> None:
    assert previews.pixels(step()) is None
    assert previews.save(step(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_previews_are_files_named_by_image_and_step(tmp_path: Path) -> None:
    paths = [
        previews.save(step(seen(), image, number), str(tmp_path))
        for image, number in [(0, 5), (1, 5), (0, 150)]
    ]
    names = ["preview-0-005.png", "preview-1-005.png", "preview-0-150.png"]
    assert paths == [tmp_path / name for name in names]
    for path in paths:
        assert path is not None
        assert np.array_equal(pictures.decode(path.read_bytes()), PIXELS)


@pytest.mark.parametrize(
    "preview",
    [
        Preview(5, 7, PIXELS.tobytes()[:-1]),
        Preview(5, 7, PIXELS.tobytes() + b"\0"),
        Preview(7, 4, PIXELS.tobytes()),
        Preview(0, 0, b""),
        Preview(-5, -7, PIXELS.tobytes()),
        Preview(2**40, 2**40, b""),
    ],
)
def test_a_preview_that_lies_about_itself_is_no_preview(preview: Preview, tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError, match="a preview of"):
        previews.pixels(step(preview))
    with pytest.raises(RemoteProtocolError, match="a preview of"):
        previews.save(step(preview), tmp_path)
    assert list(tmp_path.iterdir()) == []
