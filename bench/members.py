"""The shipped members under measurement: loaded through the registry, painted in batches, judged.

No goals and no printing here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from difs import repository
from difs.actors import loading, schedulers
from difs.actors.recipes import RECIPES
from difs.scorer import Judgement, Scorer
from model_repo.recipes import compositions
from model_repo.recipes.wordings import UNSEEN

BATCH = 32
SIDES = (64, 128)
STEPS = (1, 2, 3, 4, 6, 8, 12, 20, 30)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """One way to use a member."""

    steps: int
    guidance: float


@dataclass(frozen=True)
class Asked:
    """One picture to paint: what is written, which drawing is meant, and the seed."""

    text: str
    name: str
    seed: int


class Member:
    """A variant, loaded, with or without an adapter."""

    def __init__(self, repo: repository.Repository, name: str, adapter: str = "") -> None:
        """Load it."""
        self.variant = repo.variant(name)
        self.manifest = self.variant.manifest
        self._pipe = loading.load_pipeline(
            self.variant, RECIPES[self.manifest.family], torch.float32, loading.PartStore(), lambda: None
        )
        if adapter:
            self._pipe.load_lora_weights(repo.adapter(adapter).path)
        self._own = self._pipe.scheduler
        self.side = self.manifest.native_sizes[0][0]
        self.name = adapter or name

    def paint(self, asked: Sequence[Asked], point: Point) -> list[Pixels]:
        """Return the pictures, in order."""
        painted: list[Pixels] = []
        for at in range(0, len(asked), BATCH):
            part = asked[at : at + BATCH]
            self._pipe.scheduler = schedulers.build(self.manifest.sampler, self._own, self.manifest.kind)
            images = self._pipe(
                [one.text for one in part],
                num_inference_steps=point.steps,
                guidance_scale=point.guidance,
                height=self.side,
                width=self.side,
                generator=[torch.Generator("cpu").manual_seed(one.seed) for one in part],
                output_type="np",
            ).images
            painted += list((images * 255).round().astype(np.uint8))
        return painted

    def points(self) -> list[Point]:
        """Return the ways to use it that are measured: steps in its range, guidances around its own."""
        steps = [n for n in STEPS if self.manifest.steps.min <= n <= self.manifest.steps.max]
        own = self.manifest.guidance_scale
        return [Point(n, scale) for scale in sorted({1.0, own, 2 * own - 1.0}) for n in steps]


def asks(captions: Mapping[str, str], count: int, seed: int) -> list[Asked]:
    """Return `count` captions, evenly spread, each with a seed of its own."""
    names = list(captions)
    chosen = [names[i * len(names) // count] for i in range(min(count, len(names)))]
    return [Asked(captions[name], name, seed * 1000 + i) for i, name in enumerate(chosen)]


def unseen(captions: Mapping[str, str]) -> list[Asked]:
    """Return every caption in one of the wordings that training never saw."""
    return [
        Asked(UNSEEN[i % len(UNSEEN)].format(said), name, 7000 + i)
        for i, (name, said) in enumerate(captions.items())
    ]


def others(also: Mapping[str, Sequence[str]]) -> list[Asked]:
    """Return every other word for a thing, alone."""
    return [
        Asked(word, name, 8000 + i)
        for i, (name, word) in enumerate((n, w) for n, words in also.items() for w in words)
    ]


def measure(
    member: Member, scorer: Scorer, point: Point, by_seed: Sequence[Sequence[Asked]]
) -> list[dict[str, Any]]:
    """Return a row of the quality table for each size; `by_seed`: what is asked, once with each seed."""
    judged: dict[int, list[list[Judgement]]] = {side: [] for side in SIDES}
    for asked in by_seed:
        painted = member.paint(asked, point)
        for side, found in judged.items():
            found.append([scorer.judge(p, a.name, side) for p, a in zip(painted, asked, strict=True)])
    return [_row(point, side, found) for side, found in judged.items()]


def _row(point: Point, side: int, judged: list[list[Judgement]]) -> dict[str, Any]:
    every = [one for by_seed in judged for one in by_seed]
    means = [float(np.mean([one.score for one in by_seed])) for by_seed in judged]
    return {
        "side": side,
        "steps": point.steps,
        "guidance": point.guidance,
        "score": round(float(np.mean(means)), 4),
        "spread": round(float(np.std(means)), 4),
        "recall_1": round(float(np.mean([one.rank == 0 for one in every])), 4),
        "recall_5": round(float(np.mean([one.rank < 5 for one in every])), 4),
        "psnr_db": round(float(np.mean([one.psnr_db for one in every])), 2),
    }


def recall(member: Member, scorer: Scorer, asked: Sequence[Asked], point: Point) -> float:
    """Return the share of pictures that are recognised."""
    painted = member.paint(asked, point)
    return float(np.mean([scorer.rank(p, a.name) == 0 for p, a in zip(painted, asked, strict=True)]))


def styled(
    member: Member, styles: Mapping[str, Scorer], asked: Sequence[Asked], point: Point
) -> dict[str, float]:
    """Return how often an adapter's style is the nearest of `styles`, and how often the thing is."""
    own = styles[member.name]
    painted = member.paint(asked, point)
    right, found, fidelity = [], [], []
    for picture, one in zip(painted, asked, strict=True):
        nearest = min(styles, key=lambda style: styles[style].distance(picture, one.name))
        right.append(nearest == member.name)
        judged = own.judge(picture, one.name, member.side)
        found.append(judged.rank == 0)
        fidelity.append(judged.score)
    return {
        "style": float(np.mean(right)),
        "recall_1": float(np.mean(found)),
        "score": float(np.mean(fidelity)),
    }


# ---- compositions ---------------------------------------------------------------------------------


class Compositions:
    """Recognises what is composed: the thing and its colour, the two things of a pair."""

    def __init__(self, scorer: Scorer, captions: Mapping[str, str]) -> None:
        """Colour every drawing that can be."""
        self._plain, self._captions = scorer, captions
        self._names = compositions.colourable(captions)
        self._turned = {
            colour: Scorer({n: _turned(scorer.reference(n, 128), colour) for n in self._names})
            for colour in compositions.COLOURS
        }

    def coloured(self, member: Member, count: int, point: Point) -> float:
        """Return the share of 'a blue apple' in which both the thing and its colour are recognised."""
        colours = compositions.COLOURS
        asked, wanted = [], []
        for i in range(count):
            name, colour = self._names[i * len(self._names) // count], colours[i % len(colours)]
            asked.append(Asked(f"a {colour} {self._captions[name]}", name, 9000 + i))
            wanted.append(colour)
        found = []
        for picture, one, colour in zip(member.paint(asked, point), asked, wanted, strict=True):
            nearest = min(colours, key=lambda c: self._turned[c].distance(picture, one.name))
            found.append(nearest == colour and self._turned[colour].rank(picture, one.name) == 0)
        return float(np.mean(found))

    def paired(self, member: Member, count: int, point: Point) -> float:
        """Return the share of 'a cat and a dog' in which both things are recognised in their places."""
        names = list(self._captions)
        chosen = [(names[(7 * i) % len(names)], names[(131 * i + 17) % len(names)]) for i in range(count)]
        texts = [f"a {self._captions[a]} and a {self._captions[b]}" for a, b in chosen]
        asked = [
            Asked(text, a, 9500 + i) for i, (text, (a, _)) in enumerate(zip(texts, chosen, strict=True))
        ]
        found = []
        for picture, (left, right) in zip(member.paint(asked, point), chosen, strict=True):
            side = picture.shape[0]
            middle = picture[side // 4 : side // 4 + side // 2]
            halves = middle[:, : side // 2], middle[:, side // 2 :]
            ranks = [
                self._plain.rank(half, name) for half, name in zip(halves, (left, right), strict=True)
            ]
            found.append(ranks == [0, 0])
        return float(np.mean(found))


def _turned(picture: Pixels, colour: str) -> Pixels:
    turned = compositions.recolour(picture.astype(np.float32) / 255, colour)
    return np.round(turned * 255).astype(np.uint8)
