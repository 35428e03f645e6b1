"""What a variant with a small vocabulary says of a prompt: a pure rule over words."""

import re

Captions = tuple[tuple[str, ...], ...]
"""Everything that a variant can paint, each with other words for it."""

WORD = re.compile(r"[^\W_]+")


def named(captions: Captions, prompt: str) -> tuple[str, ...]:
    """Return the captions that a prompt names, by themselves or by another word, in the prompt's order.

    Of two that overlap ("cat", "black cat") the longer one counts.
    """
    known, longest = _known(captions)
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


def note(variant: str, captions: Captions, prompt: str) -> str | None:
    """Return what a user should know when a prompt names nothing that the variant can paint."""
    if not captions or named(captions, prompt):
        return None
    return (
        f"{variant} can paint {len(captions)} things, and the prompt names none of them:"
        f" `difs variants {variant} --captions` lists them"
    )


Index = tuple[dict[str, str], int]
_indices: dict[int, tuple[Captions, Index]] = {}
"""By identity: hashing hundreds of captions costs more than a look. Kept objects keep their ids."""
MOST_INDICES = 64


def _known(captions: Captions) -> Index:
    kept = _indices.get(id(captions))
    if kept is None:
        if len(_indices) >= MOST_INDICES:
            _indices.clear()
        kept = _indices[id(captions)] = (captions, _index(captions))
    return kept[1]


def _index(captions: Captions) -> Index:
    """Return word or words -> caption, and the most words that belong together."""
    found = {}
    for caption, *others in reversed(captions):
        for other in others:
            found[" ".join(WORD.findall(other.lower()))] = caption
    found |= {" ".join(WORD.findall(caption.lower())): caption for caption, *_ in captions}
    return found, max((len(words.split()) for words in found), default=0)
