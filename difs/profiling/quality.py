"""Goes through the points of a variant's quality curve: what is missing is painted, judged, and kept.

No torch: who paints and who judges is passed in. A curve counts once it is whole.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from difs import beside, repository
from difs.errors import DifsError
from difs.manifests import MeasuredCurve, MeasuredQuality
from difs.messages import QualityKind, QualityPoint
from difs.profiling.asking import Asked, Point
from difs.profiling.reports import Broken, Doing, Judged, Report
from difs.repository import QUALITY
from difs.scorer import Pixels
from difs.variants import Variant


class Artist(Protocol):
    """What paints; see `difs.profiling.torch_artist`."""

    def paint(self, asked: Sequence[Asked], point: Point) -> list[Pixels]:
        """Return the pictures, in order."""
        ...

    def close(self) -> None:
        """Let go of the variant."""
        ...


class Judge(Protocol):
    """What judges; see `agreement`, `clip` and `reference`."""

    kind: QualityKind
    judge: str
    source: str

    def prepare(
        self, paint: Callable[[Sequence[Asked], Point], list[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> None:
        """Do what is done once; raises DifsError."""
        ...

    def rows(
        self, point: Point, painted: Sequence[Sequence[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> list[QualityPoint]:
        """Return a point's rows of the table; `painted` and `asked` by seed."""
        ...


def run(
    variant: Variant,
    open_artist: Callable[[], Artist],
    judge: Judge,
    points: Sequence[Point],
    asked: Sequence[Sequence[Asked]],
    *,
    is_fresh: bool,
) -> Iterator[Report]:
    """Measure what a curve lacks; `open_artist` is called only if it lacks something."""
    source = f"{judge.source}; {len(asked[0])} prompts x {len(asked)} seeds"
    blank = MeasuredCurve(judge.kind, judge.judge, source)
    curve = blank if is_fresh else _known(variant, blank)
    if not curve.is_whole:
        try:
            curve = yield from _measure(variant, open_artist(), judge, curve, points=points, asked=asked)
        except DifsError as error:
            yield Broken(variant.name, error.message)
            return
        curve = replace(curve, is_whole=True)
        _keep(variant, curve)
    used = repository.quality_of(variant)
    yield Judged(
        variant=variant.name,
        path=str(beside.place(variant.home, QUALITY)),
        kind=curve.kind,
        source=source,
        is_used=used == curve,
    )


def _known(variant: Variant, blank: MeasuredCurve) -> MeasuredCurve:
    """Return what was kept of a curve that was measured in just this way."""
    kept = repository.measured_quality(variant)
    curves = kept.curves if kept is not None else ()
    same = (c for c in curves if replace(c, points=(), is_whole=False) == blank)
    return next(same, blank)


def _measure(
    variant: Variant,
    artist: Artist,
    judge: Judge,
    curve: MeasuredCurve,
    *,
    points: Sequence[Point],
    asked: Sequence[Sequence[Asked]],
) -> Generator[Report, None, MeasuredCurve]:
    """Yield before each thing that is done; returns the curve with all its points."""
    known = {(row.steps, row.guidance) for row in curve.points}
    left = [point for point in points if (point.steps, point.guidance) not in known]
    total, tempo = len(points) + 1, Tempo()
    yield Doing(variant.name, f"quality ({judge.kind}): prepare", len(known), total)
    judge.prepare(artist.paint, asked)
    for i, point in enumerate(left):
        words = f"quality ({judge.kind}): {point.steps} steps, guidance {point.guidance:g}"
        done = total - len(left) + i
        yield Doing(variant.name, words, done, total, tempo.left_s(left[i:]))
        with tempo.over(point):
            painted = [artist.paint(one, point) for one in asked]
            rows = judge.rows(point, painted, asked)
        curve = replace(curve, points=(*curve.points, *rows))
        _keep(variant, curve)
    yield Doing(variant.name, f"quality ({judge.kind}): done", total, total, 0.0)
    return curve


class Tempo:
    """How long points take: in proportion to their steps."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seconds, self._steps = 0.0, 0

    @contextmanager
    def over(self, point: Point) -> Iterator[None]:
        """Surround a point."""
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started
        self._steps += point.steps

    def left_s(self, left: Sequence[Point]) -> float | None:
        """Return about what the rest takes; None: nothing is known yet."""
        if not self._steps:
            return None
        return self._seconds / self._steps * sum(point.steps for point in left)


def _keep(variant: Variant, curve: MeasuredCurve) -> Path:
    """Write a curve, in place of one of the same kind and judge. Raises OSError."""
    kept = repository.measured_quality(variant)
    others = [
        other
        for other in (kept.curves if kept is not None else ())
        if (other.kind, other.judge) != (curve.kind, curve.judge)
    ]
    whole = MeasuredQuality(variant.fingerprint, (*others, curve))
    data = msgspec.json.format(msgspec.json.encode(whole), indent=1)
    return beside.write(variant.home, QUALITY, data)
