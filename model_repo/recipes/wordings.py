"""What a person may write around a name: templates for training, filler words, and the held-out list.

`UNSEEN` is never trained on: it measures how members take wordings that they have not met.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from model_repo.recipes.drawings import FILLERS

TEMPLATES = (
    "{}",
    "a {}",
    "{} emoji",
    "an emoji of a {}",
    "a picture of a {}",
    "an icon of a {}",
    "a cute {}",
    "{} icon",
    "a drawing of a {}",
    "the {}",
)

UNSEEN = (
    "{}, please draw it in colour",
    "could somebody paint a {} for me?",
    "i would love to see a {}",
    "show us what a {} looks like",
    "{} on a plain backdrop",
    "a small {} to decorate my room",
    "one more {}, if possible",
    "nothing but a simple {}",
    "a {}, my kids adore it",
    "a lovely scene with a {} in it",
    "a {} for the front of my shop",
    "sketchbook page: {}",
    "ultra fine render of a {}",
    "{}, sharp focus, very detailed",
    "watercolour of a {}",
    "{} silhouette",
    "may we borrow a {}",
    "what might a {} look like?",
    "anything similar to a {}",
    "vintage {} badge",
    "draw {}",
    "please deliver a {}",
    "{} for a greeting",
    "a tiny {} seen from afar",
    "here comes a {}",
    "we ordered a {}",
    "an oil painting of a {}",
    "{} vector asset",
    "the greatest {} ever made",
    "a tidy and well made {}",
    "an image depicting one {}",
    "remind me of a {}",
    "a portrait of the {}",
    "a billboard with a {}",
    "my daughter drew a {}",
    "{}, centred composition",
    "a pictogram meaning {}",
    "monochrome background, {}",
    "doodle a {} quickly",
    "{} screensaver",
)
"""Each has a word that training never says."""


class Fillers(NamedTuple):
    """Words that may stand around a name."""

    common: Sequence[str]
    rare: Sequence[str]

    def draw(self, dice: random.Random, most: int) -> str:
        """Return up to `most` words, half of them common ones."""
        words = [dice.choice(dice.choice(self)) for _ in range(dice.randrange(most + 1))]
        return " ".join(words)


def dress(name: str, dice: random.Random, fillers: Fillers, dressed: float) -> str:
    """Return a caption for training: a template, or (with probability `dressed`) filler words around."""
    if dice.random() >= dressed:
        return dice.choice(TEMPLATES).format(name)
    comma = dice.choice(("", "", ",", ":", ".", "?"))
    text = f"{fillers.draw(dice, 5)} {name}{comma} {fillers.draw(dice, 4)}".strip()
    return text if dice.random() < 0.9 else text.replace(",", " -")


def usable_fillers(names: Mapping[str, Sequence[str]], vocabulary: Sequence[str] = ()) -> Fillers:
    """Return the fillers that are no word of a name and, of the rare ones, of no unseen wording.

    `names`: caption -> other words for it.
    """
    taken = {part for caption, others in names.items() for w in (caption, *others) for part in w.split()}
    said = FILLERS.read_text("utf-8").split()
    common = [word for word in said if word not in taken]
    unseen = set(re.findall(r"[a-z]+", " ".join(UNSEEN)))
    rare = [word for word in vocabulary if word not in taken | unseen | set(said)]
    return Fillers(common, rare or common)
