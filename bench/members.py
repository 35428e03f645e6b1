"""The shipped members under measurement: loaded through the registry, painted in batches, judged.

No goals and no printing here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from difs import repository
from difs.profiling import asking
from difs.profiling.asking import Asked, Point
from difs.profiling.asking import spread as asks
from difs.profiling.reference import SIDES, Reference, row_of
from difs.profiling.torch_artist import TorchArtist
from difs.scorer import Pixels, Scorer
from model_repo.recipes import compositions
from model_repo.recipes.wordings import UNSEEN

__all__ = [
    "Asked",
    "Compositions",
    "Member",
    "Point",
    "asks",
    "measure",
    "others",
    "recall",
    "styled",
    "unseen",
]


class Member(TorchArtist):
    """A variant, loaded, with or without an adapter."""

    def __init__(self, repo: repository.Repository, name: str, adapter: str = "") -> None:
        """Load it."""
        lora = repo.adapter(adapter).path if adapter else None
        super().__init__(repo.variant(name), adapter=lora)
        self.name = adapter or name

    def points(self) -> list[Point]:
        """Return the ways to use it that are measured: steps in its range, guidances around its own."""
        return asking.points(self.manifest, "reference")


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
    painted = [member.paint(asked, point) for asked in by_seed]
    judge = Reference(scorer, member.name)
    rows = []
    for side in SIDES:
        judged = judge.judged(side, painted, by_seed)
        psnr_db = float(np.mean([one.psnr_db for ones in judged for one in ones]))
        rows.append(msgspec.structs.asdict(row_of(point, side, judged)) | {"psnr_db": round(psnr_db, 2)})
    return rows


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
