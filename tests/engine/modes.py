"""The embedded model under a keeper: loaded, painted with part by part as the engine does."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from difs import memory_modes, repository
from difs.actors import generic, loading
from difs.actors.memory_modes import ModeKeeper
from difs.messages import MemoryMode
from difs.variants import Variant
from tests.engine.conftest import MODEL_REPO

CPU = torch.device("cpu")
FOLDER = MODEL_REPO / "emoji-base"
ALL: tuple[MemoryMode, ...] = get_args(MemoryMode)
LOSSLESS = [mode for mode in ALL if not memory_modes.MODES[mode].is_lossy]
LEVEL = 1 / 255
MARKS = {"_hf_hook", "_old_forward", "_diffusers_hook", "forward"}


def variant(folder: Path = FOLDER) -> Variant:
    return repository.read_variant(
        folder / "variant.toml", repository.Place(folder.parent, is_users=False)
    )


def load(folder: Path = FOLDER) -> Any:
    return generic.load_generic(folder, torch.float32)


def keep(pipe: Any, folder: Path = FOLDER) -> ModeKeeper:
    keeper = ModeKeeper(pipe, CPU, partial(loading.restore_denoiser, pipe, variant(folder)))
    keeper.switch("full")
    return keeper


def paint(
    keeper: ModeKeeper,
    between: Callable[[int], None] = lambda step: None,
    *,
    steps: int = 2,
    size: int = 64,
) -> torch.Tensor:
    """Paint as the engine does, part by part; `between` is called before each step. Values are 0..1."""
    pipe = keeper._pipe
    with torch.inference_mode():
        positive, negative = pipe.encode_prompt("red apple", keeper._device, 1, True, "")
        text = torch.cat([negative, positive])
        numbers = torch.Generator().manual_seed(3)
        x = torch.randn(1, 4, size // 4, size // 4, generator=numbers).to(keeper._device)
        pipe.scheduler.set_timesteps(steps)
        for step, t in enumerate(pipe.scheduler.timesteps):
            between(step)
            eps = pipe.unet(torch.cat([x] * 2), t, encoder_hidden_states=text, return_dict=False)[0]
            low, high = eps.chunk(2)
            x = pipe.scheduler.step(low + 2.5 * (high - low), t, x, return_dict=False)[0]
        with keeper.decoding():
            image: torch.Tensor = pipe.vae.decode(x, return_dict=False)[0]
        return (image * 0.5 + 0.5).clamp(0, 1)


def own_attributes(pipe: Any) -> dict[str, set[str]]:
    """Return the names of what each module has of its own, which hooks add to."""
    parts = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    return {f"{n}.{p}": set(vars(m)) for n, part in parts.items() for p, m in part.named_modules()}


def tensor_bytes() -> int:
    """Return the bytes of all tensors that are alive."""
    gc.collect()
    # a compiler's tensors of another test, if there are any, have no bytes
    found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(storages.values())
