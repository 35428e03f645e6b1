"""A bare pipeline beside diffusers' own, and inputs for its UNet."""

from pathlib import Path
from typing import Any

import torch

from difs.messages import Adapter
from tests.engine import tiny

EMOJI = Path(__file__).parents[2] / "model_repo" / "emoji-base"
BOUND = 1e-5
ROOMY = 2**30
NONE: tuple[Adapter, ...] = ()


def one(name: str, weight: float = 1.0) -> tuple[Adapter, ...]:
    return (Adapter(name, weight),)


class Scene:
    """A bare pipeline, another for diffusers' own loader, and inputs for the UNet."""

    def __init__(self, folder: Path) -> None:
        from diffusers import DiffusionPipeline

        self.ours, self.theirs = (
            DiffusionPipeline.from_pretrained(folder, local_files_only=True) for _ in range(2)
        )
        for pipe in (self.ours, self.theirs):
            pipe.set_progress_bar_config(disable=True)
        numbers = torch.Generator().manual_seed(0)
        self.latents = torch.randn(8, 4, 16, 16, generator=numbers)
        self.times = torch.tensor([981, 700, 400, 100, 3, 500, 250, 800])
        self.texts = torch.randn(8, 24, self.ours.unet.config.cross_attention_dim, generator=numbers)
        self.pooled = torch.randn(8, tiny.WIDTH, generator=numbers)

    def unet(self, rows: list[int], unet: Any = None) -> torch.Tensor:
        """Call the UNet for some of the input rows."""
        unet = self.ours.unet if unet is None else unet
        added = None
        if unet.config.addition_embed_type:
            sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(rows))
            added = {"text_embeds": self.pooled[rows], "time_ids": sizes}
        with torch.inference_mode():
            out: torch.Tensor = unet(
                self.latents[rows],
                self.times[rows],
                encoder_hidden_states=self.texts[rows],
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return out

    def texts_of(self, prompt: str) -> torch.Tensor:
        """Encode a prompt."""
        with torch.inference_mode():
            encoded: torch.Tensor = self.ours.encode_prompt(
                prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )[0]
        return encoded

    def theirs_paints(self, files: dict[str, Path], weights: list[float]) -> torch.Tensor:
        """Paint with diffusers' own LoRA; the pipeline is bare again afterwards."""
        try:
            for name, path in files.items():
                self.theirs.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
            self.theirs.set_adapters(list(files), weights)
            return paint(self.theirs)
        finally:
            self.theirs.unload_lora_weights()


def hooks(pipe: Any) -> int:
    return sum(len(m._forward_hooks) for part in (pipe.unet, pipe.text_encoder) for m in part.modules())


def paint(pipe: Any) -> torch.Tensor:
    """Return the latent that a whole pipeline run ends with."""
    latent: torch.Tensor = pipe(
        "red apple",
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    return latent
