"""What finished pictures are worth, by the reference drawings that come with a variant. No torch here."""

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difs import captions
from difs.actor_messages import Execute
from difs.catalogue import Library
from difs.scorer import REFERENCES, Scorer
from difs.variants import Variant

log = logging.getLogger(__name__)


def judge(library: Library, execute: Execute, picture: NDArray[np.uint8]) -> float | str:
    """Return the quality, 0..1, of a picture of shape (height, width, 3), or why it cannot be told.

    Without a drawing of just what was asked for nothing can be said: so not of other checkpoints, nor of
    several things in one picture, nor of a style that the drawings do not have.
    """
    variant = library.variant(execute.variant)
    owner = library.variant(variant.manifest.captions) if variant.manifest.captions is not None else None
    folder = _folder(variant, owner) if owner is not None else None
    if owner is None or folder is None:
        return f"not judged: {variant.name} has no reference drawings"
    named = captions.named(variant.captions, execute.prompt)
    if len(named) != 1:
        return f"not judged: the prompt names {len(named)} things that there are drawings of, not one"
    if execute.adapters or execute.width != execute.height:
        return "not judged: there are drawings of square pictures without adapters only"
    try:
        scorer = _scorer(folder, owner.folder)
        at = [caption for caption, *_ in variant.captions].index(named[0])
        return scorer.judge(picture, scorer.names[at], execute.width).score
    except Exception:  # the picture is good all the same
        log.exception("%s: the scorer failed", variant.name)
        return "not judged: the scorer failed"


def _folder(variant: Variant, owner: Variant) -> Path | None:
    """Return where the drawings of a variant stand: its own, or those of its captions' owner."""
    folders = (variant.folder, owner.folder)
    return next((folder for folder in folders if (folder / REFERENCES).is_file()), None)


@lru_cache(maxsize=4)
def _scorer(folder: Path, captions_folder: Path) -> Scorer:
    return Scorer.load(folder, captions_folder)
