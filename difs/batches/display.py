"""What people see of batches: a table of all, the story of one, and a bar with the time left."""

import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from difs.batches import decisions
from difs.batches.store import Failure, Standing, Store
from difs.profiling.display import duration

WATCH_S = 0.5
SHOWN_FAILURES = 10


class Report(Struct, frozen=True):
    """One batch, for machines and people."""

    standing: Standing
    state: str
    failures: tuple[Failure, ...]
    left_s: float | None
    """Seconds until its end if it goes on as before; None: not known, or it does not go on."""


def report_of(store: Store, batch: str) -> Report:
    """Return what is known of a batch; raises NotFound."""
    standing = store.standing(batch)
    times = store.finished_at(batch, decisions.PACE_OVER)
    goes_on = standing.state == "waiting" and not standing.batch.trouble
    left_s = decisions.left_s(times, standing.waiting) if goes_on else None
    return Report(standing, standing.state, tuple(store.failures(batch)), left_s)


def rows_of(standings: Sequence[Standing]) -> list[tuple[str, ...]]:
    """Return a row of the table for each batch: id, state, done, waiting, failed, file, folder."""
    return [
        (
            s.batch.id,
            "resting" if s.batch.trouble and s.state == "waiting" else s.state,
            str(s.done),
            str(s.waiting),
            str(s.failed),
            escape(s.batch.source),
            escape(s.batch.folder),
        )
        for s in standings
    ]


def show(report: Report, hint: str, say: Callable[[str], None]) -> None:
    """Say how far a batch is; `hint` tells in words why nothing goes on, or nothing."""
    for words in words_of(report):
        say(words)
    if hint and report.state == "waiting":
        say(f"  {hint}")


def words_of(report: Report) -> list[str]:
    """Return lines for people about one batch."""
    found, batch = report.standing, report.standing.batch
    left = f", about {duration(report.left_s)} left" if report.left_s and report.left_s >= 1 else ""
    said = [
        f"batch {batch.id} ({batch.source}): {report.state}, {found.done} of {found.total} done"
        f"{f', {found.failed} failed' if found.failed else ''}{left}",
        f"  into {batch.folder}",
    ]
    if batch.trouble and report.state == "waiting":
        said.append(f"  it rests, and goes on by itself: {batch.trouble}")
    said += [f"  line {f.number} failed ({f.code}): {f.words}" for f in report.failures[:SHOWN_FAILURES]]
    if len(report.failures) > SHOWN_FAILURES:
        said.append(f"  and {len(report.failures) - SHOWN_FAILURES} other lines failed: --json shows all")
    if report.failures or report.state == "cancelled":
        said.append(f"  `difs batch resume {batch.id}` goes on with all that has no picture")
    return said


def watch(store: Store, batch: str, console: Console, hint: Callable[[], str]) -> Report:
    """Show a bar until nothing of a batch is waited for; Ctrl-C ends the looking, not the batch."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"batch {batch}", total=None, said="")
        while True:
            report = report_of(store, batch)
            found = report.standing
            ended = found.done + found.failed
            bar.update(task, completed=ended, total=found.total, said=_said(report, hint()))
            if report.state != "waiting":
                return report
            time.sleep(WATCH_S)


def _said(report: Report, hint: str) -> str:
    found = report.standing
    parts = [hint or found.batch.trouble]
    if found.failed:
        parts.append(f"{found.failed} failed")
    if report.left_s is not None and not hint:
        parts.append(f"about {duration(report.left_s)} left")
    return ", ".join(filter(None, parts))
