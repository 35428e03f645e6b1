"""SD 1.5, SDXL and their quick ones in all memory modes, as tables for the simulator. Nothing measured.

Where each number comes from:
  seconds   DiffServe's run times on one A100, whole pictures by batch (`difs.simulation.tables`)
  weights   parameters as the models' authors publish them, two bytes each
  peaks     a step: ComfyUI's formula for what inference takes, 164 MiB for SD 1.5 at 512 pixels and 524
            MiB for SDXL at 1024; decoding: what diffusers publishes as the most of a whole run (2.8 and
            10.0 GB in bf16), less the weights
  modelled  lighter modes and loads, from bytes: what a mode moves over the bus (BUS) once or beside each
            step, a load from the disk (DISK). Tiling costs no seconds, for no table tells decoding apart
  declared  qualities, and what fewer steps are worth (`difs.simulation.tables.DIAL`)

So a card of 8 GB is an A100 that has 8 GB: real cards are slower in all variants alike.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from difs.actor_messages import Costs, Resident, Room, RowCost
from difs.messages import MemoryMode
from difs.simulation import tables
from difs.simulation.tables import Mode, Model

MIB, GB = 2**20, 10**9
BUS = 12 * GB
"""Bytes a second from pinned host memory (PCIe 4.0 x16: 32 GB/s nominal, about half of it reached)."""
DISK = 2 * GB
"""Bytes a second from the disk."""
TILE_PEAK = 2.8 * GB - 2.13 * GB
"""What decoding one tile of 512 pixels takes: as SD 1.5's whole picture."""


class Parts(NamedTuple):
    """Bytes of a variant's parts in half precision, its peaks, and its declared quality."""

    unet: float
    text: float
    vae: float
    step_peak: int
    decode_peak: float
    quality: float

    @property
    def weights(self) -> float:
        """Return the bytes of all."""
        return self.unet + self.text + self.vae


def _half(millions: float) -> float:
    return millions * 1e6 * 2


SD15 = Parts(_half(860), _half(123), _half(84), 164 * MIB, TILE_PEAK, 0.8)
SD_TURBO = Parts(_half(866), _half(340), _half(84), 164 * MIB, TILE_PEAK, 0.6)
SDXL = Parts(_half(2567), _half(818), _half(84), 524 * MIB, 10.0 * GB - _half(3469), 1.0)
PARTS: Mapping[str, Parts] = {
    "sd15": SD15,
    "sd-turbo": SD_TURBO,
    "sdxl": SDXL,
    "sdxl-lightning": SDXL._replace(quality=0.85),
}
FILES = ("stable_diffusion_runtimes_sdturbo.csv", "stable_diffusion_runtimes_sdxlltn.csv")


def models(traces: Path) -> dict[str, Model]:
    """Return the four variants in all modes; `traces`: the folder of DiffServe's artifact."""
    found: dict[str, Model] = {}
    for name in FILES:
        found |= tables.diffserve(name, (traces / name).read_text("utf-8"))
    return {name: in_all_modes(found[name], parts) for name, parts in PARTS.items()}


def in_all_modes(model: Model, parts: Parts) -> Model:
    """Return a variant of one mode with the bytes of its parts, and all other modes as modelled."""
    share = parts.quality / max(point.score for point in model.info.quality)
    curve = tuple(replace(point, score=round(point.score * share, 4)) for point in model.info.quality)
    info = replace(model.info, bytes=round(parts.weights), quality=curve)
    plain = next(iter(model.modes.values())).resident
    costs = replace(plain.costs, load_s=parts.weights / DISK)
    made = {mode: _mode(plain, mode, costs, parts) for mode in _SHARES}
    return Model(info, made, spread=0.0)


_SHARES: Mapping[MemoryMode, float] = {
    "full": 1.0,
    "tiled": 1.0,
    "model_offload": 0.0,
    "group_offload": 0.1,
    "sequential_offload": 0.02,
}
"""What of the weights rests on the device; of `model_offload` the largest part, when it is its turn."""


def _mode(plain: Resident, mode: MemoryMode, costs: Costs, parts: Parts) -> Mode:
    rest = max(parts.unet, parts.vae) if mode == "model_offload" else _SHARES[mode] * parts.weights
    decode_peak = parts.decode_peak if mode in ("full", "model_offload") else TILE_PEAK
    room = Room(round(rest), parts.step_peak, round(decode_peak))
    resident = replace(
        plain,
        memory_mode=mode,
        weight_bytes=round(parts.weights),
        costs=_moved(costs, mode, parts),
        room=room,
    )
    return Mode(resident, parked_s=parts.weights / BUS)


def _moved(costs: Costs, mode: MemoryMode, parts: Parts) -> Costs:
    """Return the costs of a mode: what it moves over the bus for each picture, or for each step."""
    match mode:
        case "model_offload":  # every part once for each picture
            return replace(costs, encode_s=parts.weights / BUS)
        case "group_offload":  # the UNet in each step, beside it
            beside_s = parts.unet / BUS
            steps = tuple(RowCost(c.rows, max(c.seconds, beside_s)) for c in costs.steps)
        case "sequential_offload":  # the UNet in each step, a layer at a time, nothing beside it
            steps = tuple(RowCost(c.rows, c.seconds + 3 * parts.unet / BUS) for c in costs.steps)
        case _:
            return costs
    return replace(costs, encode_s=(parts.text + parts.vae) / BUS, steps=steps)
