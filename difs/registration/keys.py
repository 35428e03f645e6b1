"""What a checkpoint is, from the names and shapes of its tensors. Pure.

A family is known by its structure; how a checkpoint was distilled leaves no trace in it, and whether one
of SD 2 predicts noise or velocity hardly any: that is taken from the metadata, the file's name or, for
the latter, the spread of one small tensor; each answer says where it comes from.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from difs.errors import RepositoryError
from difs.manifests import Kind, Prediction
from difs.registration.headers import Header, Tensor

UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
TIME_EMBED = f"{UNET}time_embed.0.weight"
LABELS = f"{UNET}label_emb.0.0.weight"
CONTEXT_LAYER = ".attn2.to_k.weight"
SPREAD = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""ComfyUI's test of SD 2 (`supported_models.py`): above this spread, it predicts velocity."""
V_SPREAD = 0.09


class Structure(NamedTuple):
    """A family by its structure."""

    family: str
    context: int
    """Width of the encoded text that its UNet takes."""
    unet_tensors: int
    parts: Mapping[str, tuple[str, ...]]
    """Part -> how its keys may begin."""


_VAE = {"vae": ("first_stage_model.",), "unet": (UNET,)}
STRUCTURES: tuple[Structure, ...] = (
    Structure("sd15", 768, 686, _VAE | {"text_encoder": ("cond_stage_model.transformer.",)}),
    Structure("sd2", 1024, 686, _VAE | {"text_encoder": ("cond_stage_model.model.",)}),
    Structure(
        "sdxl",
        2048,
        1680,
        _VAE
        | {
            "text_encoder": ("conditioner.embedders.0.transformer.",),
            "text_encoder_2": ("conditioner.embedders.1.model.",),
        },
    ),
)

LATENTS = {4: "", 5: "a depth", 7: "an upscaling", 8: "an InstructPix2Pix", 9: "an inpainting"}
"""Channels that a UNet takes -> what kind of model that is."""
OTHERS: tuple[tuple[str, str], ...] = (
    (r"(model\.diffusion_model\.)?double_blocks\.", "a Flux model"),
    (r"(model\.diffusion_model\.)?joint_blocks\.", "a Stable Diffusion 3 model"),
    (r"(control_model\.|controlnet_|input_hint_block\.|zero_convs\.)", "a ControlNet"),
    (r".*motion_modules?\.", "an AnimateDiff motion module"),
    (r"(first_stage_model\.|decoder\.conv_in\.|encoder\.conv_in\.)", "an autoencoder (VAE) alone"),
    (r"(down_blocks\.|conv_in\.|mid_block\.)", "one part of a diffusers folder"),
    (r"(text_model\.|transformer\.resblocks\.|encoder\.block\.)", "a text encoder alone"),
    (r"(emb_params$|clip_[lg]$|string_to_param)", "a textual inversion"),
    (r"(image_proj\.|ip_adapter\.)", "an IP-Adapter"),
    (r"(conv_first\.|model\.0\.weight|body\.0\.)", "an upscaler"),
)

KINDS: tuple[tuple[Kind, str], ...] = (("turbo", "turbo"), ("lightning", "lightning"), ("lcm", "lcm"))


class Checkpoint(Struct, frozen=True):
    """What a single-file checkpoint is."""

    family: str
    kind: Kind
    prediction: Prediction
    precision: str
    parts: Mapping[str, tuple[str, ...]]
    zero_snr: bool = False
    notes: tuple[str, ...] = ()
    """What was not plain from its structure, and how it was decided."""


class Wishes(NamedTuple):
    """What the user says of a file, against what it seems to be."""

    kind: Kind | None = None
    prediction: Prediction | None = None


NO_WISHES = Wishes()


def recognise(
    header: Header, stem: str, wishes: Wishes = NO_WISHES, spread: Sequence[float] = ()
) -> Checkpoint:
    """Return what a single-file checkpoint is; raises RepositoryError with the reason why it is none.

    `stem`: the file's name; `spread`: the numbers of the tensor SPREAD, where there is one.
    """
    tensors = header.tensors
    structure = _structure(tensors)
    missing = [part for part, starts in structure.parts.items() if not _has(tensors, starts)]
    if missing:
        raise refusal(f"it has no {missing[0].replace('_', ' ')}; a whole checkpoint is needed")
    notes = []
    kind, why = kind_of(header.metadata, stem) if wishes.kind is None else (wishes.kind, "as stated")
    if kind != "base":
        notes.append(f"{kind}: {why}; --kind says otherwise")
    prediction, why = _prediction(header, structure.family, stem, spread)
    if wishes.prediction is not None:
        prediction, why = wishes.prediction, "as stated"
    if structure.family == "sd2" or prediction != "epsilon":
        notes.append(f"{prediction}: {why}; --prediction says otherwise")
    return Checkpoint(
        structure.family,
        kind,
        prediction,
        precision_of(tensors, (UNET,)),
        structure.parts,
        zero_snr="ztsnr" in tensors,
        notes=tuple(notes),
    )


def refusal(why: str) -> RepositoryError:
    """Return the error for a file that cannot be registered."""
    return RepositoryError(
        f"{why}; DIFS registers checkpoints of SD 1.x, SD 2.x and SDXL, and LoRA files"
    )


def _structure(tensors: Mapping[str, Tensor]) -> Structure:
    for pattern, what in OTHERS[:4]:
        if _matching(tensors, pattern):
            raise refusal(f"this is {what}")
    if CONV_IN not in tensors:
        what = next((what for pattern, what in OTHERS if _matching(tensors, pattern)), "")
        raise refusal(f"this is {what}" if what else f"unknown weights, as {min(tensors)[:80]!r}")
    if any(key in tensors for key in ("edm_mean", "edm_vpred.sigma_max")):
        raise refusal("this was trained with EDM's noise levels (Playground 2.5 and others)")
    channels = _side(tensors[CONV_IN], 1)
    if LATENTS.get(channels) != "":
        raise refusal(
            f"this is {LATENTS.get(channels, 'an unknown')} model: it takes {channels} channels"
        )
    context = next((_side(t, 1) for k, t in tensors.items() if _is_context(k)), 0)
    if context == 1280:
        raise refusal("this is the refiner of SDXL, which paints nothing alone")
    return _fitting(tensors, context)


def _fitting(tensors: Mapping[str, Tensor], context: int) -> Structure:
    found = next((s for s in STRUCTURES if s.context == context), None)
    if found is None:
        raise refusal(f"its UNet takes a text of {context} numbers a token, which no known family does")
    if (LABELS in tensors) != (found.family == "sdxl"):
        raise refusal("its UNet has other conditions than its family's (unCLIP and others)")
    count = sum(1 for key in tensors if key.startswith(UNET))
    if count != found.unet_tensors:
        words = f"its UNet has {count} tensors, not {found.unet_tensors} as {found.family}"
        raise refusal(f"{words}: it was cut down, or is damaged")
    return found


def _is_context(key: str) -> bool:
    return key.startswith(UNET) and key.endswith(CONTEXT_LAYER)


def _side(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis] if len(tensor.shape) > axis else 0


def _matching(tensors: Mapping[str, Tensor], pattern: str) -> bool:
    compiled = re.compile(pattern)
    return any(compiled.match(key) for key in tensors)


def _has(tensors: Mapping[str, Tensor], starts: tuple[str, ...]) -> bool:
    return any(key.startswith(starts) for key in tensors)


def kind_of(metadata: Mapping[str, str], stem: str) -> tuple[Kind, str]:
    """Return how something was distilled, and what says so."""
    texts = (("its metadata", metadata.get("modelspec.title", "")), ("its name", stem))
    for source, text in texts:
        for kind, word in KINDS:
            if re.search(rf"(?<![a-z]){word}(?![a-z])", _apart(text).lower()):
                return kind, f"{source} says so"
    return "base", "nothing says otherwise"


def _apart(text: str) -> str:
    """Return a text with its capitalised words apart: `XLv2TurboDPM` holds `Turbo`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)


def _prediction(
    header: Header, family: str, stem: str, spread: Sequence[float]
) -> tuple[Prediction, str]:
    """Return what a checkpoint predicts, and what says so."""
    if "v_pred" in header.tensors:
        return "v_prediction", "a tensor named v_pred says so"
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if stated in ("v", "epsilon"):
        return ("v_prediction" if stated == "v" else "epsilon"), "its metadata says so"
    if re.search(r"(?<![a-z0-9])v[-_]?pred", stem.lower()):
        return "v_prediction", "its name says so"
    if family == "sd2" and spread:
        is_v = statistics.pstdev(spread) > V_SPREAD
        return ("v_prediction" if is_v else "epsilon"), "the spread of its last layer suggests it"
    return "epsilon", "nothing says otherwise"


def precision_of(tensors: Mapping[str, Tensor], starts: tuple[str, ...]) -> str:
    """Return the precision of most numbers of the tensors whose keys begin so; fp16 for less."""
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        if key.startswith(starts):
            begin, end = tensor.data_offsets
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + end - begin
    most = max(sizes, key=lambda dtype: sizes[dtype], default="F16")
    return {"F32": "fp32", "F64": "fp32", "BF16": "bf16"}.get(most, "fp16")
