"""Teaches the text encoder that other words mean the same: it learns from itself, without pictures.

Teacher is the encoder as it stands, reading the plain caption. The pupil reads the same thing dressed or
in other words, and is to be in the same state from the end of the text on: all that follows is padding,
where the UNet's cross-attention finds the whole text. A minute of this is worth an hour of pictures,
which show each of some hundred words a few times only.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from model_repo.recipes.loop import Run, schedule
from model_repo.recipes.material import Material, compute, dice_of


def train(material: Material, encoder: Any) -> Any:
    """Train a text encoder; returns it."""
    teacher = copy.deepcopy(encoder).to(material.device).eval().requires_grad_(False)
    encoder.to(material.device).train()
    known = schedule(material.settings["words"])
    run = Run(material.out / "words", {"text_encoder": encoder}, known)

    def loss_of(update: int) -> Tensor:
        dice, _ = dice_of(material.seed + 6, update)
        names = dice.choices(material.names, k=known.batch)
        plain = [material.captions[name] for name in names]
        said = [material.caption(name, dice) for name in names]
        with torch.no_grad():
            wanted = teacher(material.tokens(plain)).last_hidden_state
        tokens = material.tokens(said)
        with compute(material.device):
            found = encoder(tokens).last_hidden_state.float()
        return _distance(found, wanted, tokens, material.tokenizer.eos_token_id)

    run.train(loss_of)
    return encoder.eval()


def _distance(found: Tensor, wanted: Tensor, tokens: Tensor, end: int) -> Tensor:
    """Return the mean squared error over the positions from the first `end` on; padding is `end` too."""
    after = (tokens == end).cumsum(1).clamp(max=1).unsqueeze(-1).to(found.dtype)
    error: Tensor = ((found - wanted).square() * after).sum() / (after.sum() * found.shape[-1])
    return error
