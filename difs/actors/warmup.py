"""What a variant costs on this device, measured with real images right after it is loaded.

A generator: one unit between two yields, so that other residents keep stepping meanwhile.
"""

import statistics
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace

from difs.actor_messages import Costs, Execute, RowCost
from difs.actors.painter import Conditioning, Painter, Work
from difs.errors import OutOfMemory
from difs.manifests import Manifest
from difs.profiles import best_rows, may_pay

GUIDANCE = 1.5
"""Where a variant wants none: enough to double the rows."""
PATIENCE_S = 1.0
"""Larger batches are not tried once a call takes longer than this."""

Timed = Callable[[Callable[[], Any]], tuple[Any, float]]


class Measured(NamedTuple):
    """What the warm-up found."""

    costs: Costs
    seed_bound: float


class _Subject(NamedTuple):
    """What is painted to measure."""

    painter: Painter
    guided: Execute
    bare: Execute
    conditioning: Conditioning

    def one(self, seed: int) -> Work:
        """Begin an image with guidance."""
        return self.painter.begin(self.guided, seed, self.conditioning)

    def plain(self, seed: int) -> Work:
        """Begin an image without guidance."""
        return self.painter.begin(self.bare, seed, Conditioning(self.conditioning.positive, None))

    def of_rows(self, rows: int) -> list[Work]:
        """Begin images that take so many rows together; of an odd number one is without guidance."""
        each = self.painter.rows(self.guided)
        plain = [self.plain(seed) for seed in range(rows % each)]
        return [self.one(seed) for seed in range(rows // each)] + plain


def measure(
    painter: Painter,
    manifest: Manifest,
    timed: Timed,
    *,
    steps: int,
    max_rows: int,
    filled_rows: int | None = None,
) -> Generator[Measured | None, None, None]:
    """Paint with every number of rows that pays, four to `max_rows` and more.

    `timed` returns what a call returns and its seconds. An image with guidance and one without are enough
    to serve with: what is known by then is yielded, and everything at the end. Until then nobody knows
    the seed's bound. With `filled_rows` the numbers between the doublings are called after that, up to so
    many at least: the first call of each prepares the device for it, and no picture has to wait for that.
    """
    guided, bare = orders(manifest, steps)
    conditioning, _ = timed(partial(painter.encode, guided))
    yield None
    _, encode_s = timed(partial(painter.encode_text, guided.prompt))
    yield None
    table: dict[int, float] = {}
    images, decode_s = [], []
    subject = _Subject(painter, guided, bare, conditioning)
    singles = [subject.one(seed) for seed in (0, 1)]
    yield from _paint(painter, singles[:1], timed, table)
    yield from _paint(painter, [subject.plain(2)], timed, table)
    for _ in range(2):  # the first one only warms up
        image, seconds = timed(partial(painter.image, singles[0]))
        decode_s.append(seconds)
        yield None
    images.append(image)
    pixels = guided.width * guided.height
    yield Measured(_costs(pixels, encode_s, table, min(decode_s)), 0.0)
    yield from _paint(painter, singles[1:], timed, table)
    image, seconds = timed(partial(painter.image, singles[1]))
    images.append(image)
    decode_s.append(seconds)
    yield None
    pair = [subject.one(seed) for seed in (0, 1)]
    yield from _paint(painter, pair, timed, table)
    bound = 0.0
    for work, image in zip(pair, images, strict=True):
        again, seconds = timed(partial(painter.image, work))
        decode_s.append(seconds)
        bound = max(bound, float((again - image).abs().max()) / 2)
        yield None
    yield from _grow(subject, timed, table, max_rows)
    costs = _costs(pixels, encode_s, table, statistics.median(decode_s))
    yield Measured(costs, bound)
    if filled_rows is not None:
        each = painter.rows(replace(guided, guidance_scale=manifest.guidance_scale))
        most = max(filled_rows, best_rows(costs))  # no call is larger
        yield from _fill(subject, timed, table, range(each, most + 1, each))
        yield Measured(_costs(pixels, encode_s, table, statistics.median(decode_s)), bound)


def _costs(pixels: int, encode_s: float, table: dict[int, float], decode_s: float) -> Costs:
    rows = tuple(RowCost(rows, seconds) for rows, seconds in sorted(table.items()))
    return Costs(pixels, encode_s, rows, decode_s, 0.0)


def _paint(painter: Painter, works: list[Work], timed: Timed, table: dict[int, float]) -> Iterator[None]:
    """Denoise `works` together; the median step enters the table, the first one only warms up."""
    taken = []
    while works[0].done < works[0].total:
        taken.append(timed(partial(painter.step, works))[1])
        yield
    rows = sum(work.rows for work in works)
    table[rows] = statistics.median(taken[1:] or taken)


def _grow(subject: _Subject, timed: Timed, table: dict[int, float], max_rows: int) -> Iterator[None]:
    """Double the batch while a row gets cheaper, memory suffices and nobody waits long."""
    rows = max(table) * 2
    each_s = [table[max(table)] / max(table)]
    while rows <= max_rows and may_pay(each_s):
        try:
            works, taken = subject.of_rows(rows), []
            for _ in range(min(3, works[0].total)):
                taken.append(timed(partial(subject.painter.step, works))[1])
                yield
        except (OutOfMemory, torch.OutOfMemoryError):
            return
        table[rows] = min(taken)
        each_s.append(table[rows] / rows)
        if table[rows] > PATIENCE_S:
            return
        rows *= 2


def _fill(
    subject: _Subject, timed: Timed, table: dict[int, float], numbers: Iterable[int]
) -> Iterator[None]:
    """Call the numbers of rows that were not called yet: once to prepare it, once to time it."""
    for rows in [n for n in numbers if n not in table]:
        try:
            works = subject.of_rows(rows)
            for _ in range(2):
                _, table[rows] = timed(partial(subject.painter.step, works))
                yield
        except (OutOfMemory, torch.OutOfMemoryError):
            table.pop(rows, None)
            return


def orders(manifest: Manifest, steps: int) -> tuple[Execute, Execute]:
    """Return what is painted to measure a variant: with guidance, and without."""
    width, height = manifest.native_sizes[0]
    bare = Execute(
        attempt=0,
        request_id="",
        variant=manifest.name,
        prompt="warm up",
        negative_prompt="",
        width=width,
        height=height,
        steps=steps,
        guidance_scale=1.0,
        sampler=manifest.sampler,
        seeds=(0,),
        deadline=0.0,
        slots=(),
        format="raw",
        metadata="",
    )
    return replace(bare, guidance_scale=max(GUIDANCE, manifest.guidance_scale)), bare
