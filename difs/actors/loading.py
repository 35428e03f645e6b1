"""From a registered variant to a loaded pipeline: part by part, shared where another has the part.

Runs off the step loop; between two parts it looks whether anybody still wants the result.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import diffusers.utils.logging
import torch
import transformers.utils.logging
from safetensors.torch import load_file

from difs import memory_modes
from difs.actors import lora_format, placement, single_file
from difs.actors.recipes import StableDiffusion
from difs.errors import EngineFailed, first_line
from difs.manifests import Runtime
from difs.variants import MODEL_INDEX, Borrowed, Variant

transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LIBRARIES = ("diffusers", "transformers")
"""Only their own classes are loaded: a checkpoint brings no code."""


class LoadCancelled(Exception):
    """Nobody waits for this load any more."""


class PartStore:
    """The loaded modules by their weights; a part lives as long as a pipeline holds it."""

    def __init__(self) -> None:
        self._parts: WeakValueDictionary[str, torch.nn.Module] = WeakValueDictionary()

    def get(self, key: str, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """Return the part called `key`, loaded at need."""
        found = self._parts.get(key)
        if found is None or placement.is_in_fp8(found):  # another's weights in 8 bits are not exact
            found = self._parts[key] = load()
        return found


def part_key(variant: Variant, part: str, dtype: torch.dtype) -> str:
    """Return what names a part's content: its weights' digests, its configuration, its precision."""
    stands = variant.part(part)
    weights = sorted(stands.digests.values())
    if stands.file is not None:  # the same file has other parts, and another file may have this one
        weights = [stands.contents or f"{part} of {stands.file_digest}"]
    config = (stands.folder / "config.json").read_bytes()
    return hashlib.sha256("|".join([*weights, str(dtype)]).encode() + config).hexdigest()


def encoder_key(variant: Variant, recipe: StableDiffusion, dtype: torch.dtype) -> str:
    """Return what names the text encoders' content, for the cache of encoded prompts."""
    return "+".join(part_key(variant, part, dtype) for part in recipe.text_encoders)


def is_shared(variant: Variant, part: str) -> bool:
    """Whether a part may be one with that of another variant: a denoiser only if nothing changes it."""
    m = variant.manifest
    is_plain = not m.fused and m.runtime == Runtime() and not memory_modes.MODES[m.default_mode].is_lossy
    return part != "unet" or is_plain


def load_pipeline(
    variant: Variant,
    recipe: StableDiffusion,
    dtype: torch.dtype,
    store: PartStore,
    check: Callable[[], None],
) -> Any:
    """Return the pipeline of a variant, on the CPU, its digests checked first.

    Files that are written or replaced meanwhile are noticed. `check` is called between parts and raises
    LoadCancelled. Raises EngineFailed, RepositoryError.
    """
    refuse_code(variant.folder)
    before = variant.stamp()
    variant.verify()
    check()
    try:
        parts = {}
        for part, cls in _classes(variant, recipe).items():
            if issubclass(cls, torch.nn.Module):
                is_upcast = part == "vae" and dtype is torch.float16 and recipe.heeds_upcast
                parts[part] = _load_part(variant, part, cls, dtype, store, is_upcast=is_upcast)
                check()
            elif part in variant.borrowed or variant.pipeline is not None:
                parts[part] = _load_helper(variant, part, cls)
        pipe = recipe.pipeline.from_pretrained(
            variant.index, dtype=dtype, local_files_only=True, **parts, **recipe.options
        )
    except (LoadCancelled, EngineFailed):
        raise
    except Exception as error:  # what a broken checkpoint raises has no common class
        raise EngineFailed(f"{variant.name} does not load: {first_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    _check_precision(variant, pipe, dtype)
    _fuse(variant, pipe)
    if variant.stamp() != before:
        raise EngineFailed(f"{variant.name}: a weight file changed while it was loaded; load it again")
    return pipe


def refuse_code(folder: Path) -> None:
    """Refuse a folder that brings code: diffusers would import `<part>/<library>.py`."""
    scripts = sorted(path.name for path in folder.rglob("*.py"))
    if scripts:
        raise EngineFailed(
            f"{folder.name} brings code ({scripts[0]}): only weights are loaded; remove it"
        )


def _classes(variant: Variant, recipe: StableDiffusion) -> dict[str, Any]:
    """Return the classes of the parts that are there and used, from model_index.json."""
    index = json.loads((variant.index / MODEL_INDEX).read_text("utf-8"))
    found = {}
    for part, named in index.items():
        if not isinstance(named, list) or None in named or part in recipe.options:
            continue
        library, name = named
        if library not in LIBRARIES:
            raise EngineFailed(f"{part} is a class of {library!r}: only {', '.join(LIBRARIES)} are run")
        if variant.part(part).folder.is_dir():
            found[part] = getattr(importlib.import_module(library), name)
    return found


def _load_part(
    variant: Variant, part: str, cls: Any, dtype: torch.dtype, store: PartStore, *, is_upcast: bool
) -> Any:
    stands = variant.part(part)

    def load() -> Any:
        if stands.file is not None:
            module: Any = single_file.load_part(stands, part, cls, dtype)
        else:
            module = cls.from_pretrained(
                stands.folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        if is_upcast and getattr(module.config, "force_upcast", False):
            module.float()  # SDXL's autoencoder overflows in fp16
        return module.eval()

    if not is_shared(variant, part):
        return load()
    return store.get(part_key(variant, part, dtype) + ("upcast" if is_upcast else ""), load)


def _load_helper(variant: Variant, part: str, cls: Any) -> Any:
    """Load a part that has no weights: a tokenizer or a scheduler."""
    folder = variant.part(part).folder
    if part.startswith("tokenizer") and not single_file.brings_vocabulary(folder):
        return single_file.load_tokenizer(folder)
    helper = cls.from_pretrained(folder, local_files_only=True)
    m = variant.manifest
    if part == "scheduler" and (m.prediction is not None or m.zero_snr):
        changes = {"rescale_betas_zero_snr": True} if m.zero_snr else {}
        predicts = m.prediction or helper.config.prediction_type
        helper = cls.from_config(helper.config, prediction_type=predicts, **changes)
    return helper


def _check_precision(variant: Variant, pipe: Any, dtype: torch.dtype) -> None:
    parts = [m for name, m in pipe.components.items() if isinstance(m, torch.nn.Module) and name != "vae"]
    mixed = {p.dtype for part in parts for p in part.parameters() if p.is_floating_point()}
    if mixed != {dtype}:
        raise EngineFailed(f"{variant.name}: its parts have different precisions: {mixed}")


def weight_bytes(pipe: Any) -> int:
    """Return the bytes of all weights of a pipeline."""
    modules = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    return sum(t.nbytes for module in modules for t in module.state_dict().values())


def tensor_bytes(pipes: Iterable[Any]) -> int:
    """Return the bytes of all weights of pipelines; what several share counts once."""
    found: dict[int, int] = {}
    for pipe in pipes:
        for module in pipe.components.values():
            for t in module.state_dict().values() if isinstance(module, torch.nn.Module) else ():
                found[t.data_ptr()] = max(found.get(t.data_ptr(), 0), t.nbytes)
    return sum(found.values())


def _fuse(variant: Variant, pipe: Any) -> None:
    """Add the variant's own adapters to its denoiser, which no other pipeline shares."""
    with torch.no_grad():
        for adapter, weight in variant.fused:
            for layer, delta in lora_format.read(adapter.path, {"unet": pipe.unet}).items():
                own: torch.Tensor = layer.weight  # type: ignore[assignment]  # a Linear or a Conv2d
                own.copy_(own.float() + weight * delta.whole(own.shape))


def restore_denoiser(pipe: Any, variant: Variant, dtype: torch.dtype) -> None:
    """Load the denoiser's exact weights from its files again, into host memory."""
    module, stands = pipe.unet, variant.part("unet")
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for tensors in _exact_weights(stands, type(module), dtype):
            for name, tensor in tensors.items():
                own[name].data = tensor.to(placement.HOST, dtype)
    _fuse(variant, pipe)


def _exact_weights(stands: Borrowed, cls: Any, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    if stands.file is not None:
        yield single_file.load_part(stands, "unet", cls, dtype).state_dict()
    else:
        yield from (load_file(path) for path in sorted(stands.folder.glob("*.safetensors")))
