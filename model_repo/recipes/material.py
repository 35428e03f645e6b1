"""What all stages work with: names, words, drawings, tokens, and latents of the drawings.

Everything is made once in the run's folder and read from there afterwards.
"""

import json
import random
import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_repo.recipes import drawings, wordings

HOME = Path(__file__).parent
REPOSITORY = HOME.parent
BASE = REPOSITORY / "emoji-base"


def settings() -> dict[str, Any]:
    """Return settings.toml."""
    return tomllib.loads((HOME / "settings.toml").read_text("utf-8"))


def to_unit(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Return pictures (n, h, w, 3) in 0..255 as a tensor (n, 3, h, w) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def dice_of(seed: int, update: int) -> tuple[random.Random, torch.Generator]:
    """Return the dice of one update: the same update always sees the same data and noise."""
    return random.Random(f"{seed} {update}"), torch.Generator().manual_seed(seed * 1_000_003 + update)


def compute(device: torch.device) -> Any:
    """Return the autocast context that everything is trained in."""
    return torch.autocast(device.type, torch.bfloat16)


class Material:
    """See the module."""

    def __init__(self, out: Path, device: str) -> None:
        """Work in folder `out` on `device`."""
        self.out, self.device = out, torch.device(device)
        self.settings = settings()
        self.seed: int = self.settings["seed"]
        entries = json.loads((BASE / "captions.json").read_text("utf-8"))
        self.captions: dict[str, str] = {name: entry["caption"] for name, entry in entries.items()}
        self.names = list(self.captions)

    def _archive(self, package: str) -> Path:
        version = self.settings["packages"][package]
        return drawings.fetch(package, version, self.out / "packages")

    def drawn(self, style: str, side: int) -> drawings.Drawings:
        """Return the drawings of a style, in the order of the names."""
        known = self.settings["drawings"]
        kept = self.out / f"{style}.npy"
        if not kept.is_file():
            archive = self._archive(drawings.STYLES[style])
            np.save(kept, drawings.rasterise(archive, self.names, known["side"], known["margin"]))
        whole = np.load(kept)
        return whole if side == whole.shape[1] else drawings.smaller(whole, side)

    @cached_property
    def keywords(self) -> dict[str, list[str]]:
        """Return name -> other words that mean it alone."""
        return drawings.keywords(self._archive(drawings.WORDS), self.captions)

    @cached_property
    def fillers(self) -> wordings.Fillers:
        """Return the words that may stand around a name."""
        names = {c: self.keywords[n] for n, c in self.captions.items()}
        return wordings.usable_fillers(names, drawings.vocabulary(self._archive(drawings.WORDS)))

    @cached_property
    def tokenizer(self) -> Any:
        """Return the family's tokenizer."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(BASE / "tokenizer")

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, of shape (texts, 24)."""
        made = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=24, return_tensors="pt"
        )
        ids: Tensor = made.input_ids
        return ids.to(self.device)

    @cached_property
    def autoencoder(self) -> Any:
        """Return the family's autoencoder, in fp32."""
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(BASE / "vae", dtype=torch.float32)
        return vae.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the mean latents of pictures in -1..1."""
        parts = [self.autoencoder.encode(part).latent_dist.mean for part in torch.split(pictures, 64)]
        return torch.cat(parts).clone()

    def latents(self, style: str, side: int) -> Tensor:
        """Return the latents of a style's drawings, in the order of the names."""
        return self.encode(to_unit(self.drawn(style, side)).to(self.device))

    def caption(self, name: str, dice: random.Random) -> str:
        """Return a wording for a name as training sees it: now and then another word for it."""
        others = self.keywords[name]
        said = self.captions[name]
        if others and dice.random() < self.settings["wordings"]["others"]:
            said = dice.choice(others)
        return wordings.dress(said, dice, self.fillers, self.settings["wordings"]["dressed"])
