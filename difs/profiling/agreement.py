"""Agreement: how like a picture is to what the same variant paints from the same noise in many steps.

It says how far a number of steps is enough for *this* variant, and nothing of what its pictures are
worth: a variant agrees with itself perfectly. Likeness is structural similarity (Wang et al. 2004; see
`difs.scorer`) of pictures reduced to at most 128 pixels, mapped once to 0..1: 0 is what results of
different prompts reach on average, 1 is the same picture. No torch here.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from difs.errors import EngineFailed
from difs.messages import QualityKind, QualityPoint
from difs.profiling.asking import Asked, Point
from difs.scorer import Pixels, similarity

SIDE = 128
LEAST_CONTRAST = 0.02
"""Where results of different prompts are more alike than this allows, likeness says nothing."""

Paint = Callable[[Sequence[Asked], Point], list[Pixels]]


class Agreement:
    """Judges by the variant's own results of many steps."""

    kind: QualityKind = "agreement"

    def __init__(self, variant: str, fingerprint: str, many: Point, side: int) -> None:
        """`many`: the point of the results that all others are compared with; `side` for the curve."""
        self._many = many
        self._side = side
        self._results: list[list[Pixels]] = []
        self._floor = 0.0
        self.judge = f"{variant}:{fingerprint[:8]}"
        self.source = f"likeness to its own result of {many.steps} steps, guidance {many.guidance:g}"

    def prepare(self, paint: Paint, asked: Sequence[Sequence[Asked]]) -> None:
        """Paint the results of many steps; raises EngineFailed when they are all alike."""
        self._results = [[_small(p) for p in paint(one, self._many)] for one in asked]
        pairs = [(a, b) for row in self._results for a, b in pairwise(row)]
        self._floor = float(np.mean([similarity(a, b) for a, b in pairs])) if pairs else 0.0
        if 1.0 - self._floor < LEAST_CONTRAST:
            raise EngineFailed("its pictures of different prompts are all alike: agreement says nothing")

    def rows(
        self, point: Point, painted: Sequence[Sequence[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> list[QualityPoint]:
        """Return a point's row; `painted` and `asked` by seed."""
        means = [
            float(np.mean([self._score(p, r) for p, r in zip(own, results, strict=True)]))
            for own, results in zip(painted, self._results, strict=True)
        ]
        score, off = float(np.mean(means)), float(np.std(means))
        row = QualityPoint(self._side, point.steps, point.guidance, round(score, 4), round(off, 4))
        return [row]

    def _score(self, picture: Pixels, result: Pixels) -> float:
        likeness = similarity(_small(picture), result)
        return min(1.0, max(0.0, (likeness - self._floor) / (1.0 - self._floor)))


def _small(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    if max(height, width) <= SIDE:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
