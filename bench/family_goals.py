"""What the members of the embedded family are meant to reach, and the picture that shows them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bench.members import Asked, Member, Point
from bench.report import verdict
from difs.scorer import scaled

Figures = Mapping[str, Any]

GIVEN_PSNR_DB = 27.6
"""Of the first checkpoint at 20 steps, guidance 2.5: see emoji-base's README."""


def at(figures: Figures, side: int, steps: int, *, by: str = "score") -> Figures:
    """Return the best row of a table at a size and number of steps, over guidances."""
    rows = [r for r in figures["curve"] if (r["side"], r["steps"]) == (side, steps)]
    best: Figures = max(rows, key=lambda row: row[by])
    return best


def verdicts(found: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Print and return the verdicts on the members that were measured."""
    return [
        verdict(f"{member}: {what}", value, goal, at_least=True)
        for member, judge in JUDGES.items()
        if member in found
        for what, value, goal in judge(found)
    ]


Judged = Iterator[tuple[str, float, float]]


def _base(found: Mapping[str, Figures]) -> Judged:
    own = found["emoji-base"]
    yield "recall@1 at 4 steps", at(own, 64, 4)["recall_1"], 1.0
    yield "PSNR at 20 steps, dB", at(own, 64, 20, by="psnr_db")["psnr_db"], GIVEN_PSNR_DB + 1.5
    yield "recall@1 of wordings never seen", own["unseen_wordings"], 0.95
    yield "recall@1 of other words", own["other_words"], 0.7


def _small(found: Mapping[str, Figures]) -> Judged:
    yield "recall@1 at 8 steps", at(found["emoji-small"], 64, 8)["recall_1"], 0.98


def _turbo(found: Mapping[str, Figures]) -> Judged:
    own = found["emoji-turbo"]
    yield "recall@1 in 1 step", at(own, 64, 1)["recall_1"], 0.95
    if "emoji-base" in found:
        goal = at(found["emoji-base"], 64, 6)["score"]
        yield "score at 2 steps, against emoji-base at 6", at(own, 64, 2)["score"], goal


def _xl(found: Mapping[str, Figures]) -> Judged:
    own = found["emoji-xl"]
    if "emoji-base" in found:
        goal = max(row["score"] for row in found["emoji-base"]["curve"] if row["side"] == 128)
        best = max(row["score"] for row in own["curve"] if row["side"] == 128)
        yield "score at 128 pixels, against emoji-base enlarged", best, goal
    yield "thing and colour recognised", own["coloured"], 0.8
    yield "both things of a pair recognised", own["paired"], 0.8


def _style(name: str) -> Any:
    def judge(found: Mapping[str, Figures]) -> Judged:
        yield "style recognised", found[name]["style"], 0.9
        yield "recall@1", found[name]["recall_1"], 0.95

    return judge


JUDGES = {
    "emoji-base": _base,
    "emoji-small": _small,
    "emoji-turbo": _turbo,
    "emoji-xl": _xl,
    "style-fluent": _style("style-fluent"),
    "style-mono": _style("style-mono"),
}


# ---- the picture ----------------------------------------------------------------------------------

SHOWN = ("red-apple", "cat-face", "frog", "rocket", "hamburger", "guitar", "octopus", "christmas-tree")
STEPS = (1, 2, 4, 8, 20)
TILE, LABEL = 96, 132


def draw(path: Path, members: Sequence[Member], captions: Mapping[str, str]) -> None:
    """Draw what every member paints of the same prompts: a row for each member and number of steps."""
    names = [name for name in SHOWN if name in captions]
    rows = []
    for member in members:
        span = member.manifest.steps
        for steps in [n for n in STEPS if span.min <= n <= span.max]:
            asked = [Asked(captions[name], name, 40 + i) for i, name in enumerate(names)]
            painted = member.paint(asked, Point(steps, member.manifest.guidance_scale))
            rows.append((f"{member.name}, {steps} step{'s' * (steps > 1)}", painted))
    height = len(rows) * TILE
    sheet = Image.new("RGB", (LABEL + len(names) * TILE, height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (label, painted) in enumerate(rows):
        pen.text((4, i * TILE + TILE // 2 - 6), label, fill="black")
        for j, picture in enumerate(painted):
            shown = picture if picture.shape[0] == TILE else scaled(picture, TILE)
            sheet.paste(Image.fromarray(np.asarray(shown)), (LABEL + j * TILE, i * TILE))
    sheet.save(path, optimize=True)
