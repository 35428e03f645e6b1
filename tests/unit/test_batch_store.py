"""The database of batches: nothing lost, nothing twice, at whatever moment its process is killed."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from difs.batches.lines import Line
from difs.batches.store import MAX_WORDS, SCHEMA, Batch, Entry, Failure, Store
from difs.errors import ConfigError, IdConflict, NotFound, Unavailable

HOME = "/run/difs"
FAST = "/dev/shm"
"""Where an fsync costs nothing."""


def batch(name: str = "b", folder: str = "") -> Batch:
    return Batch(
        id=name,
        source="prompts.jsonl",
        digest=f"digest of {name}",
        folder=folder or f"/pictures/{name}",
        form="png",
        metadata=False,
        home=HOME,
        submitted_at=float(len(name)),
    )


def numbered(count: int) -> list[tuple[int, Line]]:
    return [(i, Line(f"prompt {i}", seed=i)) for i in range(1, count + 1)]


@pytest.fixture
def path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=FAST))
    yield folder / "private" / "batches.sqlite"
    shutil.rmtree(folder)


def counts(store: Store, name: str = "b") -> tuple[int, int, int]:
    found = store.standing(name)
    return found.waiting, found.done, found.failed


# ---- plain behaviour ----------------------------------------------------------------------------


def test_what_was_kept_is_found_by_the_next_process(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(3))
    with Store(path) as store:
        entries = store.take(HOME, 9)
        assert [(e.key, e.line, e.tries) for e in entries] == [
            (("b", number), line, 0) for number, line in numbered(3)
        ]
        assert entries[0].batch == batch()
        assert store.take("/elsewhere", 9) == []


def test_nobody_else_may_read_the_prompts(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(1))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_failed_often_comes_after_the_others(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(3))
        first, second, _ = store.take(HOME, 3)
        store.tried(first, "engine_failed", "x" * 9999, is_final=False)
        store.tried(second, "unknown_name", "no such variant", is_final=True)
        assert [(e.number, e.tries) for e in store.take(HOME, 9)] == [(3, 0), (1, 1)]
        assert store.failures("b") == [Failure(2, "unknown_name", "no such variant")]
        store.tried(first, "engine_failed", "x" * 9999, is_final=True)
        assert len(store.failures("b")[0].words) == MAX_WORDS


def test_a_line_ends_once(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(2))
        one, two = store.take(HOME, 2)
        store.painted(one, 5.0)
        store.tried(one, "late", "a late report", is_final=True)
        store.tried(two, "bad", "no", is_final=True)
        store.painted(two, 6.0)
        assert counts(store) == (0, 1, 1)
        assert store.finished_at("b", 9) == [5.0]
        assert store.standing("b").state == "finished"


def test_older_batches_go_first_and_resting_ones_are_left_out(path: Path) -> None:
    with Store(path) as store:
        store.add(batch("bb"), numbered(2))
        store.add(batch("b"), numbered(2))
        assert [e.key for e in store.take(HOME, 3)] == [("b", 1), ("b", 2), ("bb", 1)]
        assert [e.key for e in store.take(HOME, 3, resting=["b"])] == [("bb", 1), ("bb", 2)]


def test_trouble_is_told_until_something_is_painted(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(2))
        store.troubled("b", "no room")
        assert store.standing("b").batch.trouble == "no room"
        store.painted(store.take(HOME, 1)[0], 1.0)
        assert store.standing("b").batch.trouble == ""


def test_a_cancelled_batch_is_taken_up_by_another_service(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(3))
        one, two, _ = store.take(HOME, 3)
        store.painted(one, 1.0)
        store.tried(two, "bad", "no", is_final=True)
        store.cancel("b")
        assert (store.open_in(HOME), store.standing("b").state) == ([], "cancelled")
        store.resume("b", "/other", lost=[1])
        assert store.open_in(HOME) == []
        assert [(e.number, e.tries) for e in store.take("/other", 9)] == [(1, 0), (2, 0), (3, 0)]


def test_names_that_are_not_there_are_told(path: Path) -> None:
    with Store(path) as store:
        for ask in (store.cancel, store.forget, store.standing, lambda b: store.resume(b, HOME, [])):
            with pytest.raises(NotFound, match="no batch 'x'"):
                ask("x")


def test_two_who_submit_at_the_same_moment_do_not_share_a_folder(path: Path) -> None:
    with Store(path) as one, Store(path) as two:
        one.add(batch("a", "/pictures"), numbered(1))
        with pytest.raises(IdConflict, match="batch a still paints into /pictures"):
            two.add(batch("c", "/pictures"), numbered(1))
        assert [s.batch.id for s in two.standings()] == ["a"]


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_full_disk_is_an_error_for_people_and_nothing_is_half_there(path: Path) -> None:
    with Store(path) as store:
        pages = store._rows("PRAGMA page_count")[0][0]
        store._base.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(OSError, match="No space left on device") as caught:
            store.add(batch(), numbered(2000))
        assert caught.value.filename == str(path)
        assert store.standings() == []
        store.add(batch(), numbered(2))
        assert counts(store) == (2, 0, 0)


@pytest.mark.parametrize("data", [b"no database at all, " * 300, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_database_is_named_and_not_overwritten(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"batches\.sqlite is damaged"):
        Store(path)
    assert path.read_bytes() == data


def test_another_versions_database_is_left_alone(path: Path) -> None:
    Store(path).close()
    base = sqlite3.connect(path)
    base.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    base.close()
    with pytest.raises(ConfigError, match="another version of DIFS"):
        Store(path)


def test_a_link_is_not_followed(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Store(path)
    assert not (path.parent / "elsewhere").exists()


def test_a_busy_database_says_so(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), numbered(1))
        store._base.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="is busy"):
            store.cancel("b")
        other.close()
        store.cancel("b")


def test_forgotten_prompts_are_gone_from_the_disk(path: Path) -> None:
    with Store(path) as store:
        store.add(batch(), [(1, Line("a very private wish"))])
        store.forget("b")
        assert store.standings() == []
        assert b"private wish" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


# ---- killed at any moment -----------------------------------------------------------------------


class Killed(RuleBasedStateMachine):
    """Commands and a worker, any of them killed within any transaction, between any two steps.

    What a kill leaves is what SQLite rolls back: a statement that is interrupted after so many steps of
    its virtual machine, or a process that forgets everything. The folder is a set of names that counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=FAST))
        self.store = Store(self.home / "batches.sqlite")
        self.lines: dict[str, int] = {}
        self.files: dict[tuple[str, int], int] = {}
        self.ended: dict[tuple[str, int], str] = {}
        self.cancelled: set[str] = set()
        self.held: list[Entry] = []

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.home)

    def attempt(self, change: Callable[[], None], steps: int, is_there: Callable[[], bool]) -> bool:
        """Make a change, killed after `steps` of SQLite's if it has so many; tell whether it held.

        Killed at the very end of a commit, it may have: then the next process finds it, whole.
        """
        if steps:
            left = iter(range(steps))
            self.store._base.set_progress_handler(lambda: next(left, None) is None, 1)
        try:
            change()
        except OSError:
            self.reopened()
            return is_there()
        self.store._base.set_progress_handler(None, 1)
        return True

    def reopened(self) -> None:
        self.store.close()
        self.store = Store(self.home / "batches.sqlite")
        self.held = []

    def line(self, entry: Entry) -> tuple[str, int]:
        """Return state and tries of a line."""
        query = "SELECT state, tries FROM lines WHERE batch = ? AND number = ?"
        ((state, tries),) = self.store._rows(query, *entry.key)
        return state, tries

    steps = st.one_of(st.just(0), st.integers(1, 400))

    @rule()
    def kill_everything(self) -> None:
        self.reopened()

    @precondition(lambda self: len(self.lines) < 3)
    @rule(count=st.integers(1, 6), steps=steps)
    def submit(self, count: int, steps: int) -> None:
        name = f"batch-{len(self.lines)}"
        change = lambda: self.store.add(batch(name), numbered(count))  # noqa: E731
        if self.attempt(change, steps, lambda: bool(self.store.standings()[len(self.lines) :])):
            self.lines[name] = count

    @rule(count=st.integers(1, 8))
    def take(self, count: int) -> None:
        self.held = self.store.take(HOME, count)
        for entry in self.held:
            assert entry.key not in self.ended
            assert entry.batch.id not in self.cancelled
        assert len({entry.key for entry in self.held}) == len(self.held)

    @precondition(lambda self: self.held)
    @rule()
    def put_the_file_in_place(self) -> None:
        entry = self.held[0]
        if entry.key not in self.files:  # as the runner looks first
            self.files[entry.key] = 1

    @precondition(lambda self: self.held and self.held[0].key in self.files)
    @rule(steps=steps)
    def record(self, steps: int) -> None:
        entry = self.held.pop(0)
        change = lambda: self.store.painted(entry, 1.0)  # noqa: E731
        if self.attempt(change, steps, lambda: self.line(entry)[0] == "done"):
            self.ended.setdefault(entry.key, "done")

    @precondition(lambda self: self.held and self.held[0].key not in self.files)
    @rule(steps=steps, is_final=st.booleans())
    def fail(self, steps: int, is_final: bool) -> None:
        entry = self.held.pop(0)
        change = lambda: self.store.tried(entry, "bad", "no", is_final=is_final)  # noqa: E731
        after = entry.tries + 1
        if self.attempt(change, steps, lambda: self.line(entry)[1] == after) and is_final:
            self.ended.setdefault(entry.key, "failed")

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), steps=steps)
    def cancel(self, data: st.DataObject, steps: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.lines)))
        is_there = lambda: self.store.standing(name).batch.is_cancelled  # noqa: E731
        if self.attempt(lambda: self.store.cancel(name), steps, is_there):
            self.cancelled.add(name)
            self.held = [entry for entry in self.held if entry.batch.id != name]

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), steps=steps)
    def resume(self, data: st.DataObject, steps: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.lines)))

        def is_there() -> bool:
            return not (self.store.standing(name).batch.is_cancelled or self.store.failures(name))

        if self.attempt(lambda: self.store.resume(name, HOME, []), steps, is_there):
            self.cancelled.discard(name)
            failed = [key for key, end in self.ended.items() if key[0] == name and end == "failed"]
            for key in failed:
                del self.ended[key]

    @invariant()
    def every_line_is_there_once_and_as_it_ended(self) -> None:
        found = {standing.batch.id: standing for standing in self.store.standings()}
        assert found.keys() == self.lines.keys()
        for name, count in self.lines.items():
            ends = [end for key, end in self.ended.items() if key[0] == name]
            assert found[name].total == count
            assert (found[name].done, found[name].failed) == (ends.count("done"), ends.count("failed"))
            assert found[name].batch.is_cancelled is (name in self.cancelled)

    @invariant()
    def what_waits_is_what_has_not_ended(self) -> None:
        waiting = {entry.key for entry in self.store.take(HOME, 99)}
        lines = {(name, i) for name, count in self.lines.items() for i in range(1, count + 1)}
        assert waiting == {k for k in lines if k not in self.ended and k[0] not in self.cancelled}


Killed.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestKilled = Killed.TestCase


def test_a_kill_within_a_submission_leaves_all_of_it_or_nothing(path: Path) -> None:
    """By copies of the files as they are on the disk at each step: what a dead machine would leave."""
    with Store(path) as store:
        store.add(batch("before"), numbered(1))
        seen = set()

        def copy() -> int:
            copied = path.parent.parent / "copy"
            shutil.rmtree(copied, ignore_errors=True)
            copied.mkdir()
            for file in (path, Path(f"{path}-wal")):
                shutil.copy(file, copied / file.name)
            with Store(copied / path.name) as other:
                seen.add(tuple((s.batch.id, s.total) for s in other.standings()))
            return 0

        store._base.set_progress_handler(copy, 97)
        store.add(batch("big"), numbered(50))
        store._base.set_progress_handler(None, 1)
        copy()
    assert seen == {(("before", 1),), (("big", 50), ("before", 1))}


def test_rows_of_a_batch_are_typed_again_when_they_are_read(path: Path) -> None:
    with Store(path) as store:
        store.add(replace(batch(), form="gif"), numbered(1))
        with pytest.raises(ValueError, match="gif"):
            store.standings()
    os.stat(path)
