"""Which base a LoRA file is for, from the names and shapes of its tensors. Pure.

The layers that read the encoded text tell the base by their width; a file without them tells it by its
metadata, or by a second text encoder, which only SDXL has. Whether it fits to the last tensor is seen
when it is loaded (`difs.actors.lora_format`, where the two formats are described).
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from difs.manifests import Kind
from difs.registration.headers import Header, Tensor
from difs.registration.keys import NO_WISHES, STRUCTURES, Wishes, kind_of, refusal

DOWN = re.compile(r"[._]lora(_linear_layer)?[._](A|down)\.weight$|\.lora_down\.weight$")
READS_TEXT = re.compile(r"attn2[._](processor\.)?to_[kv][._]")
OTHER_FORMS: tuple[tuple[str, str], ...] = (
    (r".*\.hada_w1_a$", "LoHa"),
    (r".*\.lokr_w1(_a)?$", "LoKr"),
    (r".*\.(dora_scale|lora_magnitude_vector)", "DoRA"),
    (r".*\.oft_(blocks|diag)", "OFT"),
)
OTHER_BASES: tuple[tuple[str, str], ...] = (
    (r"(lora_unet_|transformer\.)(double|single)(_transformer)?_blocks", "Flux"),
    (r"(lora_unet_|transformer\.).*joint_blocks", "Stable Diffusion 3"),
    (r"transformer\.transformer_blocks\.", "Stable Diffusion 3 or Flux"),
)
STATED = (
    ("sdxl", "sdxl"), ("xl-v1", "sdxl"), ("sd_v1", "sd15"), ("stable-diffusion-v1", "sd15"),
    ("sd_v2", "sd2"), ("stable-diffusion-v2", "sd2"),
)  # fmt: skip
"""Words of `ss_base_model_version` (sd-scripts) and `modelspec.architecture` -> family."""


class LoraFacts(Struct, frozen=True):
    """What a LoRA file is."""

    family: str
    kind: Kind
    text_width: int | None = None
    notes: tuple[str, ...] = ()


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds low-rank changes of any form."""
    return any(
        DOWN.search(key) or any(re.match(pattern, key) for pattern, _ in OTHER_FORMS) for key in tensors
    )


def recognise(header: Header, stem: str, wishes: Wishes = NO_WISHES) -> LoraFacts:
    """Return what a LoRA file is for; raises RepositoryError with the reason why it cannot be used."""
    for pattern, what in OTHER_FORMS:
        if any(re.match(pattern, key) for key in header.tensors):
            raise refusal(f"this is a {what}, not a LoRA in diffusers' or kohya's format")
    for pattern, what in OTHER_BASES:
        if any(re.match(pattern, key) for key in header.tensors):
            raise refusal(f"this is a LoRA for {what}")
    width = _text_width(header.tensors)
    family = (width and _by_width(width)) or _by_metadata(header.metadata) or _by_encoders(header.tensors)
    if family is None:
        raise refusal("this LoRA does not tell for which base it is")
    kind, why = kind_of(header.metadata, stem) if wishes.kind is None else (wishes.kind, "as stated")
    notes = () if kind == "base" else (f"for few steps ({kind}): {why}; --kind says otherwise",)
    return LoraFacts(family, kind, width, notes)


def _text_width(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the width of the text that a LoRA's layers read; None if none of them reads it."""
    widths = {
        tensor.shape[1]
        for key, tensor in tensors.items()
        if DOWN.search(key) and READS_TEXT.search(key) and len(tensor.shape) >= 2
    }
    if len(widths) > 1:
        raise refusal(f"this LoRA is for a base that reads {sorted(widths)} numbers a token")
    return widths.pop() if widths else None


def _by_width(width: int) -> str:
    for structure in STRUCTURES:
        if width == structure.context:
            return structure.family
    raise refusal(f"this LoRA is for a base that reads {width} numbers a token")


def _by_metadata(metadata: Mapping[str, str]) -> str | None:
    stated = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}"
    return next((family for word, family in STATED if word in stated.lower()), None)


def _by_encoders(tensors: Mapping[str, Tensor]) -> str | None:
    has_second = any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in tensors)
    return "sdxl" if has_second else None
