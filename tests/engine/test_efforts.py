"""difs.efforts against torch's own count of what the same networks multiply (no weights are made)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from difs import repository
from difs.messages import Effort
from difs.variants import Variant

SHIPPED = repository.scan(repository.locate("model_repo")).variants


def config(variant: Variant, part: str) -> dict[str, Any]:
    """Return the configuration of a part."""
    found: dict[str, Any] = json.loads((variant.part(part).folder / "config.json").read_text("utf-8"))
    return found


def counted(act: Callable[[], object]) -> float:
    """Return the multiply-adds of what `act` does, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        act()
    return float(counter.get_total_flops()) / 2


def told(effort: Effort, pixels: int) -> float:
    return effort.fixed + effort.linear * pixels + effort.square * pixels**2


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize("name", ["emoji-base", "emoji-small", "emoji-xl"])
def test_multiply_adds_are_those_that_torch_counts(name: str, side: int) -> None:
    variant = SHIPPED[name]
    unet, vae = config(variant, "unet"), config(variant, "vae")
    with torch.device("meta"):
        denoiser, decoder = UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae)
        latents = torch.zeros(1, 4, side // 4, side // 4)
        tokens = config(variant, "text_encoder")["max_position_embeddings"]
        text, time = torch.zeros(1, tokens, unet["cross_attention_dim"]), torch.ones(1)
        pooled = (unet["projection_class_embeddings_input_dim"] or 0) - 6 * (
            unet["addition_time_embed_dim"] or 0
        )
        added = {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)} if pooled else None
        step = counted(lambda: denoiser(latents, time, text, added_cond_kwargs=added))
        decode = counted(lambda: decoder.decode(latents))
    assert variant.efforts is not None
    assert told(variant.efforts.step, side * side) == pytest.approx(step, rel=1e-6)
    assert told(variant.efforts.decode, side * side) == pytest.approx(decode, rel=1e-6)
