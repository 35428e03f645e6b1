"""The files that DIFS writes beside a variant's manifest: where they stand, read and written whole.

Where that folder cannot be written, they stand in a folder of this user's own. What they say is others'
business; a name here is a constant or made of digits, never taken from a request.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from difs import config, whole

MAX_BYTES = 4 * 2**20
"""A larger file is not one of ours."""


def read(home: Path, name: str) -> Iterator[bytes]:
    """Yield the file `name` as it stands beside the manifest in `home`, and apart from it."""
    for path in (home / name, _apart(home) / name):
        with suppress(OSError), path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
            if len(data) <= MAX_BYTES:
                yield data


def place(home: Path, name: str) -> Path:
    """Return where the file `name` stands: beside the manifest in `home`, unless it is only apart."""
    beside, apart = home / name, _apart(home) / name
    return apart if apart.is_file() and not beside.is_file() else beside


def write(home: Path, name: str, data: bytes) -> Path:
    """Write the file `name` beside the manifest in `home`, else apart; returns its path.

    A reader sees the old file or the new one, never a part. Raises OSError where neither place will do.
    """
    try:
        return _replace(home / name, data, within=home)
    except OSError:
        apart = _apart(home)
        apart.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _replace(apart / name, data, within=apart)


def _replace(path: Path, data: bytes, *, within: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    if not path.parent.resolve().is_relative_to(within.resolve()):
        raise NotADirectoryError(f"{path.parent} leads out of {within}")
    whole.write(path, data)
    return path


def _apart(home: Path) -> Path:
    """Return the folder that stands in for one that cannot be written."""
    return config.data_home() / "variants" / sha256(os.fsencode(home.absolute())).hexdigest()[:16]
