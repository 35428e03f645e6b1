"""Registers a diffusers folder: its configuration is copied, its weights are linked.

Of each part one set of weights is taken: the plain one, else fp16's, which gets the plain one's name.
What paints nothing (a safety checker and its feature extractor) stays behind; so does code.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from difs.errors import RepositoryError
from difs.manifests import Kind, Manifest, Seen, StepRange
from difs.messages import MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE
from difs.registration import digests, headers, keys, shelf
from difs.registration.orders import UNKNOWN_LICENCE, Order, Outcome, name_for, registered
from difs.registration.presets import Preset, preset
from difs.repository import PART_NAME, PICKLE_SUFFIXES
from difs.variants import MODEL_INDEX

T = TypeVar("T")
MAX_JSON_BYTES = 4 * 2**20
MAX_COPIED_BYTES = 32 * 2**20
COPIED = frozenset({".json", ".txt", ".model"})
PLAIN = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
HALF = re.compile(r"(diffusion_pytorch_model|model)\.fp16\.safetensors")
LEFT_BEHIND = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
CLASSES = {
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
}
"""The pipelines that are known; `sd` is told apart by what its UNet reads."""
CONTEXTS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
SD3 = Preset("euler", StepRange(10, 28, 50), 5.0, ((1024, 1024), (832, 1216), (1216, 832)))
EMBEDDED_GUIDANCE = 8.0
"""The default of diffusers' LatentConsistencyModelPipeline, whose UNet takes the scale as an input."""


class Unet(Struct, frozen=True):
    """What is needed of a UNet's configuration."""

    cross_attention_dim: int | tuple[int, ...] | None = None
    in_channels: int = 4
    sample_size: int | tuple[int, ...] | None = None
    time_cond_proj_dim: int | None = None


class Scheduler(Struct, frozen=True):
    """What is needed of a scheduler's configuration."""

    class_name: str = msgspec.field(name="_class_name", default="")
    timestep_spacing: str = ""
    prediction_type: str = "epsilon"


class Vae(Struct, frozen=True):
    """What is needed of an autoencoder's configuration."""

    block_out_channels: tuple[int, ...] = ()


class Facts(Struct, frozen=True):
    """What a diffusers folder holds."""

    family: str
    kind: Kind
    preset: Preset
    index: Mapping[str, Any]
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def register(source: Path, order: Order) -> Outcome:
    """Register a folder with a model_index.json; raises RepositoryError, OSError."""
    facts = recognise(source, order)
    files = {part: _weights(source / part) for part in facts.parts}
    first = next((file for found in files.values() for file in found), None)
    if first is None:
        raise RepositoryError(f"{source.name}: there are no weights in it")
    before = registered(first, order)
    if before is not None:
        return replace(before, path=str(source))
    name = name_for(order, source.resolve().name)
    with shelf.building(order.root, name) as folder:
        (folder / MODEL_INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(facts.index)))
        linked: dict[str, str] = {}
        pinned: dict[str, str] = {}
        seen: dict[str, Seen] = {}
        precision = "fp16"
        for part in facts.parts:
            _copy_small(source / part, folder / part)
            for file, called in files[part].items():
                relative = f"{part}/{called}"
                header = headers.read(file)
                if part in ("unet", "transformer"):
                    precision = keys.precision_of(header.tensors, ("",))
                link = shelf.bring(file, folder / relative, copy=order.copy)
                linked |= {} if link is None else {relative: link}
                tell = order.watch(f"{part}/{file.name}", header.file_bytes)
                read = digests.of_file(folder / relative, tell)
                pinned[relative], seen[relative] = read.digest, read.seen
        manifest = Manifest(
            name=name,
            task="text-to-image",
            family=facts.family,
            kind=facts.kind,
            path=".",
            precision="bf16" if precision == "bf16" else "fp16",
            sampler=facts.preset.sampler,
            steps=facts.preset.steps,
            guidance_scale=facts.preset.guidance_scale,
            native_sizes=facts.preset.native_sizes,
            licence=order.licence or UNKNOWN_LICENCE,
            description=source.resolve().name,
            digests=pinned,
            linked=linked,
            seen=seen,
        )
        shelf.write(folder, manifest)
    return Outcome(str(source), name, f"variant of {facts.family}", facts.notes)


def recognise(source: Path, order: Order) -> Facts:
    """Return what a diffusers folder holds; raises RepositoryError."""
    index = _json(source / MODEL_INDEX, dict[str, Any])
    pipeline = CLASSES.get(str(index.get("_class_name")))
    if pipeline is None:
        raise RepositoryError(
            f"{source.name}: {index.get('_class_name')!r} is no pipeline that DIFS knows"
            f" ({', '.join(CLASSES)}); write a variant.toml for it"
        )
    kept = {part: named for part, named in index.items() if part not in LEFT_BEHIND}
    gone = {part: [None, None] for part in index if part in LEFT_BEHIND}
    parts = tuple(part for part, named in kept.items() if isinstance(named, list) and None not in named)
    for part in parts:
        if not PART_NAME.fullmatch(part) or not (source / part).is_dir():
            raise RepositoryError(f"{source.name}: {MODEL_INDEX} names {part!r}, which is not there")
    family, kind, why, numbers = _identity(source, pipeline, order)
    notes = () if kind == "base" else (f"{kind}: {why}; --kind says otherwise",)
    return Facts(family, kind, numbers, kept | gone, parts, notes)


def _identity(source: Path, pipeline: str, order: Order) -> tuple[str, Kind, str, Preset]:
    if pipeline == "sd3":
        return "sd3", "base", "", SD3
    unet = _json(source / "unet" / "config.json", Unet)
    scheduler = _json(source / "scheduler" / "scheduler_config.json", Scheduler)
    width = unet.cross_attention_dim
    family = CONTEXTS.get(width, "") if isinstance(width, int) else ""
    if not family or (family == "sdxl") != (pipeline == "sdxl"):
        raise RepositoryError(f"{source.name}: a UNet that reads {width} numbers a token is of no family")
    if unet.in_channels != 4:
        raise RepositoryError(f"{source.name}: its UNet takes {unet.in_channels} channels, not 4")
    kind, why = _kind(source, unet, scheduler, order)
    is_v = scheduler.prediction_type == "v_prediction"
    numbers = preset(family, kind, "v_prediction" if is_v else "epsilon")
    if kind == "lcm" and unet.time_cond_proj_dim:
        numbers = numbers._replace(guidance_scale=EMBEDDED_GUIDANCE)
    side = _native_side(source, unet)
    if kind == "base" and side not in (0, numbers.native_sizes[0][0]):
        numbers = numbers._replace(native_sizes=((side, side),))
    return family, kind, why, numbers


def _kind(source: Path, unet: Unet, scheduler: Scheduler, order: Order) -> tuple[Kind, str]:
    if order.kind is not None:
        return order.kind, "as stated"
    if unet.time_cond_proj_dim:
        return "lcm", "its UNet takes the guidance as an input"
    is_ancestral = scheduler.class_name == "EulerAncestralDiscreteScheduler"
    if is_ancestral and scheduler.timestep_spacing == "trailing":
        return "turbo", "its scheduler is that of SDXL-Turbo"
    return keys.kind_of({}, source.resolve().name)


def _native_side(source: Path, unet: Unet) -> int:
    """Return the pixels of a side that the UNet's configuration names; 0 for none that we take."""
    levels = _json(source / "vae" / "config.json", Vae).block_out_channels
    latent = unet.sample_size if isinstance(unet.sample_size, int) else 0
    side = latent << max(0, len(levels) - 1)
    return side if MIN_SIDE <= side <= MAX_SIDE and side % SIDE_MULTIPLE == 0 else 0


def _json(path: Path, kind: type[T]) -> T:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RepositoryError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise RepositoryError(f"{path.parent.name}/{path.name}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RepositoryError(f"{path.parent.name}/{path.name}: {error}") from None


def _copy_small(source: Path, target: Path) -> None:
    """Copy a part's configuration and vocabulary."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        if file.suffix in COPIED and file.is_file():
            if file.stat().st_size > MAX_COPIED_BYTES:
                raise RepositoryError(f"{source.name}/{file.name} is too large for a configuration")
            shutil.copyfile(file, target / file.name)


def _weights(part: Path) -> dict[Path, str]:
    """Return a part's weight files, each with the name that it gets."""
    files = [file for file in sorted(part.iterdir()) if file.is_file()]
    plain = {file: file.name for file in files if PLAIN.fullmatch(file.name)}
    half = {file: f"{found[1]}.safetensors" for file in files if (found := HALF.fullmatch(file.name))}
    pickles = [file.name for file in files if file.suffix.lower() in PICKLE_SUFFIXES]
    if not (plain or half) and pickles:
        raise RepositoryError(
            f"{part.name}/{pickles[0]}: pickled weights can run code and are never opened; if you trust"
            " the folder, load it once in diffusers and save it with safe_serialization=True"
        )
    return plain or half
