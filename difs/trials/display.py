"""What people see of trials: a bar while one runs, tables of its figures, sentences of a comparison."""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from difs.terminal import table
from difs.trials.comparing import LEVEL, Compared, Comparison
from difs.trials.runner import Tally
from difs.trials.workload import Workload, in_words

NAMES = {
    "mean_s": "mean latency",
    "p50_s": "median latency",
    "p95_s": "95th percentile of latency",
    "p99_s": "99th percentile of latency",
    "throughput_hz": "throughput",
    "goodput_hz": "goodput",
    "attainment": "latencies kept",
    "mean_quality": "mean quality",
}
SHOWN_KINDS = 12


def opening(workload: Workload, window_s: float, counts: Mapping[int, int], where: str) -> list[str]:
    """Say what will be asked; `counts`: how many of each kind."""
    arrivals = workload.arrivals
    total = sum(counts.values())
    said = [
        f"{total} requests in {window_s:g} s ({arrivals.pattern},"
        f" {total / window_s:.3g} a second) after {workload.warmup_s:g} s of warm-up,"
        f" {workload.clients} clients, seed {workload.seed}; into {where}"
    ]
    kinds = list(enumerate(workload.mix))[:SHOWN_KINDS]
    return said + [f"  {counts.get(kind, 0):6} {in_words(wish)}" for kind, wish in kinds]


class Display:
    """A live bar on a terminal; nothing elsewhere, nor when `is_quiet`."""

    def __init__(self, console: Console, workload: Workload, window_s: float, *, is_quiet: bool) -> None:
        """Prepare the bar of a trial."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        off = is_quiet or not console.is_terminal
        self._progress = Progress(*columns, console=console, disable=off, transient=True)
        self._seconds, self._warmup_s = window_s, workload.warmup_s
        self._task = self._progress.add_task("warm-up", total=self._warmup_s + self._seconds, said="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, tally: Tally) -> None:
        """Show how far it is."""
        waits = tally.at_s >= self._seconds
        name = "warm-up" if tally.at_s < 0 else "waiting" if waits else "asking"
        done = max(0.0, tally.at_s + self._warmup_s)
        self._progress.update(self._task, description=name, completed=done, said=progress_of(tally))


def progress_of(tally: Tally) -> str:
    """Say how far a trial is, in a line."""
    said = [f"{tally.open} open", f"{tally.delivered} delivered"]
    said += [f"{n} {what}" for n, what in ((tally.refused, "refused"), (tally.failed, "failed")) if n]
    if tally.goals:
        said.append(f"{tally.kept / tally.goals:.0%} in time")
    if tally.delivered:
        said.append(f"last {tally.latency_s:.2f} s")
    return ", ".join(said)


# ---- figures -------------------------------------------------------------------------------------


def tables(facts: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Yield the figures of a trial as tables and lines."""
    yield (
        f"{facts['delivered']} of {facts['requests']} requests delivered in {facts['span_s']:.1f} s:"
        f" {_number(facts['throughput_hz'])} a second of {_number(facts['offered_hz'])} offered,"
        f" {_number(facts['goodput_hz'])} good"
    )
    yield (
        f"latencies kept {_part(facts['attainment'])}; of those promised {_part(facts['promises_kept'])};"
        f" mean quality {_number(facts['mean_quality'])},"
        f" in time, of all requests {_number(facts['quality_attainment'])}"
    )
    yield ""
    whole = {"whole latency": facts, **facts["phases"]}
    yield table(
        ("seconds", "mean", "p50", "p95", "p99"), [(n, *_seconds(row)) for n, row in whole.items()]
    )
    yield ""
    yield _kinds(facts["kinds"])
    if facts["variants"]:
        yield ""
        yield _variants(facts["variants"])
    yield ""
    yield from _lines(facts)


def _kinds(kinds: Iterable[Mapping[str, Any]]) -> RenderableType:
    names = ("asked for", "requests", "delivered", "kept", "quality", "mean s", "p50", "p95", "p99")
    rows = [
        (
            escape(kind["what"]),
            str(kind["requests"]),
            str(kind["delivered"]),
            _part(kind["attainment"]),
            _number(kind["mean_quality"]),
            *_seconds(kind),
        )
        for kind in kinds
    ]
    return table(names, rows)


def _variants(variants: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    names = ("painted by", "share", "mean steps", "quality", "mean s", "images a call")
    rows = [
        (
            escape(name),
            _part(row["share"]),
            f"{row['mean_steps']:.1f}",
            _number(row["mean_quality"]),
            _number(row["mean_s"]),
            f"{row['shared_by']:.2f}",
        )
        for name, row in variants.items()
    ]
    return table(names, rows)


def _lines(facts: Mapping[str, Any]) -> Iterable[str]:
    error = facts["prediction"]
    if error["median"] is not None:
        yield (
            f"predicted beside measured: median error {error['median']:+.0%};"
            f" half within {error['size_p50']:.0%}, nine of ten within {error['size_p90']:.0%}"
        )
    for what in ("refused", "failed"):
        if facts[what]:
            yield f"{what}: " + ", ".join(f"{code} {count}" for code, count in facts[what].items())
    if facts["unfinished"]:
        yield f"open when it was interrupted, and not told of: {facts['unfinished']}"
    for doubt in facts["doubts"]:
        yield f"doubt: {doubt}"


def _seconds(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_number(row[name]) for name in ("mean_s", "p50_s", "p95_s", "p99_s"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


# ---- comparisons ---------------------------------------------------------------------------------


def sentences(found: Comparison, a: str, b: str) -> Iterable[str]:
    """Say how B differs from A, and whether chance could do that."""
    how = "request by request" if found.paired else "as separate samples"
    if found.figures:
        yield f"{b} beside {a}, {how}; in brackets where the change lies with {LEVEL:.0%} confidence"
    for figure in found.figures:
        yield f"  {_sentence(figure)}"
    for warning in found.warnings:
        yield f"note: {warning}"
    if not found.figures:
        return
    beyond = [NAMES[figure.name] for figure in found.figures if figure.is_beyond_chance]
    yield f"beyond chance: {', '.join(beyond)}" if beyond else "nothing that chance alone could not do"
    yield (
        "Each interval misses by chance once in twenty times, and a single run of each tells nothing of"
        " what differs from run to run: repeat both, in turns."
    )


def _sentence(found: Compared) -> str:
    of: Callable[[float], str] = _times if found.is_ratio else _plus
    word = "beyond chance" if found.is_beyond_chance else "may be chance"
    return (
        f"{NAMES[found.name]:28}{found.a:9.4f} -> {found.b:9.4f}"
        f"   {of(found.change)} ({found.low:.3f} to {found.high:.3f})  {word}"
    )


def _times(value: float) -> str:
    return f"{value:.3f} times"


def _plus(value: float) -> str:
    return f"{value:+.3f}"
