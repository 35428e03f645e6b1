"""What variants cost and are worth in a simulation: from `difs profile`'s files, or from others' tables.

A profile says what was measured; what a variant is (steps, sampler, quality) says its manifest. The
tables of DiffServe (run times of whole pictures by batch) say less: what is declared for them stands here
and is marked `declared`.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from difs import rooms
from difs.actor_messages import Costs, Resident, RowCost
from difs.errors import ConfigError
from difs.messages import MemoryMode, QualityPoint, VariantInfo
from difs.profiling import cells, curves, store
from difs.profiling.cells import DeviceFacts, Profile
from difs.variants import Variant


class Mode(Struct, frozen=True):
    """A variant in a memory mode: the truth of a simulation."""

    resident: Resident
    """Its costs are those of this mode; `load_s` is the way from the disk."""
    parked_s: float = 0.0
    """The way from host memory, and back."""

    @property
    def rest_bytes(self) -> int:
        """Return the device memory that it takes between two calls; of old tables, its weights."""
        return rooms.rest_bytes(self.resident)


class Model(Struct, frozen=True):
    """A variant of a simulation."""

    info: VariantInfo
    modes: Mapping[MemoryMode, Mode]
    """The one that it is loaded into stands first."""
    kind: str = "cuda"
    """Of the device that was measured."""
    spread: float = 0.0
    """By how much its quality differs from the easiest prompt to the hardest."""


def of_profile(profile: Profile, info: VariantInfo) -> Model:
    """Return a profiled variant; raises ConfigError where its native size was not measured."""
    found = curves.residents(profile)
    if not found:
        raise ConfigError(f"the profile of {info.name} has no timings; measure it with `difs profile`")
    modes = {r.memory_mode: Mode(r, profile.modes[r.memory_mode].load_parked_s) for r in found}
    return Model(info, modes, profile.key.device.kind)


def read(path: Path, infos: Mapping[str, VariantInfo]) -> dict[str, Model]:
    """Return the variants of a profile (.json), a table of run times (.csv), or a folder of profiles.

    `infos`: the registered variants, for what a profile does not say. Raises ConfigError.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: no profile (*.json) in this folder; `difs profile` makes them")
    found: dict[str, Model] = {}
    for file in files:
        try:
            data = file.read_bytes()
            fresh = (
                diffserve(file.name, data.decode()) if file.suffix == ".csv" else _profiled(data, infos)
            )
        except (OSError, ValueError) as error:
            words = "a profile of `difs profile` (.json), or Model,Accel,batchsize,avg_runtime (.csv)"
            raise ConfigError(f"{file} is neither: {words}: {error}") from None
        found |= fresh
    return found


def _profiled(data: bytes, infos: Mapping[str, VariantInfo]) -> dict[str, Model]:
    profile = cells.decode(data)
    name = profile.key.variant
    if name not in infos:
        known = ", ".join(sorted(infos)) or "none"
        raise ConfigError(f"the profile is of {name}, which is not registered; registered: {known}")
    return {name: of_profile(profile, infos[name])}


def here(variants: Iterable[Variant], facts: DeviceFacts) -> dict[str, Model]:
    """Return the variants that `difs profile` measured on this machine's device. Raises ConfigError."""
    found = {}
    for variant in variants:
        profile = store.find(variant, store.key_of(variant, facts))
        if profile is not None and curves.residents(profile):
            found[variant.name] = of_profile(profile, variant.info())
    if not found:
        raise ConfigError("nothing was profiled here: run `difs profile`, or name tables with --tables")
    return found


# ---- DiffServe ------------------------------------------------------------------------------------


class Declared(NamedTuple):
    """What a table of run times does not say of a variant."""

    name: str
    family: str
    steps: int
    guidance: float
    side: int
    quality: float


LIGHT, HEAVY = "sdturbo", "sdv15"
"""How the files call the two of a cascade, whatever they are."""
LIGHT_WORTH = 0.8
"""The light one's quality where the heavy one's is 1.0: declared. The artifact has none by picture."""
LIGHT_SPREAD = 0.4
"""From the hardest prompt to the easiest: the light one is worth 0.6 to 1.0, so that on the easiest it is
as good as the heavy one, which is what a cascade lives on."""
PAIRS: dict[str, dict[str, Declared]] = {
    "sdturbo": {
        LIGHT: Declared("sd-turbo", "sd21", 1, 0.0, 512, LIGHT_WORTH),
        HEAVY: Declared("sd15", "sd15", 50, 7.5, 512, 1.0),
    },
    "sdxs": {
        LIGHT: Declared("sdxs", "sdxs", 1, 0.0, 512, LIGHT_WORTH),
        HEAVY: Declared("sd15", "sd15", 50, 7.5, 512, 1.0),
    },
    "sdxlltn": {
        LIGHT: Declared("sdxl-lightning", "sdxl", 2, 0.0, 1024, LIGHT_WORTH),
        HEAVY: Declared("sdxl", "sdxl", 50, 7.5, 1024, 1.0),
    },
}
"""By the end of the file's name."""
DIAL = ((10, 4.67 / 13.36), (20, 4.67 / 6.84), (50, 1.0))
"""What fewer steps are worth: the ratio of FIDs of DDIM on CIFAR-10 (Song et al., ICLR 2021, table 1)."""
BROKEN_MS = 100_000
"""Stands in the tables where a batch did not fit."""
LOAD_S = 5.0
"""The tables tell no loads; the artifact's workers hold one model each. Declared."""


def diffserve(name: str, text: str, *, has_dial: bool = True) -> dict[str, Model]:
    """Return the two variants of a table of run times; without a dial the heavy one has 50 steps only.

    Raises ConfigError, or ValueError where the text is no such table.
    """
    pair = PAIRS.get(name.removesuffix(".csv").rpartition("_")[2])
    if pair is None:
        raise ConfigError(f"{name}: the name must end in one of {', '.join(f'_{p}.csv' for p in PAIRS)}")
    rows: dict[str, dict[int, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        millis = float(row["avg_runtime"])
        if row["Model"] in pair and millis < BROKEN_MS:
            rows.setdefault(row["Model"], {}).setdefault(int(row["batchsize"]), millis / 1000)
    if rows.keys() != pair.keys():
        raise ConfigError(
            f"{name}: expected the models {', '.join(pair)}, found {', '.join(rows) or 'none'}"
        )
    source = f"declared; run times from {name}"
    return {pair[m].name: _model(pair[m], by_batch, source, has_dial) for m, by_batch in rows.items()}


def _model(said: Declared, by_batch: Mapping[int, float], source: str, has_dial: bool) -> Model:
    """Return a variant all of whose run time is steps: the tables do not tell the parts apart."""
    rows = 2 if said.guidance > 1 else 1
    costs = Costs(
        pixels=said.side**2,
        encode_s=0.0,
        steps=tuple(RowCost(rows * b, s / said.steps) for b, s in sorted(by_batch.items())),
        decode_s=0.0,
        load_s=LOAD_S,
    )
    dial = [(n, said.quality * worth) for n, worth in DIAL] if has_dial and said.steps == 50 else []
    curve = dial or [(said.steps, said.quality)]
    info = VariantInfo(
        name=said.name,
        task="text-to-image",
        family=said.family,
        precision="fp16",
        sampler="ddim" if said.steps == 50 else "euler",
        steps_min=curve[0][0],
        steps_default=said.steps,
        steps_max=said.steps,
        guidance_scale=said.guidance,
        native_sizes=((said.side, said.side),),
        licence="",
        description="",
        bytes=1,
        quality=tuple(QualityPoint(said.side, n, said.guidance, round(q, 4)) for n, q in curve),
        quality_source=source,
        quality_kind="declared",
        quality_judge="diffserve",
    )
    resident = Resident(said.name, "full", "fp16", 0, costs)
    spread = LIGHT_SPREAD if said.quality < 1 else 0.0
    return Model(info, {"full": Mode(resident)}, spread=spread)


# ---- the scorer -----------------------------------------------------------------------------------


def score_at(shares: Sequence[tuple[float, float]], ease: float) -> float:
    """Return the score of which a share of `ease` lies below; without shares all are equally often."""
    last = (0.0, 0.0)
    for threshold, share in shares:
        if share >= ease:
            width = share - last[1]
            part = (ease - last[1]) / width if width > 0 else 0.0
            return last[0] + part * (threshold - last[0])
        last = (threshold, share)
    return last[0] if shares else ease
