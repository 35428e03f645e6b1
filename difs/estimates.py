"""What a variant would cost on a device where it was never measured: what another of its family costs.

Variants of a family have one architecture, and a step's time goes with its parameters; their numbers of
bytes and precisions give the ratio. Marked `estimated`, and replaced as soon as the variant is measured.
"""

import math
from collections.abc import Mapping

from msgspec.structs import replace

from difs.actor_messages import Resident
from difs.messages import VariantInfo
from difs.profiles import slowed

BYTES_EACH = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}


def of_all(variants: Mapping[str, VariantInfo], measured: Mapping[str, Resident]) -> dict[str, Resident]:
    """Return an estimate for each variant that was not measured and has a relative that was."""
    found = {}
    for name, info in variants.items():
        if name not in measured:
            relatives = [variants[other] for other in measured if variants[other].family == info.family]
            if relatives:
                nearest = min(
                    relatives, key=lambda other: (abs(math.log(_ratio(info, other))), other.name)
                )
                found[name] = like(info, nearest, measured[nearest.name])
    return found


def like(info: VariantInfo, relative: VariantInfo, measured: Resident) -> Resident:
    """Return a variant as a measured relative is: steps by its parameters, loads by its bytes.

    The text encoder and the autoencoder are taken to be the same.
    """
    costs = slowed(measured.costs, steps=_ratio(info, relative))
    size = max(1, info.bytes) / max(1, relative.bytes)
    return replace(
        measured,
        variant=info.name,
        weight_bytes=round(measured.weight_bytes * _ratio(info, relative)),
        costs=replace(costs, load_s=costs.load_s * size, source="estimated"),
        seed_bound=0.0,
        room=None,
    )


def _ratio(info: VariantInfo, relative: VariantInfo) -> float:
    return _parameters(info) / _parameters(relative)


def _parameters(info: VariantInfo) -> float:
    return max(1, info.bytes) / BYTES_EACH.get(info.precision, 2)
