"""Trains emoji-xl, in SDXL's structure: two text encoders, added conditions, compositions.

It begins as emoji-small with what SDXL has besides (see `inherit`), so that it can draw all things from
the first update on and learns to compose. A model of 128x128 that began from nothing did not get there
in the hours at hand: see README.md.

The autoencoder's latents are put together instead of pictures: a pair is two drawings' latents at half
the size, pasted into those of a white square. The decoder learns later what such latents look like.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_repo.recipes import compositions
from model_repo.recipes.denoiser import alphas, base_text_encoder, v_loss
from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import REPOSITORY, Material, dice_of, to_unit

SIDE = 64


class Scenes:
    """Draws latents (4, 32, 32) and captions of single, coloured and paired drawings."""

    def __init__(self, material: Material, shares: Mapping[str, float]) -> None:
        """Encode every drawing in every colour, whole and at half the size, once."""
        self._material = material
        self._shares = shares
        self._whole, self._half = self._encoded(SIDE), self._encoded(SIDE // 2)
        self._white = material.encode(torch.ones(1, 3, SIDE, SIDE, device=material.device))[0]
        self.can_turn = compositions.colourable(material.captions)

    def _encoded(self, side: int) -> dict[tuple[str, str], Tensor]:
        """Return (name, colour or "") -> latents."""
        kept = self._material.out / f"scenes-{side}.npz"
        names, drawn = self._material.names, self._material.drawn("noto", side)
        keys = [(name, "") for name in names]
        keys += [
            (n, c) for n in compositions.colourable(self._material.captions) for c in compositions.COLOURS
        ]
        if not kept.is_file():
            pictures = drawn.astype(np.float32) / 255
            by_name = dict(zip(names, pictures, strict=True))
            made = [compositions.recolour(by_name[n], c) if c else by_name[n] for n, c in keys]
            whole = np.round(np.stack(made) * 255).astype(np.uint8)
            np.savez(
                kept,
                latents=self._material.encode(to_unit(whole).to(self._material.device)).cpu().numpy(),
            )
        latents = torch.from_numpy(np.load(kept)["latents"]).to(self._material.device)
        return dict(zip(keys, latents, strict=True))

    def draw(self, dice: random.Random) -> tuple[Tensor, str]:
        """Return one scene."""
        kind = dice.random()
        captions = self._material.captions
        if kind < self._shares["coloured"]:
            key, words = self._thing(dice, dice.choice(self.can_turn), 1.0)
            return self._whole[key], dice.choice(compositions.SINGLE).format(words)
        if kind < self._shares["coloured"] + self._shares["paired"]:
            left, right = (self._thing(dice, name, 0.15) for name in dice.sample(list(captions), 2))
            words = dice.choice(compositions.PAIRED).format(left[1], right[1])
            return self._pair(left[0], right[0]), words
        name = dice.choice(list(captions))
        return self._whole[name, ""], self._material.caption(name, dice)

    def _thing(self, dice: random.Random, name: str, turned: float) -> tuple[tuple[str, str], str]:
        """Return the key and the words of a drawing, coloured with probability `turned`."""
        said = self._material.captions[name]
        if name in self.can_turn and dice.random() < turned:
            colour = dice.choice(compositions.COLOURS)
            return (name, colour), f"{colour} {said}"
        return (name, ""), said

    def _pair(self, left: tuple[str, str], right: tuple[str, str]) -> Tensor:
        scene = self._white.clone()
        high = scene.shape[-1]
        rows = slice(high // 4, high // 4 + high // 2)
        scene[:, rows, : high // 2] = self._half[left]
        scene[:, rows, high // 2 :] = self._half[right]
        return scene


def parts(material: Material) -> tuple[Any, Any]:
    """Return a UNet and a second text encoder that begin as emoji-small and the base's."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(material.seed)
    small = UNet2DConditionModel.from_pretrained(REPOSITORY / "emoji-small" / "unet", dtype=torch.float32)
    unet = UNet2DConditionModel.from_config({**small.config, **material.settings["xl_unet"]})
    config = CLIPTextConfig(vocab_size=len(material.tokenizer), **material.settings["xl_text"])
    second, first = CLIPTextModelWithProjection(config), base_text_encoder()
    inherit(unet, second, small, first, material.tokens(list(material.captions.values())).cpu())
    return unet.to(material.device), second.to(material.device)


@torch.no_grad()
def inherit(unet: Any, second: Any, small: Any, first: Any, tokens: Tensor) -> None:
    """Let a UNet and a second text encoder of SDXL's structure begin as `small` and `first`, its encoder.

    What is added (the first encoder's words, the added conditions) says nothing at first. SDXL takes the
    states before an encoder's last layer, without the last normalisation; what that did for the words of
    `tokens` on average goes into the attention's weights.
    """
    own = second.text_model.state_dict()
    own |= {name: weight for name, weight in first.state_dict().items() if name in own}
    second.text_model.load_state_dict(own)
    norm = first.final_layer_norm
    spread = second(tokens, output_hidden_states=True).hidden_states[-2].std(-1, correction=0).mean()
    width = len(norm.weight)
    into_normed = torch.diag(norm.weight / spread) @ (torch.eye(width) - 1.0 / width)
    begun = unet.state_dict()
    for name, weight in small.state_dict().items():
        if ".attn2.to_k." in name or ".attn2.to_v." in name:
            begun[name][:, :width] = 0.0
            begun[name][:, width:] = weight @ into_normed
        else:
            begun[name] = weight.reshape(begun[name].shape)  # a 1x1 convolution is a linear layer
    for name in ("add_embedding.linear_2.weight", "add_embedding.linear_2.bias"):
        begun[name].zero_()
    unet.load_state_dict(begun)


def time_ids(count: int, device: torch.device) -> Tensor:
    """Return SDXL's added conditions of whole pictures: original size, crop, target size."""
    return torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], device=device).repeat(count, 1)


def say(unet: Any, encoders: tuple[Any, Any], tokens: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return what the UNet says of noised latents, conditioned as StableDiffusionXLPipeline does."""
    first = encoders[0](tokens, output_hidden_states=True)
    second = encoders[1](tokens, output_hidden_states=True)
    words = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    added = {"text_embeds": second.text_embeds, "time_ids": time_ids(len(x), x.device)}
    said: Tensor = unet(x, t, words, added_cond_kwargs=added, return_dict=False)[0]
    return said


def train(material: Material) -> tuple[Any, Any]:
    """Train the UNet and the second text encoder beside the family's first one; returns both."""
    unet, second = parts(material)
    fit(material, "xl", unet, second, material.settings["scenes"])
    return unet, second


def train_again(material: Material) -> tuple[Any, Any]:
    """Train what stands in the repository on other shares of scenes; returns both parts."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    shipped = REPOSITORY / "emoji-xl"
    unet = UNet2DConditionModel.from_pretrained(shipped / "unet", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(shipped / "text_encoder_2", dtype=torch.float32)
    shares = {name: material.settings["xl_again"][name] for name in ("coloured", "paired")}
    fit(material, "xl_again", unet.to(material.device), second.to(material.device), shares)
    return unet, second


def fit(material: Material, stage: str, unet: Any, second: Any, shares: Mapping[str, float]) -> None:
    """Let both parts learn scenes in these shares, as a stage of the settings says."""
    first = base_text_encoder().to(material.device).eval().requires_grad_(False)
    known = schedule({k: v for k, v in material.settings[stage].items() if k not in shares})
    run = Run(material.out / stage, {"unet": unet, "text_encoder_2": second}, known)
    unet.to(memory_format=torch.channels_last).train()
    scenes, cumulative = Scenes(material, shares), alphas(material.device)
    steps = torch.arange(len(cumulative))

    def loss_of(update: int) -> Tensor:
        dice, generator = dice_of(material.seed + (2 if stage == "xl" else 6), update)
        drawn = [scenes.draw(dice) for _ in range(known.batch)]
        x = torch.stack([scene for scene, _ in drawn])
        captions = ["" if dice.random() < 0.1 else words for _, words in drawn]
        tokens = material.tokens(captions)
        return v_loss(
            x,
            cumulative,
            steps,
            generator,
            lambda noised, t: say(unet, (first, second), tokens, noised, t),
        )

    run.train(loss_of)
    unet.to(memory_format=torch.contiguous_format).eval()
    second.eval()
