"""The file of tokens: a `name sha256 [admin]` per line, mode 0600. A token is shown once, never kept."""

import os
import re
import secrets
import stat
from pathlib import Path

from difs.doors import guard
from difs.errors import ConfigError

_LINE = re.compile(r"^([a-z0-9][a-z0-9._\-]{0,63}) ([0-9a-f]{64})( admin)?\Z")
MAX_TOKENS = 1000
Entries = tuple[guard.Token, ...]


def load(path: Path) -> Entries:
    """Return the tokens in a file; raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(f"http.token_file: cannot read {path}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise ConfigError(f"http.token_file: {path} must be a file of yours with mode 0600")
        text = file.read(MAX_TOKENS * 200).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    matches = [_LINE.match(line) for line in lines if line and not line.startswith("#")]
    if any(match is None for match in matches) or len(matches) > MAX_TOKENS:
        raise ConfigError(
            f"http.token_file: {path} must have lines of a name and a digest;"
            " `difs http-token NAME FILE` writes them"
        )
    found = [match.groups() for match in matches if match is not None]
    return tuple(guard.Token(name, digest, mark is not None) for name, digest, mark in found)


def add(path: Path, name: str, *, is_admin: bool = False) -> str:
    """Make a token, append its digest to the file and return it; raises ConfigError."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {guard.digest(token)}{' admin' if is_admin else ''}"
    if _LINE.match(line) is None:
        raise ConfigError(f"{name!r}: a token's name has small letters, digits and .-_")
    if path.exists() and any(known.name == name for known in load(path)):
        raise ConfigError(f"{path} has a token of the name {name} already; delete its line to revoke it")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(fd, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return token


class TokenFile:
    """A file of tokens that is read again when it changed, so that a token can be revoked."""

    def __init__(self, path: Path) -> None:
        """Read it; raises ConfigError."""
        self._path = path
        self._seen = self._look()
        self._entries = load(path)

    def entries(self) -> Entries:
        """Return what is in it now; a file that cannot be read any more has no tokens."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._entries = load(self._path)
            except ConfigError:
                self._entries = ()
        return self._entries

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            info = self._path.lstat()
        except OSError:
            return None
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode
