"""What a person may write around a name: templates for training, filler words, and the held-out list.

`UNSEEN` is never trained on: it measures how members take wordings that they have not met.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    "could you paint me a {}?",
    "i would like to see a {}",
    "show me the {} now",
    "{} on a white background",
    "a small {} for my phone",
    "one more {}, thanks",
    "just a simple {}",
    "my favourite {}",
    "a lovely picture with a {} in it",
    "a {} as a sticker",
    "sticker: {}",
    "high quality image of a {}",
    "{}, high quality, detailed",
    "beautiful {} illustration",
    "{} clipart",
    "can i have a {} please",
    "what does a {} look like?",
    "give me something like a {}",
    "an old style {} logo",
    "draw {}",
    "please make a {}",
    "{} for a card",
    "a tiny {} seen from the front",
    "this is a {}",
    "i want {} in my book",
    "digital art of a {}",
    "{} vector graphic",
    "the best {} ever",
    "a nice and clean {}",
    "an image that shows one {}",
    "let me see a {} again",
    "a photo of the {}",
    "a sign with a {}",
    "a child has drawn a {}",
    "{}, centered, flat design",
    "a symbol for {}",
    "minimalist {}",
    "quickly sketch a {}",
    "{} wallpaper",
)


def dress(name: str, dice: random.Random, fillers: Sequence[str], dressed: float) -> str:
    """Return a caption for training: a template, or (with probability `dressed`) filler words around."""
    if dice.random() >= dressed:
        return dice.choice(TEMPLATES).format(name)
    before = " ".join(dice.choices(fillers, k=dice.randrange(6)))
    after = " ".join(dice.choices(fillers, k=dice.randrange(5)))
    comma = dice.choice(("", "", ",", ":", ".", "?"))
    text = f"{before} {name}{comma} {after}".strip()
    return text if dice.random() < 0.9 else text.replace(",", " -")


def usable_fillers(names: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the fillers that are no word of a name; `names`: caption -> other words for it."""
    taken = {part for caption, others in names.items() for w in (caption, *others) for part in w.split()}
    said = (Path(__file__).parent / "fillers.txt").read_text("utf-8").split()
    return [word for word in said if word not in taken]
