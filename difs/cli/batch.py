"""`difs batch`: files of prompts that are painted while nobody else wants the devices."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from difs.cli.app import JsonOption, RunDirOption, app, home_of
from difs.errors import InvalidRequest, NotFound
from difs.exits import readable
from difs.rundir import RunDir

batch = typer.Typer(
    no_args_is_help=True,
    help="Paint a file of prompts while nobody else wants the devices; it survives every crash.",
)
app.add_typer(batch, name="batch")

BatchId = Annotated[str, typer.Argument(metavar="ID", help="As `difs batch status` shows it.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Show a bar until it is finished.")]


@contextmanager
def _opened(*, to_make: bool = False) -> Iterator[Any]:
    """Yield this user's database; raises NotFound where there is none, unless it is `to_make`."""
    from difs.batches.store import Store, place

    if not (to_make or place().exists()):
        raise NotFound("no batch was ever submitted; `difs batch submit FILE --out DIR` does")
    with Store(place()) as store:
        yield store


@batch.command()
@readable
def submit(
    prompts: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSON Lines; see below.")
    ],
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="The folder of the pictures.")],
    form: Annotated[str, typer.Option("--format", help="png, jpeg or webp.")] = "png",
    metadata: Annotated[bool, typer.Option(help="Write prompt and plan into the files.")] = True,
    watch: WatchOption = False,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a file and keep it; the service paints it, also after this terminal is closed.

    Each line is a JSON object: `prompt`, and of `generate` what it needs: negative_prompt, width,
    height, n, seed, latency_s, quality, on_infeasible, variant, family, steps, guidance_scale, sampler,
    adapters, deterministic. Its picture is called by its `id`, else by the number of the line.
    """
    from difs import terminal
    from difs.batches import submission
    from difs.batches.lines import FORMS

    if form not in FORMS:
        raise InvalidRequest(f"--format {form} is none of {', '.join(FORMS)}", field="format")
    wanted = msgspec.convert(
        {"source": prompts, "folder": out, "form": form, "metadata": metadata}, submission.Wanted
    )
    with _opened(to_make=True) as store:
        found, is_new = submission.submit(store, wanted, home_of(run_dir).path, time.time())
        if not (is_new or as_json):
            terminal.say(f"This file was submitted for this folder already, as batch {found.batch.id}.")
        _go_on(store, found.batch.id, watch=watch, as_json=as_json)


@batch.command()
@readable
def status(
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Of one batch; else of all.")] = None,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show all batches, or how far one is and what went wrong in it."""
    from difs import terminal
    from difs.batches import display

    if watch and name is None:
        raise typer.BadParameter("--watch needs the ID of a batch", param_hint="--watch")
    if name is not None:
        with _opened() as store:
            _show(store, name, watch=watch, as_json=as_json)
        return
    with _opened(to_make=True) as store:
        standings = store.standings()
    if as_json:
        print(msgspec.json.encode({"batches": standings}).decode())
        return
    columns = ("batch", "state", "done", "waiting", "failed", "file", "folder")
    terminal.output.print(terminal.table(columns, display.rows_of(standings)))


@batch.command()
@readable
def cancel(name: BatchId, as_json: JsonOption = False) -> None:
    """Paint no more of a batch; its pictures stay, and `resume` takes it up again."""
    with _opened() as store:
        store.cancel(name)
        _show(store, name, watch=False, as_json=as_json)


@batch.command()
@readable
def resume(
    name: BatchId, watch: WatchOption = False, run_dir: RunDirOption = None, as_json: JsonOption = False
) -> None:
    """Go on with all that has no picture: after `cancel`, after failures, after files were deleted."""
    from difs.batches import folder

    with _opened() as store:
        found = store.standing(name).batch
        home = str(home_of(run_dir).path) if run_dir else found.home
        place = Path(found.folder)
        place.mkdir(parents=True, exist_ok=True)
        lost = [entry.number for entry in store.done(found) if folder.missing(place, entry.files)]
        store.resume(name, home, lost)
        _go_on(store, name, watch=watch, as_json=as_json)


@batch.command()
@readable
def forget(name: BatchId) -> None:
    """Delete what is known of a batch that is finished or cancelled, prompts too; its pictures stay."""
    from difs import terminal

    with _opened() as store:
        if store.standing(name).state == "waiting":
            raise InvalidRequest(f"batch {name} is not finished; `difs batch cancel {name}` first")
        store.forget(name)
    terminal.say(f"batch {name} is forgotten")


def _go_on(store: Any, name: str, *, watch: bool, as_json: bool) -> None:
    """Call the worker of a batch's service; one that is started later looks by itself. Then show."""
    home = _home(store, name)
    if home.is_running():
        home.call_batches()
    _show(store, name, watch=watch, as_json=as_json)


def _home(store: Any, name: str) -> RunDir:
    return RunDir(Path(store.standing(name).batch.home))


def _show(store: Any, name: str, *, watch: bool, as_json: bool) -> None:
    """Print how far a batch is, at its end if that is watched; lines that failed then make it exit 75."""
    from difs import terminal
    from difs.batches import display

    home = _home(store, name)
    if watch:
        report = display.watch(store, name, terminal.console, lambda: _hint(home))
    else:
        report = display.report_of(store, name)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        display.show(report, _hint(home), terminal.say)
    if watch and report.failures:
        raise typer.Exit(os.EX_TEMPFAIL)


def _hint(home: RunDir) -> str:
    return "" if home.is_running() else f"no DIFS runs in {home.path}: `difs serve` goes on with it"
