"""What the command line shows: progress bars and tables. No arguments, no exit codes."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from difs.client import Client, Result
from difs.client.requests import Wishes
from difs.messages import (
    AdapterInfo,
    Alternative,
    Case,
    Happening,
    Plan,
    SeedContract,
    Timings,
    VariantInfo,
)
from difs.messages import Progress as StepDone

console = Console(stderr=True, highlight=False)
output = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Notes:
    """What is said while a service starts."""

    def __init__(self, *, quiet: bool) -> None:
        """Say nothing when `quiet`."""
        self._quiet = quiet
        self._started = 0.0

    @contextmanager
    def private_service(self) -> Iterator[None]:
        """Announce the start of a private service."""
        self._started = time.monotonic()
        if not self._quiet:
            console.print("No DIFS is running: starting a private one for this command.")
        yield

    def no_device(self) -> None:
        """Say why nothing happens yet."""
        if not self._quiet:
            console.print("The service has no device ready yet: waiting for one (Ctrl-C ends that).")

    def ready(self) -> None:
        """Say how long it took."""
        if not self._quiet:
            console.print(f"Ready after {time.monotonic() - self._started:.1f} s.")


def generate(
    client: Client,
    prompt: str,
    wishes: Wishes,
    *,
    show: bool,
    on_progress: Callable[[StepDone], object] | None = None,
) -> Result:
    """Generate with a live bar of steps on standard error; `on_progress` hears of each step, too."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeElapsedColumn(),
    )
    done: dict[int, int] = {}
    progress = show or on_progress is not None
    with Progress(*columns, console=console, disable=not (show and sys.stderr.isatty())) as bar:
        task = bar.add_task("queued", total=None)
        for event in client.stream(prompt, progress=progress, **wishes):
            if isinstance(event, Result):
                return event
            if isinstance(event, StepDone):
                done[event.image] = event.step  # the images count up side by side
                total = event.steps * (wishes.get("n") or 1)
                bar.update(task, completed=sum(done.values()), total=total)
                if on_progress is not None:
                    on_progress(event)
            elif event.plan is not None:
                done.clear()
                bar.update(task, description=event.plan.variant, total=_total(event.plan, wishes))
    raise AssertionError("a stream ends with a Result or an error")


def _total(plan: Plan, wishes: Wishes) -> int:
    return plan.steps * (wishes.get("n") or 1)


def show_result(facts: dict[str, Any]) -> None:
    """Print where the pictures are, the plan, and predicted beside measured seconds."""
    for path in facts["paths"]:
        output.print(f"[bold]{path}[/bold]", soft_wrap=True)
    plan: Plan = facts["plan"]
    output.print(_sentence(plan))
    output.print(_times(plan, facts["timings"]))
    for note in facts["notes"]:
        output.print(f"note: {note}")
    if said := _sharing(facts["seed_contract"], facts["seed_bound"], facts["timings"].shared_by):
        output.print(said)


def _sharing(contract: SeedContract, bound: float, shared_by: float) -> str:
    """Return how far the images were computed together, and what that means for their seeds."""
    if shared_by > 1:
        measured = f"no value (0..1) moved by more than {bound:.1g} when that was measured"
        return f"steps shared by {shared_by:.1f} images on average; {contract}: {measured}"
    return f"{contract}: close to a run alone, not equal" if contract != "bitwise" else ""


def show_plan(plan: Plan | None, points: Sequence[Alternative] = (), rows: int = 0) -> None:
    """Print a plan without measured times, and the first `rows` of all points (0: all)."""
    if plan is None:
        output.print("It would be queued without a plan until a device is ready.")
        return
    output.print(_sentence(plan))
    output.print(_times(plan, None))
    if others := [point for point in points or plan.alternatives if point.why_not]:
        shown = others[: rows or len(others)]
        output.print(_alternatives(shown))
        if len(shown) < len(others):
            output.print(f"and {len(others) - len(shown)} others: --rows 0 shows all")
    for note in plan.notes:
        output.print(f"note: {note}")


def _alternatives(points: Sequence[Alternative]) -> Table:
    names = ("instead", "steps", "guidance", "device", "seconds", "quality", "why not")
    rows = [
        (
            other.variant,
            str(other.steps),
            f"{other.guidance_scale:g}",
            other.device,
            f"{other.total_s:.2f}",
            "?" if other.expected_quality is None else f"{other.expected_quality:.2f}",
            other.why_not,
        )
        for other in points
    ]
    return table(names, rows)


def _sentence(plan: Plan) -> str:
    return (
        f"{plan.variant} ({plan.family}, {plan.precision}), {plan.steps} steps of {plan.sampler},"
        f" guidance {plan.guidance_scale:g}, {plan.width}x{plan.height}, on {plan.device}"
        f" ({plan.memory_mode})\npolicy {plan.policy}: {plan.reason}{_expected(plan)}"
    )


def _expected(plan: Plan) -> str:
    if plan.expected_quality is None:
        return ""
    return f"\nexpected quality {plan.expected_quality:.2f} ({plan.quality_source})"


def _times(plan: Plan, measured: Timings | None) -> Table:
    predicted = plan.prediction
    made = Table(box=None, pad_edge=False)
    rows = [("queue", predicted.queue_s), ("load", predicted.load_s), ("encode", predicted.encode_s)]
    rows += [("steps", predicted.steps_s), ("decode", predicted.decode_s), ("total", predicted.total_s)]
    made.add_column("seconds")
    for name, _ in rows:
        made.add_column(name, justify="right")
    made.add_row(f"predicted ({predicted.source})", *(f"{seconds:.3f}" for _, seconds in rows))
    if measured is not None:
        seen = [
            f"{measured.queue_s:.3f}",
            "",
            f"{measured.encode_s:.3f}",
            f"{measured.steps_s:.3f}",
            f"{measured.decode_s:.3f}",
            f"{measured.total_s:.3f}",
        ]
        made.add_row("measured", *seen)
    return made


def show_variants(
    infos: Sequence[VariantInfo], adapters: Sequence[AdapterInfo], problems: Sequence[str]
) -> None:
    """Print the registered variants and adapters, and what is wrong with others."""
    names = ("name", "family", "size", "steps", "sampler", "guidance", "MB", "resident on", "what")
    output.print(table(names, [_variant_row(info) for info in infos]))
    if adapters:
        rows = [_adapter_row(info) for info in adapters]
        output.print(table(("adapter", "family", "for", "MB", "what"), rows))
    for problem in problems:
        console.print(f"not registered: {problem}")


def say(words: str) -> None:
    """Print words for people, as long as they are."""
    output.print(words, soft_wrap=True, markup=False)


def show_quality(info: VariantInfo) -> None:
    """Print what a variant's pictures are worth, a guidance a column, and where the numbers come from."""
    if not info.quality:
        say(f"{info.name}: its quality is not known; `difs profile {info.name}` measures it")
        return
    say(f"quality of {info.name} ({info.quality_kind}): {info.quality_source}")
    if info.quality_kind == "agreement":
        say("agreement with itself says how many steps are enough, not how good the pictures are")
    scales = sorted({point.guidance for point in info.quality})
    scores = {(p.side, p.steps, p.guidance): f"{p.score:.3f}" for p in info.quality}
    rows = [
        (str(side), str(steps), *(scores.get((side, steps, scale), "-") for scale in scales))
        for side, steps in sorted({(p.side, p.steps) for p in info.quality})
    ]
    output.print(table(("shown at", "steps", *(f"guidance {scale:g}" for scale in scales)), rows))


def show_captions(info: VariantInfo) -> None:
    """Print what a variant can paint, a thing a line, other words for it in brackets."""
    if not info.captions:
        output.print(f"{info.name} takes any prompt")
    for caption, *others in info.captions:
        output.print(f"{caption} ({', '.join(others)})" if others else caption, highlight=False)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table without lines."""
    made = Table(*names, box=None, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    return made


def _variant_row(info: VariantInfo) -> tuple[str, ...]:
    width, height = info.native_sizes[0]
    return (
        info.name,
        info.family,
        f"{width}x{height}",
        f"{info.steps_min}-{info.steps_max} ({info.steps_default})",
        info.sampler,
        f"{info.guidance_scale:g}",
        f"{info.bytes / 1e6:.0f}",
        ", ".join(info.resident_on) or "-",
        info.description,
    )


def _adapter_row(info: AdapterInfo) -> tuple[str, ...]:
    fits = ", ".join(info.variants) or f"all of {info.family}"
    return info.name, info.family, fits, f"{info.bytes / 1e6:.1f}", info.description


def show_story(happenings: Sequence[Happening]) -> None:
    """Print what happened, the oldest first; seconds count from the broker's start."""
    rows = [
        (f"{one.at_s:.3f}", one.what, one.request_id, str(one.attempt or ""), one.device, one.detail)
        for one in happenings
    ]
    output.print(table(("second", "what", "request", "attempt", "device", "detail"), rows))


def show_quarantine(cases: Sequence[Case]) -> None:
    """Print the contents in quarantine."""
    if not cases:
        output.print("nothing is in quarantine")
        return
    rows = [
        (one.digest, one.request_id, str(one.deaths), f"{one.left_s:.0f}", one.reason) for one in cases
    ]
    output.print(table(("digest", "request", "deaths", "seconds left", "the last actor"), rows))
