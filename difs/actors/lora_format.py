"""LoRA files: which layers of a pipeline they change, and by what. They are read here, not applied.

Layers are spelled as diffusers spells them (`unet.<layer>.lora_A.weight`, older: `.lora.down.weight`,
`.processor.to_q_lora.down.weight`) or as kohya's sd-scripts does (`lora_unet_<layer>.lora_down.weight`
with an `alpha`, for SDXL by the layers' names in Stability's own code). A file that does not fit its base
to the last tensor is refused: half an adapter would paint something else than what its author saw.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from difs.errors import EngineFailed

DIFFUSERS = re.compile(
    r"(?:(unet|text_encoder|text_encoder_2)\.)?(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)\.weight"
)
KOHYA = re.compile(r"lora_(unet|te|te1|te2)_([^.]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
PARTS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
SLOTS = {"A": "down", "B": "up", "lora_down.weight": "down", "lora_up.weight": "up"}
LAYER_NAME = re.compile(r"\^?[\w.]+")
CACHE_LINE = 64
METADATA = "lora_adapter_metadata"
"""Where diffusers' trainers keep peft's settings in a file."""

SGM_LONE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
SGM_INNER = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
SGM_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_([012])_(.+)")
SGM_MIDDLE = re.compile(r"middle_block_([012])_(.+)")


@dataclass
class Delta:
    """What a file adds to one layer's output: `up(down(x)) * alpha / divisor` (Hu et al. 2021, eq. 3).

    down (rank, in) or (rank, in, height, width), up (out, rank) or (out, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    divisor: float
    """The rank; its square root in an rsLoRA (Kalajdzievski 2023)."""

    @property
    def nbytes(self) -> int:
        """Return the size of both tensors."""
        return self.down.nbytes + self.up.nbytes

    def follow(self, x: torch.Tensor) -> None:
        """Go where the layer computes, and take its precision."""
        if self.down.device != x.device or self.down.dtype != x.dtype:
            self.down, self.up = self.down.to(x), self.up.to(x)

    def to_host(self) -> None:
        """Leave the device."""
        self.down, self.up = self.down.cpu(), self.up.cpu()

    def whole(self, shape: torch.Size) -> torch.Tensor:
        """Return what is added to a weight of `shape`, in fp32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.view(shape) * (self.alpha / self.divisor)

    def narrow(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return `down(x)`."""
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
        # folded, as torch folds for peft's trainable weights: for an x with strides the bits differ
        return functional.linear(x.reshape(-1, x.shape[-1]), self.down).view(*x.shape[:-1], -1)

    def widen(self, layer: nn.Module, low: torch.Tensor) -> torch.Tensor:
        """Return `up(low)`."""
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(low, self.up)
        return functional.linear(low, self.up)


class Settings(Struct, frozen=True):
    """What peft's settings of one part say of its alphas."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False


@dataclass
class _Found:
    """The tensors of one layer, as they were found."""

    layer: nn.Module
    part: str
    name: str
    slots: dict[str, torch.Tensor] = field(default_factory=dict)


def read(path: Path, parts: Mapping[str, Any]) -> dict[nn.Module, Delta]:
    """Return what a file adds to which layer of `parts` (unet, text_encoder, text_encoder_2).

    Raises EngineFailed for a file that cannot be read or does not fit.
    """
    tensors, metadata = _open(path)
    places = {part: _by_flat_name(part, module) for part, module in parts.items()}
    per_block = parts["unet"].config.layers_per_block
    found: dict[nn.Module, _Found] = {}
    strangers = []
    for key, tensor in tensors.items():
        part, flat, slot = _parse(key, per_block)
        name, layer = places.get(part, {}).get(flat, ("", None))
        if layer is None:
            strangers.append(key)
        else:
            found.setdefault(layer, _Found(layer, part, name)).slots[slot] = tensor
    if strangers or not found:
        raise _misfit(path, tensors, strangers)
    try:
        settings = {part: _settings(metadata, part) for part in places}
        return {entry.layer: _delta(entry, settings[entry.part]) for entry in found.values()}
    except ValueError as error:
        raise EngineFailed(f"{path.name} does not fit its base: {error}") from None


def _misfit(path: Path, tensors: Mapping[str, torch.Tensor], strangers: list[str]) -> EngineFailed:
    if not tensors:
        return EngineFailed(f"{path.name} holds no tensors")
    return EngineFailed(
        f"{path.name} does not fit its base: {len(strangers)} of {len(tensors)} tensors belong to none"
        f" of its layers, as {strangers[0]!r}; expected a LoRA for this architecture in diffusers' or"
        " kohya's format (no DoRA, LoHa or LoKr)"
    )


def _open(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: _own(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 -- no mapping
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise EngineFailed(f"{path.name} is no readable safetensors file: {error}") from None


def _own(mapped: torch.Tensor) -> torch.Tensor:
    """Return a copy in our own memory: a file that is truncated later would take the process with it.

    The copy lies as the file's tensor did, to the cache line: a CPU's kernels, and so the last bits,
    depend on that, and diffusers computes in the mapped file.
    """
    size = mapped.element_size()
    room = torch.empty(mapped.numel() + CACHE_LINE // size, dtype=mapped.dtype)
    start = (mapped.data_ptr() - room.data_ptr()) % CACHE_LINE // size
    return room[start : start + mapped.numel()].view(mapped.shape).copy_(mapped)


# ---- names --------------------------------------------------------------------------------------


def _by_flat_name(part: str, module: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return the layers that a LoRA can change by their names without dots."""
    return {
        _flat(part, name): (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }


def _parse(key: str, per_block: int) -> tuple[str, str, str]:
    """Return part, flat name of the layer and slot of a key; empty words for an unknown kind."""
    kohya = KOHYA.fullmatch(key)
    if kohya is not None:
        part = PARTS.get(kohya[1], "unet")
        flat = from_sgm(kohya[2], per_block) if part == "unet" else kohya[2]
        return part, _flat(part, flat), SLOTS.get(kohya[3], kohya[3])
    diffusers = DIFFUSERS.fullmatch(key)
    if diffusers is not None:
        part = diffusers[1] or "unet"
        return part, _flat(part, diffusers[2]), SLOTS.get(diffusers[3], diffusers[3])
    return "", "", ""


def _flat(part: str, name: str) -> str:
    """Return the one spelling that all formats have in common."""
    flat = name.replace(".processor.", ".").replace(".", "_")
    if part == "unet":
        return re.sub(r"_to_out$", "_to_out_0", flat)
    return re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", flat.removeprefix("text_model_"))


def from_sgm(flat: str, per_block: int) -> str:
    """Return diffusers' name of a UNet layer that may be spelled as in Stability's code; without dots.

    `per_block`: resnets of one block on the way down; one more on the way up.
    """
    if flat in SGM_LONE:
        return SGM_LONE[flat]
    middle = SGM_MIDDLE.fullmatch(flat)
    if middle is not None:
        block = ("resnets_0", "attentions_0", "resnets_1")[int(middle[1])]
        return f"mid_block_{block}_{SGM_INNER.get(middle[2], middle[2])}"
    side = SGM_BLOCK.fullmatch(flat)
    if side is None:
        return flat
    way, number, inner, rest = side[1], int(side[2]), int(side[3]), side[4]
    if way == "input":
        block_index, index = divmod(number - 1, per_block + 1)
        if rest == "op":
            return f"down_blocks_{block_index}_downsamplers_0_conv"
    else:
        block_index, index = divmod(number, per_block + 1)
        if rest == "conv":
            return f"up_blocks_{block_index}_upsamplers_0_conv"
    kind = "attentions" if inner else "resnets"
    direction = "down" if way == "input" else "up"
    return f"{direction}_blocks_{block_index}_{kind}_{index}_{SGM_INNER.get(rest, rest)}"


# ---- numbers ------------------------------------------------------------------------------------


def _settings(metadata: Mapping[str, str], part: str) -> Settings:
    """Return what the file's metadata says of a part; raises ValueError."""
    try:
        said = msgspec.json.decode(metadata.get(METADATA, "{}"), type=dict[str, Any])
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    own = {key.removeprefix(f"{part}."): v for key, v in said.items() if key.startswith(f"{part}.")}
    settings = msgspec.convert(said | own if part == "unet" else own, Settings)
    for pattern in settings.alpha_pattern:
        if not LAYER_NAME.fullmatch(pattern):
            raise ValueError(f"its alpha_pattern {pattern!r} is not the name of a layer")
    return settings


def _delta(found: _Found, settings: Settings) -> Delta:
    """Return one layer's change; raises ValueError when its tensors do not fit."""
    place = f"{found.part}.{found.name}"
    down, up, alpha = (found.slots.get(slot) for slot in ("down", "up", "alpha"))
    if down is None or up is None:
        raise ValueError(f"{place} has not both halves, down and up")
    shapes = tuple(down.shape), tuple(up.shape)
    rank = max((1, *shapes[0][:1]))
    expected = _shapes(found.layer, rank)
    if shapes != expected:
        raise ValueError(f"{place} takes the shapes {expected[0]} and {expected[1]}, not {shapes}")
    if not all(t.is_floating_point() and torch.isfinite(t.float()).all() for t in (down, up)):
        raise ValueError(f"{place} holds numbers that are not finite")
    scale = _alpha(found.name, settings, rank) if alpha is None else _number(alpha, place)
    return Delta(down, up, scale, math.sqrt(rank) if settings.use_rslora else rank)


def _number(alpha: torch.Tensor, place: str) -> float:
    if alpha.numel() != 1 or not torch.isfinite(alpha).all():
        raise ValueError(f"{place} has an alpha that is not one finite number")
    return float(alpha)


def _shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(layer, nn.Conv2d):
        return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)
    assert isinstance(layer, nn.Linear)
    return (rank, layer.in_features), (layer.out_features, rank)


def _alpha(name: str, settings: Settings, rank: int) -> float:
    """Return the alpha that the metadata gives a layer; the rank where it says nothing."""
    for pattern, alpha in settings.alpha_pattern.items():
        ending = pattern.removeprefix("^").removeprefix("text_model.")
        if name == ending or name.endswith("." + ending):
            return alpha
    return rank if settings.lora_alpha is None else settings.lora_alpha
