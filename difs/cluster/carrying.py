"""Brings a variant from one node's repository into another's: its files, each compared with its digest.

The receiver puts it into its user's root as `difs register` would: built beside it, checked, renamed.
What comes from the other node is names and bytes; no path of it is used but those that its offer lists,
and these only below the folder that is being built. No Ray here.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from difs.errors import RepositoryError
from difs.manifests import Digest, Manifest
from difs.registration import shelf
from difs.repository import MANIFEST, Repository
from difs.variants import Variant

PIECE_BYTES = 4 * 2**20
CARRIED = frozenset({".json", ".md", ".model", ".safetensors", ".txt"})
"""Suffixes of the files that belong to a variant."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
MAX_FILES = 1000

Send = Callable[[str], AsyncGenerator[bytes, None]]
"""From a file's relative name to its pieces."""


class File(Struct, frozen=True):
    """A file that is carried."""

    relative: str
    nbytes: int
    sha256: str


class Offer(Struct, frozen=True):
    """A variant that can be carried."""

    manifest: Manifest
    files: tuple[File, ...]
    needs: tuple[str, ...] = ()
    """Variants of which it uses parts: they have to be there first."""


def offer(variant: Variant) -> Offer:
    """Return a variant's offer; raises RepositoryError, OSError.

    Reads the files that the manifest pins no digest of; weights that are not what it pins do not arrive.
    """
    wanted = variant.manifest
    if wanted.fused:
        raise RepositoryError(f"{wanted.name}: adapters are fused into it; register it on each node")
    lenders = {named.partition("/")[0] for named in wanted.parts.values()}
    if wanted.captions is not None:
        lenders.add(wanted.captions)
    manifest = replace(wanted, path=".", linked={}, seen={})
    files = tuple(_file(variant, path) for path in _paths(variant.folder))
    return Offer(manifest, files, tuple(sorted(lenders - {wanted.name})))


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in CARRIED and path.is_file())


def _file(variant: Variant, path: Path) -> File:
    relative = path.relative_to(variant.folder).as_posix()
    pinned = variant.manifest.digests.get(relative)
    if pinned is not None:
        return File(relative, path.stat().st_size, _hex(pinned))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(relative, path.stat().st_size, digest)


def _hex(pinned: Digest) -> str:
    return pinned.rpartition(":")[2]


def path_of(variant: Variant, relative: str) -> Path:
    """Return the path of a file that a variant's offer lists; raises RepositoryError for another."""
    known = {path.relative_to(variant.folder).as_posix(): path for path in _paths(variant.folder)}
    if relative not in known:
        raise RepositoryError(f"{variant.name}: no file {relative[:100]!r} is offered")
    return known[relative]


async def take(offered: Offer, known: Repository, root: Path, send: Send) -> None:
    """Put what is offered into `root`; raises RepositoryError, and then nothing of it stays."""
    name = offered.manifest.name
    _check(offered, known)
    with shelf.building(root, name) as folder:
        for file in offered.files:
            await _fetch(folder, file, send)
        await asyncio.to_thread(_finish, folder, offered)


def _check(offered: Offer, known: Repository) -> None:
    """Refuse an offer before anything is fetched; raises RepositoryError."""
    name = shelf.checked_name(offered.manifest.name)
    if name in known.variants:
        raise RepositoryError(f"{name} is registered here already")
    missing = sorted(set(offered.needs) - known.variants.keys())
    if missing:
        raise RepositoryError(f"{name} uses parts of {', '.join(missing)}, which is not here")
    if len(offered.files) > MAX_FILES:
        raise RepositoryError(f"{name} has {len(offered.files)} files; at most {MAX_FILES} are carried")
    for file in offered.files:
        parts = file.relative.split("/")
        if not all(_PART.fullmatch(part) for part in parts) or Path(file.relative).suffix not in CARRIED:
            raise RepositoryError(f"{name}: a file cannot be called {file.relative[:100]!r}")


async def _fetch(folder: Path, file: File, send: Send) -> None:
    path = folder / file.relative
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, nbytes = hashlib.sha256(), 0
    with path.open("xb") as target:
        async with aclosing(send(file.relative)) as pieces:
            async for piece in pieces:
                nbytes += len(piece)
                if nbytes > file.nbytes:
                    break
                digest.update(piece)
                await asyncio.to_thread(target.write, piece)
    if nbytes != file.nbytes or digest.hexdigest() != file.sha256:
        raise RepositoryError(f"{file.relative}: what came is not what was offered")


def _finish(folder: Path, offered: Offer) -> None:
    """Compare the weights with the manifest's own digests, and write it; raises RepositoryError."""
    sums = {file.relative: file.sha256 for file in offered.files}
    for relative, pinned in offered.manifest.digests.items():
        if _hex(pinned) != sums.get(relative):
            raise RepositoryError(f"{relative}: is not what the manifest pins")
    shelf.write(folder, offered.manifest)
    assert (folder / MANIFEST).is_file()


def encode(offered: Offer) -> bytes:
    """Return an offer as bytes."""
    return msgspec.msgpack.encode(offered)


def decode(data: bytes) -> Offer:
    """Return an offer; raises RepositoryError."""
    try:
        return msgspec.msgpack.decode(data, type=Offer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise RepositoryError(f"the offer of another node cannot be read: {error}") from None
