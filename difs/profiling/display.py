"""What people see of a profile that is being measured: a bar for each variant, and what came of it."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from difs.profiling.cells import ErrorOf
from difs.profiling.reports import Broken, Doing, Judged, Noted, Report, Timed


class Display:
    """Shows reports as they come; on a terminal live, else only what came of them."""

    def __init__(self, console: Console, say: Callable[[str], None], *, is_quiet: bool) -> None:
        """The live bars go to `console`, what stays to `say`; nothing anywhere when `is_quiet`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[what]}"),
        )
        self._progress = Progress(
            *columns, console=console, disable=is_quiet or not console.is_terminal, transient=True
        )
        self._tasks: dict[str, TaskID] = {}
        self._say = (lambda words: None) if is_quiet else say

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, report: Report, device: str) -> None:
        """Show what is reported of a device."""
        who = f"{report.variant} on {device}"
        if isinstance(report, Doing):
            self._advance(report, who)
        else:
            self._say(words_of(report, who))

    def _advance(self, report: Doing, who: str) -> None:
        task = self._tasks.get(who)
        if task is None:
            task = self._tasks[who] = self._progress.add_task(who, left="", what="")
        self._progress.update(
            task,
            completed=report.done,
            total=report.total,
            left="" if report.left_s is None else f"about {duration(report.left_s)} left",
            what=report.what,
        )


def words_of(report: Timed | Judged | Noted | Broken, who: str) -> str:
    """Return what came of something, for people."""
    match report:
        case Timed():
            how = f"{report.fresh_cells} measured now" if report.fresh_cells else "up to date"
            return f"{who}: {report.cells} cells, {how}; {_error(report)}\n  {report.path}"
        case Judged():
            used = "" if report.is_used else ", kept beside what is used: its manifest's or a better one"
            return f"{who}: quality by {report.kind}{used}: {report.source}\n  {report.path}"
        case Noted():
            return f"{who}: note: {report.words}"
        case Broken():
            return f"{who}: not measured: {report.words}"


def _error(report: Timed) -> str:
    if report.left_out_cell is None:
        return "too few for a statement of error"
    sizes = f", a size left out: {_off(report.left_out_size)}" if report.left_out_size else ""
    return f"a cell left out is predicted to within {_off(report.left_out_cell)}{sizes}"


def _off(error: ErrorOf) -> str:
    return f"{error.p90:.1%} (90 % of {error.cells}; median {error.median:.1%}, worst {error.worst:.1%})"


def duration(seconds: float) -> str:
    """Return a time span in rough words."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
