"""What a variant would cost on a device where it was never measured: from what others cost there.

Where the structure of both is known (`difs.efforts`), it costs what the nearest one does, times the
ratio of what both take by how fast the device is (`difs.speeds`): errors that both have in common cancel.
Else a relative of the same family lends its seconds in proportion to the parameters. Both are marked
`estimated`, and replaced as soon as the variant is measured. With nothing to go by, a usual speed of the
kind of device is taken, and marked `assumed`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from difs import speeds
from difs.actor_messages import Costs, Resident, RowCost, SizeCost
from difs.messages import Effort, Efforts, VariantInfo
from difs.profiles import slowed
from difs.sizes import grid
from difs.speeds import Speed, amounts

BYTES_EACH = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
SMALL = 16
"""A picture of so many times fewer pixels than the native size is estimated too; between, costs curve."""
FARTHER = (1 / 4, 4.0)
"""What was measured at one size only is estimated at so many times its pixels, too."""
USUAL_ROWS = (1, 2, 4, 8)
"""Of the calls whose seconds are told of a device of which nothing is known."""


def of_all(
    variants: Mapping[str, VariantInfo], measured: Mapping[str, Resident], kind: str = "cpu"
) -> dict[str, Resident]:
    """Return an estimate for each variant that was not measured and of which something can be said.

    `kind`: of the device, "cpu" or "cuda".
    """
    if variants.keys() <= measured.keys():
        return {}
    counted = _counted(variants, measured)
    device, found = _device(counted, kind), {}
    paced = [(device.pace(one.info, one.efforts), one) for one in counted]
    for name, info in variants.items():
        if name in measured:
            continue
        relatives = [variants[other] for other in measured if variants[other].family == info.family]
        if info.efforts is not None and counted:
            found[name] = device.by_count(info, info.efforts, _nearest(info, info.efforts, device, paced))
        elif relatives:
            relative = min(relatives, key=lambda o: (abs(math.log(_ratio(info, o))), o.name))
            found[name] = like(info, relative, measured[relative.name])
        elif info.efforts is not None:
            found[name] = device.as_usual(info, info.efforts)
    return found


def at_other_sizes(measured: Costs, efforts: Efforts | None, kind: str) -> Costs:
    """Return costs measured at one size with what a smaller and a larger one would take.

    Its own calls tell how fast the device is. Where the structure is not known everything is taken to be
    linear in the pixels, as `difs.sizes` does it.
    """
    if efforts is None or not all(0 < cost.seconds < math.inf for cost in measured.steps):
        return measured
    calls = [(amounts(efforts.step, measured.pixels, cost.rows), cost.seconds) for cost in measured.steps]
    device = _Device(kind, speeds.fitted(calls, speeds.usual(kind)), speeds.USUAL_LOAD)
    own, *_ = grid(measured)
    sizes = [device.scaled(own, round(own.pixels * times), efforts, efforts) for times in FARTHER]
    return replace(measured, sizes=tuple([replace(size, is_measured=False) for size in sizes]))


# ---- by count -------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """A variant that was measured here and whose efforts are known."""

    info: VariantInfo
    efforts: Efforts
    known: Resident


def _counted(variants: Mapping[str, VariantInfo], measured: Mapping[str, Resident]) -> list[Counted]:
    """Return what was measured and counted, in one memory mode: in full, if anything was."""
    found = [
        Counted(variants[name], efforts, known)
        for name, known in measured.items()
        for efforts in [variants[name].efforts]
        if efforts is not None and all(0 < cost.seconds < math.inf for cost in known.costs.steps)
    ]
    return [one for one in found if one.known.memory_mode == "full"] or found


def _device(counted: list[Counted], kind: str) -> "_Device":
    """Return how fast a device of a kind is, by all that was measured there."""
    calls = [
        (amounts(one.efforts.step, size.pixels, cost.rows), cost.seconds)
        for one in counted
        for size in grid(one.known.costs)
        if size.is_measured
        for cost in size.steps
        if 0 < cost.seconds < math.inf
    ]
    unfitted = _Device(kind, speeds.fitted(calls, speeds.usual(kind)), speeds.USUAL_LOAD)
    loads = [
        (unfitted.load_amounts(one.info, one.efforts), one.known.costs.load_s)
        for one in counted
        if 0 < one.known.costs.load_s < math.inf
    ]
    return replace(unfitted, load=speeds.fitted(loads, speeds.USUAL_LOAD))


class _Device(Struct, frozen=True):
    """How fast a device is."""

    kind: str
    call: Speed
    """Of a layer, a weight, a multiply-add;"""
    load: Speed
    """of a load, a byte, a picture of one step."""

    def by_count(self, info: VariantInfo, efforts: Efforts, nearest: Counted) -> Resident:
        """Return what a variant would be: each cost of the nearest, times the ratio of what it takes."""
        theirs, now = nearest.efforts, nearest.known.costs
        pixels, known = _pixels(info), grid(now)
        asked = {size.pixels * pixels // now.pixels: size for size in reversed(known)}
        if min(asked) == pixels:
            asked[pixels // SMALL] = known[0]
        sizes = {at: self.scaled(size, at, efforts, theirs) for at, size in sorted(asked.items())}
        own = sizes.pop(pixels)
        loads = speeds.seconds(self.load, self.load_amounts(nearest.info, theirs))
        costs = replace(
            now,
            pixels=own.pixels,
            encode_s=now.encode_s * self._seconds(efforts.encode, 1) / self._seconds(theirs.encode, 1),
            steps=own.steps,
            decode_s=own.decode_s,
            sizes=tuple(sizes.values()),
            load_s=now.load_s * speeds.seconds(self.load, self.load_amounts(info, efforts)) / loads,
        )
        return _stand_in(info, nearest.info, nearest.known, costs)

    def as_usual(self, info: VariantInfo, efforts: Efforts) -> Resident:
        """Return what a variant would be if the device is as fast as its kind usually is."""
        pixels = _pixels(info)
        costs = Costs(
            pixels=pixels,
            encode_s=self._seconds(efforts.encode, pixels),
            steps=tuple(
                [RowCost(rows, self._seconds(efforts.step, pixels, rows)) for rows in USUAL_ROWS]
            ),
            decode_s=self._seconds(efforts.decode, pixels),
            load_s=speeds.seconds(self.load, self.load_amounts(info, efforts)),
            source="assumed",
        )
        precision = info.precision if self.kind == "cuda" else "fp32"
        weight_bytes = round(_parameters(info) * BYTES_EACH.get(precision, 2))
        return Resident(info.name, "full", precision, weight_bytes, costs)

    def load_amounts(self, info: VariantInfo, efforts: Efforts) -> tuple[float, float, float]:
        """Return one load, its bytes, and the seconds of a picture of one step."""
        pixels = _pixels(info)
        parts = (self._seconds(part, pixels) for part in (efforts.encode, efforts.step, efforts.decode))
        return 1.0, float(max(1, info.bytes)), sum(parts)

    def scaled(self, size: SizeCost, pixels: int, ours: Efforts, theirs: Efforts) -> SizeCost:
        """Return what a picture of `pixels` pixels costs, from what another variant's of `size` does."""

        def ratio(our: Effort, their: Effort, rows: int) -> float:
            return self._seconds(our, pixels, rows) / self._seconds(their, size.pixels, rows)

        steps = [RowCost(c.rows, c.seconds * ratio(ours.step, theirs.step, c.rows)) for c in size.steps]
        return SizeCost(pixels, tuple(steps), size.decode_s * ratio(ours.decode, theirs.decode, 1))

    def pace(self, info: VariantInfo, efforts: Efforts) -> float:
        """Return the logarithm of the seconds of a guided step of the native size."""
        return math.log(self._seconds(efforts.step, _pixels(info), 2))

    def _seconds(self, effort: Effort, pixels: int, rows: int = 1) -> float:
        return speeds.seconds(self.call, amounts(effort, pixels, rows))


def _nearest(
    info: VariantInfo, efforts: Efforts, device: _Device, paced: list[tuple[float, Counted]]
) -> Counted:
    """Return what is nearest in its seconds; of equals one of the same family."""
    pace = device.pace(info, efforts)

    def distance(other: tuple[float, Counted]) -> tuple[float, bool, str]:
        their_pace, one = other
        return abs(pace - their_pace), one.info.family != info.family, one.info.name

    return min(paced, key=distance)[1]


def _pixels(info: VariantInfo) -> int:
    """Return the pixels of a variant's native size."""
    width, height = info.native_sizes[0]
    return width * height


# ---- by parameters --------------------------------------------------------------------------------


def like(info: VariantInfo, relative: VariantInfo, measured: Resident) -> Resident:
    """Return a variant as a measured relative is: steps by its parameters, loads by its bytes.

    The text encoder and the autoencoder are taken to be the same.
    """
    costs = slowed(measured.costs, steps=_ratio(info, relative))
    size = max(1, info.bytes) / max(1, relative.bytes)
    return _stand_in(info, relative, measured, replace(costs, load_s=costs.load_s * size))


def _stand_in(info: VariantInfo, relative: VariantInfo, known: Resident, costs: Costs) -> Resident:
    """Return a resident with estimated costs that is otherwise as its relative is."""
    return replace(
        known,
        variant=info.name,
        weight_bytes=round(known.weight_bytes * _ratio(info, relative)),
        costs=replace(costs, source="estimated"),
        seed_bound=0.0,
        room=None,
    )


def _ratio(info: VariantInfo, relative: VariantInfo) -> float:
    return _parameters(info) / _parameters(relative)


def _parameters(info: VariantInfo) -> float:
    return max(1, info.bytes) / BYTES_EACH.get(info.precision, 2)
