"""The database of batches: the one door to it. Every change is one transaction, synced before it counts.

Lines are waiting, done or failed; what is under way is waiting. Who calls what: see `difs.batches`.
"""

import errno
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from difs import config
from difs.batches import lines
from difs.batches.lines import Form, Line
from difs.errors import ConfigError, IdConflict, NotFound, Unavailable

SCHEMA = 1
BUSY_S = 10.0
MAX_WORDS = 500
"""Characters of an error that are kept."""

_TABLES = (
    """CREATE TABLE batches (
        id TEXT PRIMARY KEY, source TEXT NOT NULL, digest TEXT NOT NULL, folder TEXT NOT NULL,
        form TEXT NOT NULL, metadata INTEGER NOT NULL, home TEXT NOT NULL, submitted_at REAL NOT NULL,
        is_cancelled INTEGER NOT NULL DEFAULT 0, trouble TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE lines (
        batch TEXT NOT NULL REFERENCES batches (id), number INTEGER NOT NULL, line BLOB NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
        tries INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '', words TEXT NOT NULL DEFAULT '',
        finished_at REAL, PRIMARY KEY (batch, number)) WITHOUT ROWID""",
    "CREATE INDEX waiting ON lines (batch, tries, number) WHERE state = 'waiting'",
    "CREATE INDEX finished ON lines (batch, finished_at) WHERE state = 'done'",
    f"PRAGMA user_version = {SCHEMA}",
)

State = Literal["waiting", "finished", "cancelled"]


class Batch(Struct, frozen=True):
    """A file of prompts that was submitted."""

    id: str
    source: str
    """The name of the file that it was read from."""
    digest: str
    folder: str
    """Where its pictures go: an absolute path."""
    form: Form
    metadata: bool
    home: str
    """The run directory of the service that paints it."""
    submitted_at: float
    """Seconds since 1970, as all times here: they have to outlast the machine's uptime."""
    is_cancelled: bool = False
    trouble: str = ""
    """Why nothing of it is painted now, in words; empty: nothing is wrong."""


class Standing(Struct, frozen=True):
    """How far a batch is, in lines."""

    batch: Batch
    waiting: int
    done: int
    failed: int

    @property
    def total(self) -> int:
        """Return the lines of the batch."""
        return self.waiting + self.done + self.failed

    @property
    def state(self) -> State:
        """Return `finished` when every line ended, whether it was cancelled before or not."""
        if self.waiting == 0:
            return "finished"
        return "cancelled" if self.batch.is_cancelled else "waiting"


class Entry(Struct, frozen=True):
    """A line of a batch that is to be painted."""

    batch: Batch
    number: int
    line: Line
    tries: int

    @property
    def key(self) -> tuple[str, int]:
        """Return what tells it from all others."""
        return self.batch.id, self.number

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of its files."""
        return lines.files_of(self.line, self.number, self.batch.form)


class Failure(Struct, frozen=True):
    """A line that could not be painted, and why."""

    number: int
    code: str
    words: str


def place() -> Path:
    """Return where this user's database stands; it need not be there."""
    return config.data_home() / "batches" / "batches.sqlite"


class Store:
    """An open database."""

    def __init__(self, path: Path) -> None:
        """Open the database, made when there is none; raises OSError, ConfigError for another's file."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._path = path
        with self._told():
            self._base = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            with self._told():
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
                self._base.execute("PRAGMA secure_delete = ON")
            self._migrate()
        except BaseException:
            self._base.close()
            raise

    def _migrate(self) -> None:
        if self._schema() == 0:
            with self._writing() as base:
                if self._schema() == 0:  # still: another process may have been first
                    for statement in _TABLES:
                        base.execute(statement)
        if (found := self._schema()) != SCHEMA:
            raise ConfigError(f"{self._path} was written by another version of DIFS (schema {found})")

    def _schema(self) -> int:
        found: int = self._rows("PRAGMA user_version")[0][0]
        return found

    def close(self) -> None:
        """Close the database."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # ---- transactions ---------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Let a whole change happen, or nothing of it."""
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what SQLite says into errors that this house has."""
        try:
            yield
        except sqlite3.Error as error:
            raise _error_of(error, self._path) from None

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._told():
            return self._base.execute(query, values).fetchall()

    # ---- what is wanted -------------------------------------------------------------------------

    def add(self, batch: Batch, found: Sequence[tuple[int, Line]]) -> None:
        """Keep a batch with its numbered lines; raises IdConflict if another paints into its folder."""
        rows = [(batch.id, number, lines.encode(line)) for number, line in found]
        with self._writing() as base:
            others = (
                "SELECT id FROM batches WHERE folder = ? AND EXISTS"
                " (SELECT 1 FROM lines WHERE batch = batches.id AND state = 'waiting')"
            )
            if other := base.execute(others, (batch.folder,)).fetchone():
                raise IdConflict(
                    f"batch {other[0]} still paints into {batch.folder};"
                    " choose another folder, or cancel and forget it"
                )
            base.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                msgspec.structs.astuple(batch),
            )
            base.executemany("INSERT INTO lines (batch, number, line) VALUES (?, ?, ?)", rows)

    def cancel(self, batch: str) -> None:
        """Have no more of a batch painted; raises NotFound."""
        with self._writing() as base:
            _one(base.execute("UPDATE batches SET is_cancelled = 1 WHERE id = ?", (batch,)), batch)

    def resume(self, batch: str, home: str, lost: Sequence[int]) -> None:
        """Have all painted that has no picture: what waits, what failed, and the lines `lost`.

        The service in `home` does it from now on. Raises NotFound.
        """
        again = "UPDATE lines SET state = 'waiting', tries = 0, code = '', words = '', finished_at = NULL"
        with self._writing() as base:
            wanted = "UPDATE batches SET is_cancelled = 0, trouble = '', home = ? WHERE id = ?"
            _one(base.execute(wanted, (home, batch)), batch)
            base.execute(f"{again} WHERE batch = ? AND state = 'failed'", (batch,))
            rows = [(batch, number) for number in lost]
            base.executemany(f"{again} WHERE batch = ? AND number = ?", rows)

    def forget(self, batch: str) -> None:
        """Delete everything that is known of a batch; raises NotFound."""
        with self._writing() as base:
            base.execute("DELETE FROM lines WHERE batch = ?", (batch,))
            _one(base.execute("DELETE FROM batches WHERE id = ?", (batch,)), batch)
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")  # the log has the prompts, too

    # ---- what happened --------------------------------------------------------------------------

    def painted(self, entry: Entry, at: float) -> None:
        """Record that all files of a line are in place."""
        with self._writing() as base:
            base.execute(
                "UPDATE lines SET state = 'done', code = '', words = '', finished_at = ?"
                " WHERE batch = ? AND number = ? AND state = 'waiting'",
                (at, *entry.key),
            )
            base.execute(
                "UPDATE batches SET trouble = '' WHERE id = ? AND trouble != ''", (entry.batch.id,)
            )

    def tried(self, entry: Entry, code: str, words: str, *, is_final: bool) -> None:
        """Record that a line ended with an error; unless `is_final`, it waits for another try."""
        with self._writing() as base:
            base.execute(
                "UPDATE lines SET state = ?, tries = tries + 1, code = ?, words = ?"
                " WHERE batch = ? AND number = ? AND state = 'waiting'",
                ("failed" if is_final else "waiting", code, words[:MAX_WORDS], *entry.key),
            )

    def troubled(self, batch: str, words: str) -> None:
        """Record why nothing of a batch is painted now; empty words: nothing is wrong any more."""
        with self._writing() as base:
            base.execute("UPDATE batches SET trouble = ? WHERE id = ?", (words[:MAX_WORDS], batch))

    # ---- questions ------------------------------------------------------------------------------

    def take(self, home: str, count: int, resting: Collection[str] = ()) -> list[Entry]:
        """Return at most `count` lines that wait in `home`, those first that had the fewest tries.

        Older batches go first; those `resting` are left out.
        """
        entries: list[Entry] = []
        for batch in self.open_in(home):
            if batch.id not in resting:
                rows = self._rows(
                    "SELECT number, line, tries FROM lines WHERE batch = ? AND state = 'waiting'"
                    " ORDER BY tries, number LIMIT ?",
                    *(batch.id, count),
                )
                entries += _entries(batch, rows)
        return sorted(entries, key=lambda entry: entry.tries)[:count]

    def open_in(self, home: str) -> list[Batch]:
        """Return the batches of which lines are to be painted in `home`, the oldest first."""
        query = (
            "SELECT * FROM batches WHERE home = ? AND is_cancelled = 0 AND EXISTS"
            " (SELECT 1 FROM lines WHERE batch = batches.id AND state = 'waiting')"
            " ORDER BY submitted_at, id"
        )
        return self._batches(query, home)

    def _batches(self, query: str, *values: Any) -> list[Batch]:
        rows = self._rows(query, *values)
        names = Batch.__struct_fields__
        return [msgspec.convert(dict(zip(names, row, strict=True)), Batch, strict=False) for row in rows]

    def standings(self) -> list[Standing]:
        """Return how far each batch is, the oldest first."""
        counted = dict[str, dict[str, int]]()
        for name, state, count in self._rows("SELECT batch, state, COUNT(*) FROM lines GROUP BY 1, 2"):
            counted.setdefault(name, {})[state] = count
        found = self._batches("SELECT * FROM batches ORDER BY submitted_at, id")
        return [_standing(batch, counted.get(batch.id, {})) for batch in found]

    def standing(self, batch: str) -> Standing:
        """Return how far a batch is; raises NotFound."""
        for found in self.standings():
            if found.batch.id == batch:
                return found
        raise _unknown(batch)

    def failures(self, batch: str) -> list[Failure]:
        """Return the lines that ended with an error."""
        query = (
            "SELECT number, code, words FROM lines WHERE batch = ? AND state = 'failed' ORDER BY number"
        )
        return [Failure(*row) for row in self._rows(query, batch)]

    def done(self, batch: Batch) -> list[Entry]:
        """Return the lines whose files were put in place."""
        query = "SELECT number, line, tries FROM lines WHERE batch = ? AND state = 'done'"
        return _entries(batch, self._rows(query, batch.id))

    def finished_at(self, batch: str, count: int) -> list[float]:
        """Return when the last `count` lines were done, the latest first."""
        query = (
            "SELECT finished_at FROM lines WHERE batch = ? AND state = 'done'"
            " ORDER BY finished_at DESC LIMIT ?"
        )
        return [row[0] for row in self._rows(query, batch, count)]


def _standing(batch: Batch, counts: dict[str, int]) -> Standing:
    return Standing(batch, counts.get("waiting", 0), counts.get("done", 0), counts.get("failed", 0))


def _entries(batch: Batch, rows: Sequence[tuple[Any, ...]]) -> list[Entry]:
    return [Entry(batch, number, lines.decode(line), tries) for number, line, tries in rows]


def _one(cursor: sqlite3.Cursor, batch: str) -> None:
    if cursor.rowcount != 1:
        raise _unknown(batch)


def _unknown(batch: str) -> NotFound:
    return NotFound(f"no batch {batch!r}; `difs batch status` shows all", field="batch")


def _error_of(error: sqlite3.Error, path: Path) -> Exception:
    """Return the error of this house that SQLite's stands for."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return Unavailable(f"{path} is busy for more than {BUSY_S:g} s; try again")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(f"{path} is damaged ({error}); move it away, and submit again what was open")
    number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(
        code, errno.EIO
    )
    return OSError(number, os.strerror(number) if number != errno.EIO else str(error), str(path))
