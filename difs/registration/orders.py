"""What a user asks to register, what became of it, and the names that files get."""

import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from difs.errors import RepositoryError
from difs.manifests import Kind, Prediction
from difs.registration import digests, shelf
from difs.registration.digests import Progress
from difs.repository import PICKLE_SUFFIXES, Repository
from difs.variants import Adapter, Variant

UNKNOWN_LICENCE = "unknown: its file states none"
CONVERT = (
    "pickled weights can run code when they are opened, so DIFS never opens them. Get the .safetensors of"
    " the same model; or, if you trust the file, convert it once with a tool that opens pickles"
    " (A1111: Checkpoint Merger, no interpolation, save as safetensors)"
)


class Order(Struct, frozen=True):
    """How something shall be registered."""

    shipped: Path
    """The shipped root of the model repository."""
    root: Path
    """The user's root."""
    known: Repository
    """What is registered already."""
    name: str | None = None
    copy: bool = False
    licence: str | None = None
    kind: Kind | None = None
    prediction: Prediction | None = None
    watch: Callable[[str, int], Progress] = lambda name, nbytes: lambda chunk: None
    """Called with the name and the bytes of each file that is read whole."""


class Outcome(Struct, frozen=True):
    """What became of one file or folder."""

    path: str
    name: str = ""
    what: str = ""
    notes: tuple[str, ...] = ()
    problem: str | None = None
    is_new: bool = True


def name_for(order: Order, stem: str) -> str:
    """Return the name of a new entry; raises RepositoryError for a bad one or one that is taken."""
    name = shelf.checked_name(order.name if order.name is not None else slug(stem))
    if name in order.known.variants or name in order.known.adapters or (order.root / name).exists():
        raise shelf.taken(name)
    return name


def registered(path: Path, order: Order) -> Outcome | None:
    """Return what there is to say of an unchanged file that an entry links to already."""
    stated = shelf.where(path)
    entries: tuple[Variant | Adapter, ...] = (
        *order.known.variants.values(),
        *order.known.adapters.values(),
    )
    for entry in entries:
        for relative, linked in entry.manifest.linked.items():
            seen = entry.manifest.seen.get(relative)
            if linked == stated and seen is not None and not digests.has_changed(path, seen):
                return Outcome(str(path), entry.name, "registered already", is_new=False)
    return None


def slug(stem: str) -> str:
    """Return a name made of a file's name."""
    return re.sub(r"[^a-z0-9._]+", "-", stem.lower()).strip("-._")[:64].strip("-._")


def refuse_pickle(path: Path) -> None:
    """Refuse what only a pickle's reader could open; raises RepositoryError."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise RepositoryError(f"{path.name}: {CONVERT}")
