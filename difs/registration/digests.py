"""One pass over a file of weights: its digest, and those of the parts that others may have, too."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from msgspec import Struct

from difs.errors import RepositoryError
from difs.manifests import Digest, Seen
from difs.registration.headers import Header, Tensor, in_order

CHUNK_BYTES = 4 * 2**20
Progress = Callable[[int], None]
"""Told of each chunk's bytes."""


class Read(Struct, frozen=True):
    """What a pass over a file found."""

    digest: Digest
    seen: Seen
    contents: Mapping[str, Digest] = {}


def of_file(path: Path, tell: Progress) -> Read:
    """Return a file's digest; raises OSError, or RepositoryError if it changes meanwhile."""
    with path.open("rb") as file:
        before, whole = _seen(path), hashlib.sha256()
        for chunk in _chunks(file, before.bytes):
            whole.update(chunk)
            tell(len(chunk))
    return Read(_text(whole.digest()), _unchanged(path, before))


def of_parts(path: Path, header: Header, parts: Mapping[str, tuple[str, ...]], tell: Progress) -> Read:
    """Return a file's digest, and one for the tensors of each of `parts`: how their keys begin.

    Two files whose parts hold the same numbers give the part the same digest, whatever else they hold.
    """
    with path.open("rb") as file:
        before, whole = _seen(path), hashlib.sha256()
        if before.bytes != header.file_bytes:
            raise RepositoryError(f"{path.name} changed while it was read")
        for chunk in _chunks(file, header.data_start):
            whole.update(chunk)
            tell(len(chunk))
        found: dict[str, list[bytes]] = {part: [] for part in parts}
        for key, tensor in in_order(header):
            owner = next((p for p, starts in parts.items() if key.startswith(starts)), None)
            own = hashlib.sha256(_describe(key, parts.get(owner or "", ()), tensor))
            begin, stop = tensor.data_offsets
            for chunk in _chunks(file, stop - begin):
                whole.update(chunk)
                if owner is not None:
                    own.update(chunk)
                tell(len(chunk))
            if owner is not None:
                found[owner].append(own.digest())
    contents = {part: _text(hashlib.sha256(b"".join(sorted(ds))).digest()) for part, ds in found.items()}
    return Read(_text(whole.digest()), _unchanged(path, before), contents)


def has_changed(path: Path, seen: Seen) -> bool:
    """Whether a file looks another than when it was registered; no look at what it holds."""
    try:
        return _seen(path) != seen
    except OSError:
        return True


def _describe(key: str, starts: tuple[str, ...], tensor: Tensor) -> bytes:
    start = next((s for s in starts if key.startswith(s)), "")
    return f"{key.removeprefix(start)} {tensor.dtype} {tensor.shape} ".encode()


def _text(digest: bytes) -> Digest:
    return f"sha256:{digest.hex()}"


def _chunks(file: IO[bytes], nbytes: int) -> Iterator[bytes]:
    while nbytes > 0:
        chunk = file.read(min(CHUNK_BYTES, nbytes))
        if not chunk:
            raise RepositoryError("the file became shorter while it was read")
        nbytes -= len(chunk)
        yield chunk


def _seen(path: Path) -> Seen:
    info = path.stat()
    return Seen(info.st_size, info.st_mtime_ns)


def _unchanged(path: Path, before: Seen) -> Seen:
    if _seen(path) != before:
        raise RepositoryError(f"{path.name} changed while it was read; register it when it is complete")
    return before
