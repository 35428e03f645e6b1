"""The one way in: a file, a diffusers folder, or a whole `models/` folder; and out again."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from difs.errors import RepositoryError, UnknownName
from difs.registration import directories, files, folders
from difs.registration.orders import Order, Outcome
from difs.repository import Repository
from difs.variants import MODEL_INDEX, Adapter, Variant


def register(path: Path, order: Order, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Register what stands at `path`, `tell` hears of each outcome; raises RepositoryError, OSError.

    In a whole `models/` folder, what cannot be registered is an outcome with a problem.
    """
    if not path.exists():
        raise RepositoryError(f"{path} is not there")
    if path.is_dir() and not (path / MODEL_INDEX).is_file():
        if not directories.shelves(path):
            raise RepositoryError(
                f"{path} is neither a diffusers folder (no {MODEL_INDEX}) nor a models folder of A1111 or"
                f" ComfyUI (none of {', '.join(sorted(directories.KNOWN))})"
            )
        if order.name is not None:
            raise RepositoryError("--name is for one file or folder; in a models folder each has its own")
        return directories.register(path, order, tell)
    act = folders.register if path.is_dir() else files.register
    outcome = act(path, order)
    tell(outcome)
    return [outcome]


def unregister(name: str, known: Repository, root: Path) -> str:
    """Take an entry out of the user's root; returns what it was. Files that it linked to stay.

    Raises UnknownName, or RepositoryError where it is shipped or others are made of it.
    """
    entry = known.variants.get(name) or known.adapters.get(name)
    folder = _folder(name, entry, root)
    if entry is not None:
        users = borrowers(entry, known)
        if users:
            raise RepositoryError(f"{name} is used by {', '.join(users)}; unregister them first")
    hidden = Path(tempfile.mkdtemp(prefix=".gone.", dir=root))
    folder.rename(hidden / folder.name)  # at once, for a service that looks
    shutil.rmtree(hidden)
    return "adapter" if isinstance(entry, Adapter) else "variant"


def borrowers(entry: Variant | Adapter, known: Repository) -> list[str]:
    """Return the variants that are made of an entry's parts, captions or weights."""
    if isinstance(entry, Adapter):
        return [v.name for v in known.variants.values() if entry.name in v.manifest.fused]
    others = (v for v in known.variants.values() if v.name != entry.name)
    return [v.name for v in others if entry.name in lenders(v)]


def lenders(variant: Variant) -> set[str]:
    """Return the variants that a variant has something of."""
    named = {lender.partition("/")[0] for lender in variant.manifest.parts.values()}
    captions = variant.manifest.captions
    return named if captions is None else named | {captions}


def _folder(name: str, entry: Variant | Adapter | None, root: Path) -> Path:
    """Return the folder of an entry; a broken one is found by its folder's name."""
    folders_here = {path.name: path for path in root.iterdir()} if root.is_dir() else {}
    if entry is None:
        if name in folders_here and not name.startswith("."):
            return folders_here[name]
        registered = ", ".join(sorted(folders_here)) or "none"
        raise UnknownName(f"nothing is registered as {name!r}; there is: {registered}", field="name")
    if not entry.is_users:
        raise RepositoryError(f"{name} is shipped with DIFS and stays")
    file = entry.path if isinstance(entry, Adapter) else entry.folder
    if name not in folders_here or not file.is_relative_to(folders_here[name].resolve()):
        raise RepositoryError(f"{name} does not stand in a folder of its name; remove it by hand")
    return folders_here[name]
