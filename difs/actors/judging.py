"""What finished pictures are worth, by the reference drawings that come with a variant. No torch here."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from difs import captions
from difs.actor_messages import Execute
from difs.actors.loader import Loader
from difs.catalogue import Library
from difs.scorer import REFERENCES, Scorer
from difs.variants import Variant

log = logging.getLogger(__name__)


class Drawings(NamedTuple):
    """Where the drawings of a variant stand, and the captions that name them."""

    folder: Path
    captions_folder: Path

    def read(self) -> Scorer:
        """Return their scorer: half a second's work."""
        scorer = Scorer.load(self.folder, self.captions_folder)
        log.info("%s: scores start at a similarity of %.2f", self.folder.name, scorer.floor)
        return scorer


class Judge:
    """Scores pictures; an engine has one. Drawings are read beside the work, once they are wanted."""

    def __init__(self, library: Library) -> None:
        """Know no drawings yet."""
        self._library = library
        self._loader = Loader(wake=lambda: None, prepare=lambda: None)
        self._scorers: dict[Drawings, Scorer | str] = {}
        """Words: why there is none, or none yet."""

    def judge(self, execute: Execute, picture: NDArray[np.uint8]) -> float | str:
        """Return the quality, 0..1, of a picture of shape (height, width, 3), or why it cannot be told.

        Without a drawing of just what was asked for nothing can be said: so not of other checkpoints, nor
        of several things in one picture, nor of a style that the drawings do not have.
        """
        variant = self._library.variant(execute.variant)
        drawings = self._drawings(variant)
        if drawings is None:
            return f"not judged: {variant.name} has no reference drawings"
        named = captions.named(variant.captions, execute.prompt)
        if len(named) != 1:
            return f"not judged: the prompt names {len(named)} things that there are drawings of, not one"
        if execute.adapters or execute.width != execute.height:
            return "not judged: there are drawings of square pictures without adapters only"
        scorer = self._scorer(drawings)
        if isinstance(scorer, str):
            return scorer
        try:
            at = [caption for caption, *_ in variant.captions].index(named[0])
            return scorer.judge(picture, scorer.names[at], execute.width).score
        except Exception:  # the picture is good all the same
            log.exception("%s: the scorer failed", variant.name)
            return "not judged: the scorer failed"

    def close(self) -> None:
        """Wait for what is being read."""
        self._loader.close()

    def _drawings(self, variant: Variant) -> Drawings | None:
        """Return the drawings of a variant: its own, or those of its captions' owner."""
        if variant.manifest.captions is None:
            return None
        owner = self._library.variant(variant.manifest.captions)
        folders = (variant.folder, owner.folder)
        folder = next((folder for folder in folders if (folder / REFERENCES).is_file()), None)
        return Drawings(folder, owner.folder) if folder is not None else None

    def _scorer(self, drawings: Drawings) -> Scorer | str:
        """Return the scorer of some drawings, once they are read; the first to ask has them read."""
        if drawings not in self._scorers:
            self._scorers[drawings] = "not judged: the reference drawings are not read yet"
            self._loader.submit(drawings, drawings.read)
        for key, scorer, error in self._loader.outcomes():
            if error is not None:
                log.error("%s: the drawings cannot be read: %s", key.folder.name, error)
            self._scorers[key] = scorer or "not judged: the reference drawings cannot be read"
        return self._scorers[drawings]
