"""Pictures made from the drawings: a thing in another colour, and two things side by side.

Colours turn a drawing's main hue and leave its other hues alone (the leaf of a blue apple stays green).
A pair shows the first thing on the left, the second on the right, each at half the size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.floating[Any]]
"""RGB in 0..1, of shape (side, side, 3)."""

HUES: Mapping[str, float] = {
    "red": 0.0,
    "orange": 0.08,
    "yellow": 0.15,
    "green": 0.33,
    "blue": 0.6,
    "purple": 0.76,
    "pink": 0.92,
}
COLOURS = (*HUES, "grey")
NEAR = 0.11
"""Hues within so much of the main one turn with it."""
FAINT = 0.18
"""Less saturated pixels have no hue."""

SINGLE = ("{}", "a {}", "the {}", "{} emoji", "a picture of a {}", "a drawing of a {}")
PAIRED = ("a {} and a {}", "{} and {}", "a {} with a {}", "a {} beside a {}", "the {} and the {}")


def colourable(captions: Mapping[str, str]) -> list[str]:
    """Return the names whose captions speak of no colour themselves."""
    words = {*COLOURS, "black", "white", "brown", "gold", "rainbow"}
    return [name for name, caption in captions.items() if not words & set(caption.split())]


def recolour(picture: Picture, colour: str) -> Picture:
    """Return a picture whose main hue is `colour`; one without a main hue is tinted as a whole."""
    hue, saturation, value = _hsv(picture)
    strength = saturation * value * (saturation > FAINT)
    main = _main_hue(hue, strength)
    if strength.sum() < 0.02 * strength.size:
        near = (value < 0.97) | (saturation > 0.05)
        saturation = np.where(near, np.maximum(saturation, 0.55), saturation)
        hue = np.full_like(hue, main)
    else:
        near = (np.abs((hue - main + 0.5) % 1.0 - 0.5) < NEAR) & (saturation > FAINT)
    if colour == "grey":
        return _rgb(hue, np.where(near, 0.04, saturation), np.where(near, 0.35 + 0.4 * value, value))
    turned = (HUES[colour] + hue - main) % 1.0
    close = (HUES[colour] + 0.35 * ((turned - HUES[colour] + 0.5) % 1.0 - 0.5)) % 1.0
    bright = np.where(near, np.maximum(saturation, 0.45), saturation)
    if colour == "pink":
        bright = np.where(near, 0.3 + 0.35 * bright, bright)
        value = np.where(near, np.maximum(value, 0.5 + 0.5 * value), value)
    return _rgb(np.where(near, close, hue), bright, value)


def pair(left: Picture, right: Picture) -> Picture:
    """Return two pictures at half their size, side by side in the middle of a white square."""
    side = left.shape[0]
    canvas = np.ones_like(left)
    quarter = side // 4
    for at, picture in ((0, left), (side // 2, right)):
        half = picture.reshape(side // 2, 2, side // 2, 2, 3).mean(axis=(1, 3))
        canvas[quarter : quarter + side // 2, at : at + side // 2] = half
    return canvas


def _main_hue(hue: Picture, strength: Picture) -> float:
    """Return the hue around which most of the colour lies."""
    found, _ = np.histogram(hue, bins=48, range=(0.0, 1.0), weights=strength)
    around = found + np.roll(found, 1) + np.roll(found, -1)
    return float((np.argmax(around) + 0.5) / 48)


def _hsv(picture: Picture) -> tuple[Picture, Picture, Picture]:
    r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
    most, least = picture.max(axis=-1), picture.min(axis=-1)
    spread = most - least
    safe = np.where(spread > 0, spread, 1.0)
    hue = np.where(
        most == r, (g - b) / safe % 6, np.where(most == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    return (
        np.where(spread > 0, hue / 6, 0.0).astype(np.float32),
        np.where(most > 0, spread / np.where(most > 0, most, 1.0), 0.0).astype(np.float32),
        most,
    )


def _rgb(hue: Picture, saturation: Picture, value: Picture) -> Picture:
    def channel(offset: int) -> Picture:
        k = (offset + hue * 6) % 6
        return np.asarray(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))

    return np.stack([channel(5), channel(3), channel(1)], axis=-1).astype(np.float32)
