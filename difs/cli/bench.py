"""`difs bench`: offer a running service a load, tell what came of it, compare two trials, draw one."""

import asyncio
import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from difs.cli.app import Elsewhere, JsonOption, RunDirOption, any_service, app
from difs.cli.simulate import EachLatency, EachQuality, Pattern, Rate, Trace, pairs
from difs.errors import InvalidRequest
from difs.exits import readable
from difs.messages import StatusReport

if TYPE_CHECKING:
    from difs.trials.display import Display
    from difs.trials.preparing import Order
    from difs.trials.records import End, Header, Trial
    from difs.trials.results import Keeper
    from difs.trials.runner import Runner
    from difs.trials.workload import Due, Workload

bench = typer.Typer(
    invoke_without_command=True,
    help="Offer a running service a load, and tell how it kept what was asked for.",
)
app.add_typer(bench, name="bench")

ResultArgument = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="What `difs bench` wrote.")
]


@bench.callback()
@readable
def run(
    context: typer.Context,
    scenario_file: Annotated[
        Path | None,
        typer.Option(
            "--scenario", exists=True, dir_okay=False, help="A TOML file, as `difs simulate` takes it."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Ask the very same as an earlier result did."),
    ] = None,
    rate: Rate = None,
    seconds: Annotated[float | None, typer.Option(help="Of arrivals; default 60.")] = None,
    pattern: Pattern = None,
    trace: Trace = None,
    latency: EachLatency = None,
    quality: EachQuality = None,
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A text file, a prompt a line.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="Connections, which take turns; default 16.")
    ] = None,
    warmup: Annotated[float, typer.Option(help="Seconds that come first and do not count.")] = 5.0,
    seed: Annotated[
        int | None, typer.Option(help="The same seed asks the same at the same times.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the scenario, as arrivals.cv=6.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The result's file; default: a new one in out/.")
    ] = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Offer a running service a load: every request at its time, whatever became of the others.

    Without a service that runs, a private one is started. Without a scenario, goals and rate are chosen
    that fit the machine. Ctrl-C ends the trial and keeps what came.
    """
    from difs import terminal
    from difs.trials import preparing, results

    given = _given(context)
    if context.invoked_subcommand is not None:
        if given:
            words = f"for a trial, not for {context.invoked_subcommand}"
            raise typer.BadParameter(words, param_hint=", ".join(sorted(given)))
        return
    changes = {
        "arrivals.rate_hz": rate,
        "arrivals.seconds": seconds,
        "arrivals.pattern": "file" if trace else pattern,
        "arrivals.file": str(trace) if trace else None,
        "clients": clients,
        "seed": seed,
        **pairs(setting, "--set"),
    }
    known = {key: value for key, value in changes.items() if value is not None}
    asked: Order | Workload
    if like is None:
        asked = preparing.order(scenario_file, known, (latency, quality), prompts, warmup)
    elif rest := given - {"like", "out", "run_dir", "as_json"}:
        words = f"all is as it was; leave out {', '.join(sorted(rest))}"
        raise typer.BadParameter(words, param_hint="--like")
    else:
        asked = preparing.again(like)
    with results.Keeper(out or _new_file()) as keeper:
        with any_service(run_dir, terminal.Notes(quiet=as_json)) as where:
            end = _trial(where, asked, keeper, is_quiet=as_json)
        _tell(keeper.trial(), keeper.path, as_json)
    if not as_json:
        terminal.say(f"kept in {keeper.path}; `difs bench plot {keeper.path}` draws it")
    if end.interrupted:
        raise typer.Exit(130)


def _given(context: typer.Context) -> set[str]:
    """Return the options that were said, as they are called in Python."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {
        name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"
    }


def _new_file() -> Path:
    return Path("out") / f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"


def _trial(where: Elsewhere, asked: "Order | Workload", keeper: "Keeper", *, is_quiet: bool) -> "End":
    """Settle what is asked with the service, and perform it."""
    from difs import terminal
    from difs.client import Client
    from difs.trials import display, preparing, runner, workload

    with Client(where.address, key=where.key) as client:
        report = preparing.wait_until_settled(client)
        found = (
            asked if isinstance(asked, workload.Workload) else preparing.complete(asked, client, report)
        )
        preparing.check_with(client, found)
    plan = workload.schedule(found)
    counts = Counter(due.kind for due in plan if due.at_s >= 0)
    header = _header(where, found, plan, report)
    if not is_quiet:
        for words in display.opening(found, header.window_s, counts, str(keeper.path)):
            terminal.say(words)
    keeper.keep(header)
    work = runner.Runner(runner.Where(where.address, where.key), found, plan, keeper.keep)
    with display.Display(terminal.console, found, header.window_s, is_quiet=is_quiet) as shown:
        return asyncio.run(_until_interrupted(work, shown))


async def _until_interrupted(work: "Runner", shown: "Display") -> "End":
    """Perform a trial; Ctrl-C lets it end early and in order."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await work.run(shown.show, stop)


def _header(where: Elsewhere, found: "Workload", plan: "Sequence[Due]", report: StatusReport) -> "Header":
    from difs.trials import surroundings, workload
    from difs.trials.records import FORMAT, Header

    return Header(
        format=FORMAT,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["difs", *sys.argv[1:]]),
        workload=found,
        digest=workload.digest(found, plan),
        requests=sum(due.at_s >= 0 for due in plan),
        window_s=workload.window_s(found.arrivals, plan[-1].at_s),
        generator=surroundings.generator(),
        service=report,
        settings=surroundings.settings(where.address),
    )


def _tell(trial: "Trial", path: Path, as_json: bool) -> None:
    """Print the figures of a trial: a JSON object, or tables."""
    from difs import terminal
    from difs.trials import display, figures

    facts = figures.of_trial(trial)
    if as_json:
        print(json.dumps({"file": str(path), "figures": facts}))
        return
    for part in display.tables(facts):
        terminal.output.print(part, markup=False, soft_wrap=isinstance(part, str))


@bench.command()
@readable
def show(result: ResultArgument, as_json: JsonOption = False) -> None:
    """Tell the figures of an earlier trial again."""
    from difs.trials import results

    _tell(results.read(result), result, as_json)


@bench.command()
@readable
def compare(a: ResultArgument, b: ResultArgument, as_json: JsonOption = False) -> None:
    """Tell how B differs from A, and whether chance alone could do that."""
    from difs import terminal
    from difs.trials import comparing, display, results

    found = comparing.compare(results.read(a), results.read(b))
    if as_json:
        told = [{**msgspec.to_builtins(f), "beyond_chance": f.is_beyond_chance} for f in found.figures]
        print(json.dumps({**msgspec.to_builtins(found), "figures": told}))
        return
    for words in display.sentences(found, a.stem, b.stem):
        terminal.say(words)


@bench.command()
@readable
def plot(
    result: ResultArgument,
    out: Annotated[Path | None, typer.Option("--out", help="A .png or .svg file.")] = None,
    what: Annotated[str, typer.Option(help="all, latency, timeline or tradeoff.")] = "all",
) -> None:
    """Draw a trial: latency by phase, quality against latency, and all of it over time."""
    from difs import charts, terminal
    from difs.trials import drawing, results

    target = out or result.with_suffix(".png")
    charts.check(target)
    if what not in drawing.WHATS:
        raise InvalidRequest(f"--what {what} is none of {', '.join(drawing.WHATS)}", field="what")
    drawing.draw(target, results.read(result), what)
    terminal.output.print(f"[bold]{target}[/bold]", soft_wrap=True)
