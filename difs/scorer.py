"""Judges a finished picture of the embedded family: is it the asked thing, and how near to its drawing.

Fidelity is structural similarity (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to
Structural Similarity") to the reference drawing at the asked size, mapped once to 0..1: 0 is what the
nearest *other* drawing reaches on average, 1 is the drawing itself. A picture that is not recognised
scores 0. No torch here, and no model: the references come with the variant, as one lossless picture.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image

from difs.repository import CAPTIONS

Pixels = NDArray[np.uint8]
"""RGB, of shape (height, width, 3)."""
Real = NDArray[np.float64]

REFERENCES = "references.webp"
COLUMNS = 20
"""Drawings in a row of `references.webp`."""
CELLS = 16
"""A picture is recognised by the colours of CELLS x CELLS cells."""
WINDOW = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Judgement(Struct, frozen=True):
    """What a picture is worth."""

    rank: int
    """How many other drawings are nearer to it than the asked one; 0: it is recognised."""
    fidelity: float
    psnr_db: float

    @property
    def score(self) -> float:
        """Return the quality: the fidelity of a picture that is recognised, else 0."""
        return self.fidelity if self.rank == 0 else 0.0


class Scorer:
    """The reference drawings of a family."""

    def __init__(self, references: Mapping[str, Pixels]) -> None:
        """Take name -> drawing; all squares of one side, a multiple of 64."""
        self.names = tuple(references)
        self._at = {name: i for i, name in enumerate(self.names)}
        self._drawings = np.stack([references[name] for name in self.names])
        self._cells = np.stack([_cells(drawing) for drawing in self._drawings])

    @classmethod
    def load(cls, folder: Path, captions: Path | None = None) -> "Scorer":
        """Read the references that stand in a folder; the folder with the captions, if it is another."""
        names = json.loads(((captions or folder) / CAPTIONS).read_text("utf-8"))
        with Image.open(folder / REFERENCES) as opened:
            atlas = np.asarray(opened.convert("RGB"))
        side = atlas.shape[1] // COLUMNS

        def cut(i: int) -> Pixels:
            row, column = divmod(i, COLUMNS)
            return atlas[row * side : (row + 1) * side, column * side : (column + 1) * side]

        return cls({name: cut(i) for i, name in enumerate(names)})

    def reference(self, name: str, side: int) -> Pixels:
        """Return the drawing called `name` at `side` pixels."""
        return scaled(self._drawings[self._at[name]], side)

    def rank(self, picture: Pixels, name: str) -> int:
        """Return how many other drawings a picture resembles more than the one called `name`."""
        distances = ((self._cells - _cells(picture)) ** 2).sum(axis=(1, 2, 3))
        return int((distances < distances[self._at[name]]).sum())

    def distance(self, picture: Pixels, name: str) -> float:
        """Return how far a picture's cells are from those of the drawing called `name`."""
        return float(((self._cells[self._at[name]] - _cells(picture)) ** 2).mean())

    def judge(self, picture: Pixels, name: str, side: int) -> Judgement:
        """Judge a picture, enlarged or reduced to `side` pixels, as one of the thing called `name`."""
        shown, wanted = scaled(picture, side), self.reference(name, side)
        floor = self.floor
        similar = similarity(shown, wanted)
        error = ((shown.astype(np.float64) - wanted) ** 2).mean()
        return Judgement(
            self.rank(picture, name),
            min(1.0, max(0.0, (similar - floor) / (1.0 - floor))),
            float(10 * np.log10(255**2 / max(error, 1e-9))),
        )

    @cached_property
    def floor(self) -> float:
        """The similarity of a drawing to the other drawing whose cells are nearest, on average."""
        flat = self._cells.reshape(len(self.names), -1)
        found = []
        for i, own in enumerate(flat):
            distances = ((flat - own) ** 2).sum(axis=1)
            distances[i] = np.inf
            nearest = self.names[int(np.argmin(distances))]
            found.append(similarity(self.reference(self.names[i], 64), self.reference(nearest, 64)))
        return float(np.mean(found))


def scaled(picture: Pixels, side: int) -> Pixels:
    """Return a square picture at `side` pixels: averaged when reduced, bicubic when enlarged."""
    if picture.shape[0] == side:
        return picture
    how = Image.Resampling.BOX if picture.shape[0] > side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def similarity(one: Pixels, other: Pixels) -> float:
    """Return the mean structural similarity of two pictures over windows and channels, in -1..1."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = _windows(a), _windows(b)
    var_a = _windows(a * a) - mean_a**2
    var_b = _windows(b * b) - mean_b**2
    cov = _windows(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return float((light * (2 * cov + C2) / (var_a + var_b + C2)).mean())


def _windows(values: Real) -> Real:
    """Return the means of all WINDOW x WINDOW windows, of shape (h - 6, w - 6, 3)."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    k = WINDOW
    return np.asarray((sums[k:, k:] - sums[:-k, k:] - sums[k:, :-k] + sums[:-k, :-k]) / k**2)


def _cells(picture: Pixels) -> NDArray[np.float32]:
    """Return the mean colours of a picture's cells, of shape (CELLS, CELLS, 3)."""
    small = scaled(picture, 4 * CELLS).astype(np.float32)
    return np.asarray(small.reshape(CELLS, 4, CELLS, 4, 3).mean(axis=(1, 3)), np.float32)
