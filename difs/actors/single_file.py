"""Parts of a pipeline out of one file in the layout of Stability's own code, by diffusers' conversions.

The configuration comes from `configs/pipelines`, so nothing is asked of any hub. Only the part's own
tensors are read, each into our own memory: the file is somebody else's and may change at any time.
"""

import functools
import json
from pathlib import Path
from typing import Any

import accelerate
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from safetensors import safe_open
from torch import nn
from transformers import CLIPTokenizer, PreTrainedModel

from difs.errors import EngineFailed
from difs.variants import Borrowed

STARTS: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
"""How the keys of each part begin."""
CONVERSIONS = {
    "UNet2DConditionModel": convert_ldm_unet_checkpoint,
    "AutoencoderKL": convert_ldm_vae_checkpoint,
}
CLIP = "cond_stage_model.transformer."
IGNORED = (".position_ids",)
"""Counted by newer code instead of stored."""
VOCABULARIES = ("tokenizer.json", "vocab.json")


def load_part(stands: Borrowed, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
    """Return a part of the single file that it stands in, on the CPU; raises EngineFailed."""
    assert stands.file is not None
    tensors = _read(stands.file, part, dtype)
    if issubclass(cls, PreTrainedModel):
        module: nn.Module = create_diffusers_clip_model_from_ldm(
            cls,
            tensors,
            config=str(stands.folder.parent),
            subfolder=stands.folder.name,
            torch_dtype=dtype,
            local_files_only=True,
        )
    else:
        module = _by_conversion(cls, tensors, stands, part)
    absent = [name for name, tensor in module.named_parameters() if tensor.device.type == "meta"]
    if absent:
        raise EngineFailed(
            f"{stands.file.name} lacks {len(absent)} tensors of its {part}, as {absent[0]}"
        )
    return module.requires_grad_(False)


def _by_conversion(cls: Any, tensors: Any, stands: Borrowed, part: str) -> nn.Module:
    config = cls.load_config(stands.folder, local_files_only=True)
    with accelerate.init_empty_weights():
        module: nn.Module = cls.from_config(config)
    converted = CONVERSIONS[cls.__name__](tensors, config)
    strangers = module.load_state_dict(converted, strict=False, assign=True).unexpected_keys
    if strangers:
        raise EngineFailed(f"{strangers[0]} belongs to no {part} of its family")
    return module


def _read(file: Path, part: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the tensors of one part, in our own memory."""
    with safe_open(file, framework="pt") as opened:
        return {
            _key(key): opened.get_tensor(key).to(dtype, copy=True)
            for key in opened.keys()  # noqa: SIM118 -- no mapping
            if key.startswith(STARTS[part]) and not key.endswith(IGNORED)
        }


def _key(key: str) -> str:
    """Return a key as it is now; transformers once had no `text_model` around CLIP's encoder."""
    rest = key.removeprefix(CLIP)
    is_old = key.startswith(CLIP) and not rest.startswith("text_model.")
    return f"{CLIP}text_model.{rest}" if is_old else key


# ---- the tokenizer --------------------------------------------------------------------------------


def brings_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's folder has a vocabulary of its own."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def load_tokenizer(folder: Path) -> Any:
    """Return CLIP's tokenizer with the settings of `folder`."""
    vocabulary, merges = _clip(folder.parent.parent / "clip" / "merges.txt")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del settings["tokenizer_class"]
    return CLIPTokenizer(vocabulary, merges, **settings)


@functools.cache
def _clip(merges_file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's vocabulary and merges; the merges imply the vocabulary.

    Its tokens are, in order: all bytes, the same at the end of a word, each merge, two marks.
    """
    lines = merges_file.read_text("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """Return the letter that stands for each byte, in CLIP's order: printable ones for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
