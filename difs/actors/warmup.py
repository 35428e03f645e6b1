"""What a variant costs on this device, measured with real images right after it is loaded.

A generator: one unit between two yields, so that other residents keep stepping meanwhile.
"""

import statistics
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace

from difs.actor_messages import Costs, Execute, RowCost
from difs.actors.painter import Conditioning, Painter, Work
from difs.errors import OutOfMemory
from difs.manifests import Manifest
from difs.profiles import SATURATED

GUIDANCE = 1.5
"""Where a variant wants none: enough to double the rows."""
PATIENCE_S = 1.0
"""Larger batches are not tried once a call takes longer than this."""

Timed = Callable[[Callable[[], Any]], tuple[Any, float]]


class Measured(NamedTuple):
    """What the warm-up found."""

    costs: Costs
    seed_bound: float


def measure(
    painter: Painter, manifest: Manifest, timed: Timed, *, steps: int, max_rows: int, load_s: float
) -> Generator[None, None, Measured]:
    """Paint with every number of rows that pays, four to `max_rows` and more.

    `timed` returns what a call returns and its seconds.
    """
    guided, bare = orders(manifest, steps)
    conditioning, _ = timed(partial(painter.encode, guided))
    yield
    _, encode_s = timed(partial(painter.encode_text, guided.prompt))
    yield
    table: dict[int, float] = {}
    singles = [painter.begin(guided, seed, conditioning) for seed in (0, 1)]
    for work in singles:
        yield from _paint(painter, [work], timed, table)
    plain = painter.begin(bare, 2, Conditioning(conditioning.positive, None))
    yield from _paint(painter, [plain], timed, table)
    images, decode_s = [], []
    for work in singles:
        image, seconds = timed(partial(painter.image, work))
        images.append(image)
        decode_s.append(seconds)
        yield
    pair = [painter.begin(guided, seed, conditioning) for seed in (0, 1)]
    yield from _paint(painter, pair, timed, table)
    bound = 0.0
    for work, image in zip(pair, images, strict=True):
        again, seconds = timed(partial(painter.image, work))
        decode_s.append(seconds)
        bound = max(bound, float((again - image).abs().max()) / 2)
        yield
    yield from _grow(
        painter, lambda seed: painter.begin(guided, seed, conditioning), timed, table, max_rows
    )
    rows = tuple(RowCost(rows, seconds) for rows, seconds in sorted(table.items()))
    costs = Costs(guided.width * guided.height, encode_s, rows, statistics.median(decode_s), load_s)
    return Measured(costs, bound)


def _paint(
    painter: Painter, works: list[Work], timed: Timed, table: dict[int, float]
) -> Generator[None, None, None]:
    """Denoise `works` together; the median step enters the table, the first one only warms up."""
    taken = []
    while works[0].done < works[0].total:
        taken.append(timed(partial(painter.step, works))[1])
        yield
    rows = sum(work.rows for work in works)
    table[rows] = statistics.median(taken[1:] or taken)


def _grow(
    painter: Painter,
    begin: Callable[[int], Work],
    timed: Timed,
    table: dict[int, float],
    max_rows: int,
) -> Generator[None, None, None]:
    """Double the batch while a row gets cheaper, memory suffices and nobody waits long."""
    rows = max(table) * 2
    while rows <= max_rows:
        before = max(table)
        try:
            works = [begin(0)]
            works += [begin(seed) for seed in range(1, rows // works[0].rows)]
            taken = []
            for _ in range(min(3, works[0].total)):
                taken.append(timed(partial(painter.step, works))[1])
                yield
        except (OutOfMemory, torch.OutOfMemoryError):
            return
        table[rows] = min(taken)
        pays = table[rows] / rows * SATURATED < table[before] / before
        if not pays or table[rows] > PATIENCE_S:
            return
        rows *= 2


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
