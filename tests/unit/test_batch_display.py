"""What people are told of batches."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from difs import terminal
from difs.batches import display
from difs.batches.lines import Line
from difs.batches.store import Batch, Store

HOSTILE = "/tmp/[/red] [bold]x"
"""A name that rich would take for its markup."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    batch = Batch("b", "[/p].jsonl", "digest", HOSTILE, "png", True, str(tmp_path), 1.0)
    with Store(tmp_path / "batches.sqlite") as opened:
        opened.add(batch, [(i, Line("x", seed=1)) for i in range(1, 31)])
        yield opened


def shown(store: Store) -> str:
    said: list[str] = []
    display.show(display.report_of(store, "b"), "no DIFS runs", said.append)
    return "\n".join(said)


def test_how_far_it_is_and_how_long_it_takes(store: Store) -> None:
    for i, entry in enumerate(store.take(store.standing("b").batch.home, 10)):
        store.painted(entry, 10.0 * i)
    assert "waiting, 10 of 30 done, about 3 min 20 s left" in shown(store)
    assert "no DIFS runs" in shown(store)
    store.cancel("b")
    assert "cancelled, 10 of 30 done\n" in shown(store)
    assert "`difs batch resume b` goes on" in shown(store)
    assert "no DIFS runs" not in shown(store)


def test_what_went_wrong_is_told_by_line_but_not_a_thousand_times(store: Store) -> None:
    for entry in store.take(store.standing("b").batch.home, 12):
        store.tried(entry, "unknown_name", "no such variant", is_final=True)
    assert "0 of 30 done, 12 failed" in shown(store)
    assert "line 10 failed (unknown_name): no such variant" in shown(store)
    assert "line 11" not in shown(store)
    assert "and 2 other lines failed" in shown(store)


def test_trouble_is_told_and_no_time_is_promised(store: Store) -> None:
    for i, entry in enumerate(store.take(store.standing("b").batch.home, 10)):
        store.painted(entry, float(i))
    store.troubled("b", "No space left on device")
    assert "it rests, and goes on by itself: No space left on device" in shown(store)
    assert "left" not in shown(store).splitlines()[0]
    assert display.rows_of(store.standings())[0][1] == "resting"


def test_names_are_shown_as_they_are(store: Store) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(terminal.table(["x"] * 7, display.rows_of(store.standings())))
    assert isinstance(console.file, io.StringIO)
    assert HOSTILE in console.file.getvalue()
    assert "[/p].jsonl" in console.file.getvalue()


def test_the_bar_ends_with_the_batch_and_takes_any_name(store: Store) -> None:
    store.troubled("b", f"No space left on device: {HOSTILE}")
    for entry in store.take(store.standing("b").batch.home, 29):
        store.tried(entry, "bad", HOSTILE, is_final=True)

    def hint() -> str:
        for entry in store.take(store.standing("b").batch.home, 1):
            store.tried(entry, "bad", "no", is_final=True)
        return HOSTILE

    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    assert display.watch(store, "b", console, hint).state == "finished"
