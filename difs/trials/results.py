"""The file of a trial: JSON Lines, written as it goes, so that what came is kept whatever happens."""

from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from difs.errors import ConfigError, InvalidRequest
from difs.trials.records import FORMAT, Line, Trial, assemble, decoder, encode

MAX_FILE_BYTES = 2 * 2**30


class Keeper:
    """Writes lines to a new file; use it as a `with` block. A file without a line is removed again."""

    def __init__(self, path: Path) -> None:
        """Make the file, and the folders above it; raises InvalidRequest when it is there already."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file: IO[bytes] = path.open("xb")
        except FileExistsError:
            words = f"{path} is there already; trials are not written over: choose another --out"
            raise InvalidRequest(words, field="out") from None
        self.path = path
        self.lines: list[Line] = []

    def keep(self, line: Line) -> None:
        """Write a line; it is in the system's hands when this returns."""
        self._file.write(encode(line) + b"\n")
        self._file.flush()
        self.lines.append(line)

    def trial(self) -> Trial:
        """Return the trial as far as it is written."""
        found = assemble(self.path.stem, self.lines)
        assert found is not None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.lines:
            self.path.unlink(missing_ok=True)


def read(path: Path) -> Trial:
    """Return the trial in a file; a last line that was cut off is left out. Raises ConfigError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes: no trial")
        raw = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    found = assemble(path.stem, [_decoded(path, i, text) for i, text in enumerate(raw[:-1], 1)])
    if found is None:
        raise ConfigError(f"{path.name} does not begin as a file of `difs bench` does")
    if found.header.format != FORMAT:
        told = f"{path.name} has format {found.header.format}, this DIFS reads {FORMAT}"
        raise ConfigError(told)
    kinds = len(found.header.workload.mix)
    for request in found.requests:
        if not 0 <= request.kind < kinds:
            raise ConfigError(f"{path.name}: request {request.number} is of a kind that the mix has not")
    return found


def _decoded(path: Path, number: int, text: bytes) -> Line:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}, line {number}: no line of a trial: {error}") from None
