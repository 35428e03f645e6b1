"""Writes the scorer's references: all drawings of the family in one lossless picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from difs.scorer import COLUMNS, REFERENCES
from model_repo.recipes.material import Material


def write(material: Material, style: str, side: int, folder: Path) -> None:
    """Write a style's `references.webp` into a folder, in the order of the base's captions."""
    drawn = material.drawn(style, side)
    rows = -(-len(drawn) // COLUMNS)
    atlas = np.full((rows * side, COLUMNS * side, 3), 255, np.uint8)
    for i, drawing in enumerate(drawn):
        row, column = divmod(i, COLUMNS)
        atlas[row * side : (row + 1) * side, column * side : (column + 1) * side] = drawing
    Image.fromarray(atlas).save(folder / REFERENCES, lossless=True, quality=100, method=6)
