"""The cost model: predicted seconds of an operating point from measured costs.

`cost = encode + evaluations x step(rows) + n x decode`, `step` linear between the numbers of UNet rows
that were measured; what both cost at another size is `difs.sizes`', what is learned of them by serving is
`difs.learning`'s. Pure arithmetic over what an actor measured when it loaded (`difs.actors.warmup`), or a
profile before that (`difs.profiling`).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from difs.actor_messages import Costs, RowCost
from difs.messages import Prediction
from difs.samplers import evaluations
from difs.sizes import at, in_table

ASSUMED = Costs(
    pixels=512 * 512, encode_s=0.1, steps=(RowCost(1, 0.5), RowCost(2, 1.0)), decode_s=1.0, load_s=15.0
)
"""Stands in for a variant that was never measured here; a plan made with it says `assumed`."""

SATURATED = 1.03
"""More rows are not worth their delay once a row costs within this factor of its least."""
HARDLY = 2
"""After so many doublings in a row that hardly paid no greater number of rows is tried."""


class Work(Struct, frozen=True):
    """What is to be computed."""

    pixels: int
    steps: int
    sampler: str
    guidance_scale: float
    n: int
    is_alone: bool = False
    """Each image runs by itself: it shares no call, not even with the others of its request."""
    size: tuple[int, int] | None = None
    """Width and height: others share calls with it that have the same; None: it matters to nobody."""


def is_guided(guidance_scale: float) -> bool:
    """Whether classifier-free guidance doubles the UNet's batch (Ho & Salimans 2022, as diffusers)."""
    return guidance_scale > 1.0


def rows_of(guidance_scale: float) -> int:
    """Return the rows that one image needs in a UNet call."""
    return 2 if is_guided(guidance_scale) else 1


def step_seconds(costs: Costs, pixels: int, rows: int) -> float:
    """Return the predicted seconds of one UNet evaluation with `rows` rows of `pixels` pixels each."""
    return in_table(at(costs, pixels).steps, rows)


def decode_seconds(costs: Costs, pixels: int) -> float:
    """Return the predicted seconds of decoding one image of `pixels` pixels."""
    return at(costs, pixels).decode_s


def may_pay(each_s: Sequence[float]) -> bool:
    """Whether twice as many rows again may make a row cheaper.

    `each_s`: the seconds of a row, from one doubling to the next. One that hardly pays may have met a
    disturbance, and two may pay together what none does alone: only the `HARDLY`th in a row is the end.
    """
    pays = [later_s * SATURATED < before_s for before_s, later_s in pairwise(each_s)]
    return len(pays) < HARDLY or any(pays[-HARDLY:])


@lru_cache(maxsize=2048)  # a plan asks several times
def best_rows(costs: Costs) -> int:
    """Return the fewest measured rows at which a row costs (nearly) as little as it ever does."""
    least = min(cost.seconds / cost.rows for cost in costs.steps)
    if least <= 0:
        return costs.steps[-1].rows
    return next(cost.rows for cost in costs.steps if cost.seconds / cost.rows <= SATURATED * least)


def predict(
    work: Work,
    costs: Costs | None,
    *,
    queue_s: float = 0.0,
    is_resident: bool = True,
    later_s: float = 0.0,
) -> Prediction:
    """Return the predicted seconds of each part of `work` after `queue_s` seconds of waiting.

    `later_s`: the part of these for those who come later.
    """
    known = costs if costs is not None else ASSUMED
    steps_s = evaluations(work.sampler, work.steps) * _all_images(known, work)
    decode_s = work.n * decode_seconds(known, work.pixels)
    load_s = 0.0 if is_resident else known.load_s
    return Prediction(
        queue_s=queue_s,
        load_s=load_s,
        encode_s=known.encode_s,
        steps_s=steps_s,
        decode_s=decode_s,
        total_s=queue_s + load_s + known.encode_s + steps_s + decode_s,
        source=at(costs, work.pixels).source if costs is not None else "assumed",
        later_s=later_s,
    )


def images_a_call(costs: Costs, work: Work) -> int:
    """Return how many images share a UNet call: as many as pay; the rows of one image stay together."""
    if work.is_alone:
        return 1
    return max(1, rows_that_pay(costs, work.pixels) // rows_of(work.guidance_scale))


def rows_that_pay(costs: Costs, pixels: int) -> int:
    """Return how many rows of `pixels` pixels are worth a call: see `best_rows`."""
    return best_rows(at(costs, pixels))


@lru_cache(maxsize=2048)  # a decision, its plan and what is learned of it ask for the same
def _all_images(costs: Costs, work: Work) -> float:
    """Return the seconds of one evaluation of all images, in as many calls as the engine makes."""
    rows, most = rows_of(work.guidance_scale), images_a_call(costs, work)
    full, rest = divmod(work.n, most)
    rest_s = step_seconds(costs, work.pixels, rest * rows) if rest else 0.0
    return full * step_seconds(costs, work.pixels, most * rows) + rest_s


@lru_cache(maxsize=2048)  # a plan asks three times
def shared_step_seconds(work: Work, costs: Costs | None, others: int | None = None) -> float:
    """Return the seconds of a device for one evaluation of one image when it is shared with others.

    `others`: the images that are there to share with; None: as many as pay.
    """
    known = costs if costs is not None else ASSUMED
    most = images_a_call(known, work)
    if others is not None:
        most = min(most, work.n + others)
    return step_seconds(known, work.pixels, most * rows_of(work.guidance_scale)) / most


def shared_seconds(work: Work, costs: Costs | None, others: int | None = None) -> float:
    """Return the seconds of a device that `work` takes beside `others`; see `shared_step_seconds`."""
    known = costs if costs is not None else ASSUMED
    steps_s = evaluations(work.sampler, work.steps) * shared_step_seconds(work, known, others)
    decode_s = decode_seconds(known, work.pixels)
    return known.encode_s + work.n * (steps_s + decode_s)


def reconciled(measured: Costs, profiled: Costs | None) -> Costs:
    """Return what was measured now at one size, with a profile's other sizes and rows in proportion."""
    if profiled is None:
        return measured
    there = at(profiled, measured.pixels)
    rows = min(measured.steps, key=lambda cost: abs(cost.rows - 2)).rows
    then_s = in_table(there.steps, rows)
    steps = in_table(measured.steps, rows) / then_s if then_s > 0 else 1.0
    decode = measured.decode_s / there.decode_s if there.decode_s > 0 else 1.0
    most = measured.steps[-1].rows
    more = _times(tuple([cost for cost in there.steps if cost.rows > most]), steps)
    sizes = slowed(profiled, steps=steps, decode=decode).sizes
    return replace(measured, steps=measured.steps + more, sizes=sizes)


def slowed(costs: Costs, *, steps: float = 1.0, decode: float = 1.0) -> Costs:
    """Return `costs` with everything that takes `steps` or `decode` times as long."""
    return replace(
        costs,
        steps=_times(costs.steps, steps),
        decode_s=costs.decode_s * decode,
        sizes=tuple(
            [replace(s, steps=_times(s.steps, steps), decode_s=s.decode_s * decode) for s in costs.sizes]
        ),
    )


@lru_cache(maxsize=256)  # told with each picture that is done
def limited(costs: Costs, rows: int) -> Costs:
    """Return `costs` of calls of `rows` rows at most: for more there is no room, or it is not wanted."""
    tables = [costs.steps, *(size.steps for size in costs.sizes)]
    if all(table[-1].rows <= rows for table in tables):
        return costs
    sizes = [replace(s, steps=_first(s.steps, rows)) for s in costs.sizes]
    return replace(costs, steps=_first(costs.steps, rows), sizes=tuple(sizes))


def _first(table: tuple[RowCost, ...], rows: int) -> tuple[RowCost, ...]:
    """Return a table up to so many rows, and its first line at the least."""
    if rows <= table[0].rows:
        return table[:1]
    if rows >= table[-1].rows:
        return table
    kept = tuple([cost for cost in table if cost.rows < rows])
    return (*kept, RowCost(rows, in_table(table, rows)))


def _times(table: tuple[RowCost, ...], factor: float) -> tuple[RowCost, ...]:
    return tuple([RowCost(cost.rows, cost.seconds * factor) for cost in table])
