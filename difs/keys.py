"""CURVE keys on disk: the service's own, the public keys that may come in, and a client's key file.

The only door to these files. All are private to their user (folder 0700, files 0600). A client's secret
is written once, into its key file, and kept nowhere else: the service knows public keys only. What a key
may do is decided by `difs.broker.gate`.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec
import zmq
from msgspec import Struct
from zmq.utils import z85

from difs.errors import ConfigError, UnknownName
from difs.key_files import MAX_KEY_FILE_BYTES, KeyFile, Listed, Pair, parse
from difs.messages import Name

T = TypeVar("T")


class Row(Struct, frozen=True):
    """A line of `difs keys list`; `last` is when the service last let it in, empty for never."""

    name: str
    created: str
    last: str
    is_admin: bool


def user_id(public: str) -> str:
    """Return what libzmq shall call who comes with this key: its 32 bytes in hexadecimal."""
    return bytes(z85.decode(public.encode("ascii"))).hex()


def pair() -> Pair:
    """Return new keys."""
    public, secret = zmq.curve_keypair()
    return Pair(public.decode("ascii"), secret.decode("ascii"))


def read_key_file(path: Path) -> KeyFile:
    """Return a client's key file; raises ConfigError, also when others may read it."""
    return _checked(_read(path, KeyFile), path)


class KeyRing:
    """The folder of a service's keys."""

    def __init__(self, folder: Path) -> None:
        """Name the paths below `folder`; nothing is touched."""
        self.folder = folder
        self._server = folder / "server.json"
        self._allowed = folder / "allowed"
        self._used = folder / "used"

    def make(self) -> None:
        """Make the folder private to this user; raises ConfigError when it cannot be."""
        for folder in (self.folder, self._allowed, self._used):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"network.keys: cannot make {folder}: {error.strerror}") from None
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
                raise ConfigError(f"network.keys: {folder} must be a folder of yours with mode 0700")

    def server(self) -> Pair:
        """Return the service's own keys, made at the first call; raises ConfigError."""
        if not self._server.exists():
            with contextlib.suppress(FileExistsError):  # another process was quicker: its keys count
                _write_new(self._server, pair())
        return _checked(_read(self._server, Pair), self._server)

    def new(self, name: str, *, is_admin: bool = False, address: str | None = None) -> KeyFile:
        """Let a new key in; raises ConfigError where the name is taken or none."""
        server, made = self.server(), pair()
        listed = Listed(name, made.public, datetime.now(UTC).isoformat(timespec="seconds"), is_admin)
        try:
            msgspec.convert(name, Name)
            _write_new(self._allowed / f"{name}.json", listed)
        except msgspec.ValidationError:
            raise ConfigError(f"{name!r} is no name: a-z, 0-9, '.', '_' and '-', at most 64") from None
        except FileExistsError:
            raise ConfigError(f"there is a key {name!r} already; revoke it first") from None
        return KeyFile(name, made.public, made.secret, server.public, address)

    def revoke(self, name: str) -> None:
        """Let a key in no more; raises UnknownName."""
        known = {listed.name for listed in self.listed()}
        if name not in known:
            raise UnknownName(f"no key {name!r}; there is: {', '.join(sorted(known)) or 'none'}")
        for folder in (self._allowed, self._used):
            (folder / f"{name}.json").unlink(missing_ok=True)

    def listed(self) -> tuple[Listed, ...]:
        """Return the keys that may come in, by name; raises ConfigError when one cannot be read."""
        found = []
        for path in sorted(self._allowed.glob("[!.]*.json")):
            with contextlib.suppress(FileNotFoundError):  # revoked meanwhile
                listed = _read(path, Listed)
                if listed.name != path.stem:
                    raise ConfigError(f"{path} is of {listed.name!r}; move or remove it")
                found.append(listed)
        return tuple(found)

    def allowed(self) -> Mapping[str, Listed]:
        """Return the keys that may come in by their `user_id`; raises ConfigError."""
        return MappingProxyType({user_id(listed.public): listed for listed in self.listed()})

    def rows(self) -> list[Row]:
        """Return what `difs keys list` shows."""
        return [Row(k.name, k.created, self._last(k.name), k.is_admin) for k in self.listed()]

    def stamp(self) -> object:
        """Return what is another once a key came or went; raises OSError."""
        with os.scandir(self._allowed) as entries:
            return sorted((entry.name, entry.inode(), entry.stat().st_mtime_ns) for entry in entries)

    def note_use(self, name: str) -> None:
        """Remember that a key was let in now."""
        with contextlib.suppress(OSError):  # a full disk shuts nobody out
            (self._used / f"{name}.json").touch(mode=0o600)

    def _last(self, name: str) -> str:
        try:
            seconds = (self._used / f"{name}.json").stat().st_mtime
        except OSError:
            return ""
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write_key_file(path: Path, key: KeyFile) -> None:
    """Write a client's key file, for its user only; raises FileExistsError rather than overwrite."""
    _write_new(path, key)


def encoded(key: Struct) -> bytes:
    """Return a key as its file has it."""
    return msgspec.json.format(msgspec.json.encode(key), indent=2) + b"\n"


def _write_new(path: Path, value: Struct) -> None:
    """Write a file that is not there yet, whole or not at all; raises FileExistsError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(encoded(value))
        os.link(draft, path)
    finally:
        draft.unlink()


def _read(path: Path, kind: type[T]) -> T:
    """Return what a key's file says; raises ConfigError, and FileNotFoundError where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077:
            raise ConfigError(f"{path} must be a file for your eyes only: chmod 600 {path}")
        return parse(file.read(MAX_KEY_FILE_BYTES + 1), kind, path.name)


P = TypeVar("P", Pair, KeyFile)


def _checked(keys: P, path: Path) -> P:
    """Return `keys` if their halves belong together; raises ConfigError."""
    try:
        fits = zmq.curve_public(keys.secret.encode("ascii")).decode("ascii") == keys.public
    except zmq.ZMQError:
        fits = False
    if not fits:
        raise ConfigError(f"{path} is damaged: its public key is not that of its secret")
    return keys
