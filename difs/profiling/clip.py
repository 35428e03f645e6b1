"""CLIPScore: how well a picture fits its text, as a CLIP model from a local folder sees it.

Mapped once to 0..1 as Hessel et al. 2021 ("CLIPScore: A Reference-free Evaluation Metric for Image
Captioning", eq. 1): 2.5 times the cosine of both embeddings, not below 0 and here not above 1. Numbers of
different CLIP models are not comparable: the judge names the weights.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from difs.errors import InvalidRequest, first_line
from difs.messages import QualityKind, QualityPoint
from difs.profiling.asking import Asked, Point
from difs.scorer import Pixels

SCALE = 2.5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own, where the folder does not say."""
BATCH = 16


class Clip:
    """Judges by a CLIP model; loaded when it is first asked."""

    kind: QualityKind = "clip"

    def __init__(self, folder: Path, device: str, side: int) -> None:
        """Name the weights in `folder`; raises InvalidRequest when there are none to be used."""
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not weights:
            raise InvalidRequest(
                f"{folder} is no CLIP model: config.json and .safetensors weights are needed"
                " (pickled .bin weights are never opened)",
                field="clip",
            )
        digest = hashlib.sha256()
        for path in weights:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        self._folder = folder
        self._device = device
        self._side = side
        self.judge = digest.hexdigest()[:16]
        self.source = f"CLIPScore by {folder.resolve().name} ({self.judge[:8]})"

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, CLIPModel  # noqa: PLC0415 -- only where it is asked for

        try:
            model = CLIPModel.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        except Exception as error:  # what a broken folder raises has no common class
            raise InvalidRequest(f"{self._folder}: {first_line(error)}", field="clip") from error
        return model.eval().to(self._device), tokenizer

    def prepare(self, paint: Callable[..., list[Pixels]], asked: Sequence[Sequence[Asked]]) -> None:
        """Load the model."""
        self._parts  # noqa: B018 -- cached

    def rows(
        self, point: Point, painted: Sequence[Sequence[Pixels]], asked: Sequence[Sequence[Asked]]
    ) -> list[QualityPoint]:
        """Return a point's row; `painted` and `asked` by seed."""
        means = [
            float(np.mean(self.scores(pictures, [one.text for one in ones])))
            for pictures, ones in zip(painted, asked, strict=True)
        ]
        score, off = float(np.mean(means)), float(np.std(means))
        row = QualityPoint(self._side, point.steps, point.guidance, round(score, 4), round(off, 4))
        return [row]

    def scores(self, pictures: Sequence[Pixels], texts: Sequence[str]) -> list[float]:
        """Return how well each picture fits its text, 0..1."""
        found: list[float] = []
        for at in range(0, len(pictures), BATCH):
            cosines = self._cosines(pictures[at : at + BATCH], texts[at : at + BATCH])
            found += [min(1.0, SCALE * max(0.0, cosine)) for cosine in cosines]
        return found

    def _cosines(self, pictures: Sequence[Pixels], texts: Sequence[str]) -> list[float]:
        model, tokenizer = self._parts
        most = model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        with torch.inference_mode():
            out = model(
                input_ids=tokens["input_ids"].to(self._device),
                attention_mask=tokens["attention_mask"].to(self._device),
                pixel_values=self._pixels(pictures, model.config.vision_config.image_size),
            )
            cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
        return [float(cosine) for cosine in cosines]

    def _pixels(self, pictures: Sequence[Pixels], side: int) -> torch.Tensor:
        """Return pictures as CLIP takes them: the middle square at `side` pixels, normalised."""
        mean, std = self._normal
        shown = [_middle(picture, side) for picture in pictures]
        values = (np.stack(shown).astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).float().to(self._device)

    @cached_property
    def _normal(self) -> tuple[Any, Any]:
        facts: dict[str, Any] = {}
        path = self._folder / "preprocessor_config.json"
        if path.is_file():
            facts = json.loads(path.read_text("utf-8"))
        mean, std = (np.asarray(facts.get(n, d)) for n, d in (("image_mean", MEAN), ("image_std", STD)))
        return mean, std


def _middle(picture: Pixels, side: int) -> Pixels:
    height, width = picture.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = Image.fromarray(picture[top : top + short, left : left + short])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
