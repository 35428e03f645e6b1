"""What the command line shows of registering: progress, outcomes, proposals, a variant's files."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from difs.errors import RepositoryError
from difs.registration import digests
from difs.registration.derive import Proposal
from difs.registration.orders import Outcome
from difs.terminal import console, output, table
from difs.variants import Adapter, Variant

Watch = Callable[[str, int], Callable[[int], None]]


@contextmanager
def progress(*, show: bool) -> Iterator[Watch]:
    """Yield what shows a bar for each file that is read, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    is_shown = show and sys.stderr.isatty()
    with Progress(*columns, console=console, disable=not is_shown, transient=True) as bar:

        def watch(name: str, nbytes: int) -> Callable[[int], None]:
            for task in bar.tasks:
                bar.remove_task(task.id)
            task_id = bar.add_task(f"reading {name}", total=nbytes)
            return lambda chunk: bar.advance(task_id, chunk)

        yield watch


def show_outcome(outcome: Outcome) -> None:
    """Print what became of one file or folder."""
    if outcome.problem is not None:
        console.print(
            f"not registered: {outcome.path}\n  {outcome.problem}", markup=False, soft_wrap=True
        )
        return
    output.print(f"{outcome.name}: {outcome.what}", markup=False, soft_wrap=True)
    for note in outcome.notes:
        output.print(f"  {note}", markup=False, soft_wrap=True)


def show_sum(outcomes: Sequence[Outcome], made: str | None) -> None:
    """Print how many were registered, where there were several, and the variant made of a LoRA."""
    if made is not None:
        output.print(f"{made}: variant with {outcomes[0].name} in it")
    if len(outcomes) > 1:
        new = sum(o.problem is None and o.is_new for o in outcomes)
        failed = sum(o.problem is not None for o in outcomes)
        known = len(outcomes) - new - failed
        output.print(f"{new} registered, {known} registered before, {failed} not registered")


def show_proposals(base: Variant, proposals: Sequence[Proposal]) -> None:
    """Print what could be made of a variant."""
    rows = [
        (p.key, p.name, _megabytes(p.new_bytes), _megabytes(p.shared_bytes), p.gain) for p in proposals
    ]
    output.print(table(("--make", "variant", "MB new", "MB shared", "what it gives"), rows))
    if not proposals:
        output.print(f"nothing is left to make of {base.name}")


def facts_of(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal for machines."""
    names = ("key", "name", "gain", "new_bytes", "shared_bytes", "adapter_bytes")
    return {name: getattr(proposal, name) for name in names}


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f}" if nbytes >= 1e5 else "<0.1"


# ---- the files of a variant ---------------------------------------------------------------------


def files_of(entry: Variant | Adapter, *, verify: bool) -> list[dict[str, Any]]:
    """Return where each weight file stands and how it is: by a look, or by its digest with `verify`."""
    verdict = _verdict(entry) if verify else None
    found = []
    for path, relative in _paths(entry).items():
        linked = entry.manifest.linked.get(relative)
        facts = {"file": relative, "stands_in": linked or str(path), "linked": linked is not None}
        found.append(
            facts | {"bytes": path.stat().st_size, "state": verdict or _look(entry, path, relative)}
        )
    return found


def _paths(entry: Variant | Adapter) -> dict[Path, str]:
    if isinstance(entry, Adapter):
        return {entry.path: entry.manifest.file}
    own = {entry.folder / relative: relative for relative in entry.manifest.digests}
    lent = {
        path: f"{part} of {entry.manifest.parts[part]}"
        for part, borrowed in entry.borrowed.items()
        for path in borrowed.weights()
    }
    return own | lent


def _verdict(entry: Variant | Adapter) -> str:
    try:
        entry.verify()
    except RepositoryError as error:
        return error.message
    return "verified"


def _look(entry: Variant | Adapter, path: Path, relative: str) -> str:
    seen = entry.manifest.seen.get(relative)
    if seen is None:
        return "pinned"
    return "changed since it was registered" if digests.has_changed(path, seen) else "unchanged"


def show_files(files: Sequence[dict[str, Any]]) -> None:
    """Print a variant's files."""
    for f in files:
        words = f"{f['file']}: {_megabytes(f['bytes'])} MB, {f['state']}"
        where = f"{'linked to ' if f['linked'] else ''}{f['stands_in']}"
        output.print(f"{words}\n  {where}", markup=False, soft_wrap=True)
