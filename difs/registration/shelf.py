"""Puts an entry into the user's root: its files, then its manifest, all of it or nothing.

An entry is built in a folder whose name begins with a dot, which no scan looks at, and renamed when it
is whole and was read back as what it shall be.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import fields

from difs import repository
from difs.errors import RepositoryError
from difs.manifests import AdapterManifest, Manifest
from difs.messages import Name
from difs.repository import ADAPTER_MANIFEST, MANIFEST


@contextlib.contextmanager
def building(root: Path, name: str) -> Iterator[Path]:
    """Yield a folder to build the entry `name` in; it becomes `root/name` if nothing is raised within."""
    target = root / checked_name(name)
    if target.exists():
        raise taken(name)
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise taken(name) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checked_name(name: str) -> str:
    """Return a name that can be one; raises RepositoryError."""
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise RepositoryError(
            f"{name!r} cannot be a name: lower-case letters, digits, '.', '_' and '-';"
            " choose one with --name"
        ) from None


def taken(name: str) -> RepositoryError:
    """Return the error for a name that is there already."""
    return RepositoryError(f"the name {name!r} is taken; choose one with --name, or `difs unregister` it")


def bring(source: Path, target: Path, *, copy: bool) -> str | None:
    """Bring a weight file: link it, or copy it; returns the path that is linked to, if it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
        return None
    path = where(source)
    target.symlink_to(path)
    return path


def where(source: Path) -> str:
    """Return the absolute path that a link to `source` states; its own name stays as it is."""
    return str(source.parent.resolve() / source.name)


def write(folder: Path, manifest: Manifest | AdapterManifest) -> None:
    """Write a manifest and read it back; raises RepositoryError for what the repository would refuse."""
    is_variant = isinstance(manifest, Manifest)
    path = folder / (MANIFEST if is_variant else ADAPTER_MANIFEST)
    path.write_text(toml(_without_defaults(manifest)), "utf-8")
    read: Any = repository.read_variant if is_variant else repository.read_adapter
    if read(path, repository.Place(folder.parent, is_users=True)).manifest != manifest:
        raise AssertionError(f"{path.name} does not say what was written")


def _without_defaults(manifest: Manifest | AdapterManifest) -> dict[str, Any]:
    values = msgspec.to_builtins(manifest)
    return {f.name: values[f.name] for f in fields(manifest) if f.required or _differs(manifest, f)}


def _differs(manifest: Manifest | AdapterManifest, field: Any) -> bool:
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return bool(getattr(manifest, field.name) != default)


# ---- TOML ---------------------------------------------------------------------------------------


def toml(values: Mapping[str, Any]) -> str:
    """Return a table as TOML: plain values first, then each table."""
    plain = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not isinstance(v, Mapping)]
    tables = [
        f"\n[{_key(name)}]\n" + "".join(f"{_key(k)} = {_value(v)}\n" for k, v in table.items())
        for name, table in values.items()
        if isinstance(table, Mapping)
    ]
    return "\n".join(plain) + "\n" + "".join(tables)


def _key(text: str) -> str:
    return text if text.isascii() and text.replace("_", "").isalnum() else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(v) for v in value)}]"
    return repr(value)
