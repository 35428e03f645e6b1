"""Likeness to the reference drawings of a family that has them: see `difs.scorer`. No torch here."""

from collections.abc import Callable, Sequence

import numpy as np

from difs.errors import Unsupported
from difs.messages import QualityKind, QualityPoint
from difs.profiling.asking import Asked, Point
from difs.repository import Repository
from difs.scorer import REFERENCES, Judgement, Pixels, Scorer
from difs.variants import Variant

SIDES = (64, 128)
"""Pixels at which pictures are shown, enlarged or reduced."""


class Reference:
    """Judges by drawings."""

    kind: QualityKind = "reference"
    source = "fidelity to the reference drawing where it is recognised, else 0"

    def __init__(self, scorer: Scorer, home: str) -> None:
        """`home` is the variant that has the drawings."""
        self.scorer = scorer
        self.judge = home

    def prepare(self, paint: Callable[..., list[Pixels]], asked: Sequence[Sequence[Asked]]) -> None:
        """Do nothing: the drawings are there."""

    def rows(
        self, point: Point, painted: Sequence[Sequence[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> list[QualityPoint]:
        """Return a point's row for each size; `painted` and `asked` by seed."""
        return [row_of(point, side, self.judged(side, painted, asked)) for side in SIDES]

    def judged(
        self, side: int, painted: Sequence[Sequence[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> list[list[Judgement]]:
        """Return what each picture is worth at a size, by seed."""
        return [
            [self.scorer.judge(p, a.name, side) for p, a in zip(pictures, ones, strict=True)]
            for pictures, ones in zip(painted, asked, strict=True)
        ]


def row_of(point: Point, side: int, judged: Sequence[Sequence[Judgement]]) -> QualityPoint:
    """Return a row of a quality table."""
    every = [one for by_seed in judged for one in by_seed]
    means = [float(np.mean([one.score for one in by_seed])) for by_seed in judged]
    return QualityPoint(
        side=side,
        steps=point.steps,
        guidance=point.guidance,
        score=round(float(np.mean(means)), 4),
        spread=round(float(np.std(means)), 4),
        recall_1=round(float(np.mean([one.rank == 0 for one in every])), 4),
        recall_5=round(float(np.mean([one.rank < 5 for one in every])), 4),
    )


def of_variant(variant: Variant, found: Repository) -> Reference:
    """Return the judge of a variant's family; raises Unsupported where it has no drawings."""
    home = variant.manifest.captions
    if home is None or not (found.variant(home).folder / REFERENCES).is_file():
        raise Unsupported(f"{variant.name} has no reference drawings; try --quality agreement or clip")
    return Reference(Scorer.load(found.variant(home).folder), home)
