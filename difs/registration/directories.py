"""Registers all checkpoints, LoRAs and diffusers folders in the `models/` folder of A1111 or ComfyUI."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from difs import repository
from difs.errors import RepositoryError
from difs.registration import files, folders
from difs.registration.orders import Order, Outcome, slug
from difs.repository import PICKLE_SUFFIXES
from difs.variants import MODEL_INDEX

KNOWN = frozenset({"stable-diffusion", "checkpoints", "lora", "loras", "lycoris", "diffusers"})
"""Folders that are looked into, in lower case: A1111's and ComfyUI's."""


def shelves(path: Path) -> list[Path]:
    """Return the known folders of a `models/` folder, or of the one that it stands in."""
    for place in (path, path / "models"):
        found = [p for p in sorted(place.iterdir()) if p.name.lower() in KNOWN] if place.is_dir() else []
        if found:
            return [p for p in found if p.is_dir()]
    return []


def register(path: Path, order: Order, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Register everything in it, each told of when it is done; one that fails is an outcome, no end."""
    outcomes = []
    for item in _items(shelves(path)):
        outcome = _one(item, order)
        outcomes.append(outcome)
        tell(outcome)
        if outcome.is_new and outcome.problem is None:
            order = replace(order, known=repository.scan(order.shipped, order.root))
    return outcomes


def _one(item: Path, order: Order) -> Outcome:
    act = folders.register if item.is_dir() else files.register
    stem = slug(item.name if item.is_dir() else item.stem)
    if stem in order.known.variants or stem in order.known.adapters:
        order = replace(order, name=slug(f"{item.parent.name}-{stem}"))  # of two folders' files
    try:
        return act(item, order)
    except RepositoryError as error:
        return Outcome(str(item), problem=error.message)
    except OSError as error:
        return Outcome(str(item), problem=f"{error.strerror}: {error.filename}")


def _items(places: list[Path]) -> Iterator[Path]:
    """Yield weight files and diffusers folders, in order; links to folders are followed, once each."""
    done: set[str] = set()
    for place in places:
        for folder, below, names in os.walk(place, followlinks=True):
            real = os.path.realpath(folder)
            if real in done:
                below.clear()
                continue
            done.add(real)
            below.sort()
            if MODEL_INDEX in names:
                below.clear()
                yield Path(folder)
                continue
            for name in sorted(names):
                if Path(name).suffix.lower() in {".safetensors", *PICKLE_SUFFIXES}:
                    yield Path(folder) / name
