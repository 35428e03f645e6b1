"""What a variant with a small vocabulary says of a prompt: a pure rule over words."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

Captions = tuple[tuple[str, ...], ...]
"""Everything that a variant can paint, each with other words for it."""

WORD = re.compile(r"[^\W_]+")


def named(captions: Captions, prompt: str) -> tuple[str, ...]:
    """Return the captions that a prompt names, by themselves or by another word, in the prompt's order.

    Of two that overlap ("cat", "black cat") the longer one counts.
    """
    return _finder(captions)(prompt)


def note(variant: str, captions: Captions, prompt: str) -> str | None:
    """Return what a user should know when a prompt names nothing that the variant can paint."""
    if not captions or named(captions, prompt):
        return None
    return (
        f"{variant} can paint {len(captions)} things, and the prompt names none of them:"
        f" `difs variants {variant} --captions` lists them"
    )


Finder = Callable[[str], tuple[str, ...]]
_finders: dict[int, tuple[Captions, Finder]] = {}
"""By identity: hashing hundreds of captions costs more than a look. Kept objects keep their ids."""
MOST_FINDERS = 64


def _finder(captions: Captions) -> Finder:
    """Return what finds the captions that a prompt names; a decision asks twice for the same prompt."""
    kept = _finders.get(id(captions))
    if kept is None:
        if len(_finders) >= MOST_FINDERS:
            _finders.clear()
        find = lru_cache(maxsize=16)(partial(_found, *_index(captions)))
        kept = _finders[id(captions)] = (captions, find)
    return kept[1]


def _found(known: Mapping[str, str], longest: int, prompt: str) -> tuple[str, ...]:
    words = WORD.findall(prompt.lower())
    found, at = [], 0
    while at < len(words):
        for size in range(min(longest, len(words) - at), 0, -1):
            caption = known.get(" ".join(words[at : at + size]))
            if caption is not None:
                found.append(caption)
                at += size - 1
                break
        at += 1
    return tuple(found)


def _index(captions: Captions) -> tuple[dict[str, str], int]:
    """Return word or words -> caption, and the most words that belong together."""
    found = {}
    for caption, *others in reversed(captions):
        for other in others:
            found[" ".join(WORD.findall(other.lower()))] = caption
    found |= {" ".join(WORD.findall(caption.lower())): caption for caption, *_ in captions}
    return found, max((len(words.split()) for words in found), default=0)
