"""`difs simulate`: what a service would do, in virtual time: other devices, loads, policies, faults."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from difs import config, processes, telemetry
from difs.cli.app import ConfigOption, JsonOption, RunDirOption, app, roots
from difs.errors import ConfigError
from difs.exits import readable

Rate = Annotated[float | None, typer.Option(help="Requests a second.")]
Pattern = Annotated[str | None, typer.Option(help="poisson, burst or diurnal.")]
Trace = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Arrivals: milliseconds,prompt or seconds a line."),
]
EachLatency = Annotated[float | None, typer.Option(help="Seconds that each request asks for.")]
EachQuality = Annotated[str | None, typer.Option(help="0..1 or a name, that each asks for.")]


@app.command()
@readable
def simulate(
    scenario_file: Annotated[
        Path | None, typer.Option("--scenario", exists=True, dir_okay=False, help="A TOML file.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            "--tables",
            exists=True,
            help="A profile (.json), a folder of them, or run times (.csv); may be repeated."
            " Default: what `difs profile` measured here.",
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="A policy by name.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="Policies, with commas between, on the same requests.")
    ] = None,
    planner: Annotated[str | None, typer.Option(help="A planner of residents by name, or off.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many devices, all alike.")] = None,
    memory: Annotated[str | None, typer.Option(help='Of a device, as "8GiB".')] = None,
    rate: Rate = None,
    seconds: Annotated[float | None, typer.Option(help="Simulated seconds of arrivals.")] = None,
    pattern: Pattern = None,
    trace: Trace = None,
    latency: EachLatency = None,
    quality: EachQuality = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same run.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the scenario, as mishaps.deaths_per_h=2.")
    ] = None,
    what_if: Annotated[
        list[str] | None, typer.Option("--what-if", help="The same once more with this key changed.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A picture: a .png or .svg file.")] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Write all that happened, a line each.")
    ] = None,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a service: the real broker and policy over tables of measured seconds.

    Tells how many latencies are kept, at which quality, how soon, and what a change would bring.
    """
    from difs import charts
    from difs.simulation import scenario as scenarios
    from difs.simulation.world import World

    if out is not None:
        charts.check(out)
    found = scenarios.read(scenario_file) if scenario_file else scenarios.Scenario()
    changes: dict[str, Any] = {
        "policy.name": policy,
        "autoscaler.planner": planner,
        "fleet.devices": devices,
        "fleet.memory_bytes": memory,
        "arrivals.rate_hz": rate,
        "arrivals.seconds": seconds,
        "arrivals.pattern": "file" if trace else pattern,
        "arrivals.file": str(trace) if trace else None,
        "seed": seed,
        **pairs(setting, "--set"),
    }
    found = scenarios.changed(found, {k: v for k, v in changes.items() if v is not None})
    found = scenarios.wishing(found, latency, quality)
    models = _models(table, config_file, run_dir)
    processes.collect_rarely()
    runs = {}
    for name, variation in _variations(found, compare, what_if).items():
        runs[name] = World(variation, models, keeps_lines=log is not None).run()
    if log is not None:
        log.write_text("".join(f"{name} {line}\n" for name, run in runs.items() for line in run.lines))
    _tell(runs, as_json)
    if out is not None:
        from difs.simulation import drawing

        drawing.draw(out, f"{found.arrivals.pattern} arrivals, {found.fleet.devices} devices", runs)


def _variations(found: Any, compare: str | None, what_if: Sequence[str] | None) -> Mapping[str, Any]:
    """Return the scenarios to run by name: one, or one a policy, and each with what is changed."""
    from difs.simulation.scenario import changed

    names = [name.strip() for name in compare.split(",")] if compare else [found.policy.name]
    runs = {name: changed(found, {"policy.name": name}) for name in names}
    if what_if:
        others = pairs(what_if, "--what-if")
        words = ", ".join(what_if)
        runs |= {f"{name}, {words}": changed(run, others) for name, run in list(runs.items())}
    return runs


def pairs(texts: Iterable[str] | None, option: str) -> dict[str, str]:
    """Split texts such as `devices=2`; raises ConfigError."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise ConfigError(f"{option} {text}: must be key=value")
        found[key.strip()] = value.strip()
    return found


def _models(tables: Sequence[Path] | None, config_file: Path | None, run_dir: Path | None) -> Any:
    """Return the variants of the tables that are named, else of this machine's profiles."""
    from difs.profiling import store
    from difs.simulation.tables import here, read

    known = roots(config_file, run_dir).known
    if tables:
        infos = {name: variant.info() for name, variant in known.variants.items()}
        return {name: model for path in tables for name, model in read(path, infos).items()}
    settings = config.load(config_file)
    devices = telemetry.discover(settings.actors.devices)
    threads = settings.actors.threads or processes.cores_share(len(devices))
    return here(known.variants.values(), store.device_facts(devices[0], threads))


COLUMNS = {
    "quality in time": "quality_attainment",
    "in time": "attainment",
    "promises kept": "promises_kept",
    "quality": "mean_quality",
    "mean s": "mean_s",
    "p50 s": "p50_s",
    "p95 s": "p95_s",
    "p99 s": "p99_s",
    "good /s": "goodput_hz",
    "busy": "busy",
    "loads": "loads",
}


def _tell(runs: Mapping[str, Any], as_json: bool) -> None:
    """Print the figures: a JSON object, or a table."""
    from difs import terminal
    from difs.simulation import figures

    told = {name: figures.of_run(run) for name, run in runs.items()}
    if as_json:
        whole = {name: {**told[name], "memory": figures.memory(run)} for name, run in runs.items()}
        print(json.dumps({"runs": whole}))
        return
    rows = [[name, *(_short(facts[key]) for key in COLUMNS.values())] for name, facts in told.items()]
    terminal.output.print(terminal.table(["", *COLUMNS], rows))
    for name, facts in told.items():
        shares = ", ".join(f"{variant} {share:.0%}" for variant, share in facts["variants"].items())
        lost = ", ".join(f"{code} {n}" for code, n in {**facts["refused"], **facts["failed"]}.items())
        words = f"{name}: {facts['delivered']} of {facts['requests']} delivered; {shares or 'none'}"
        terminal.say(
            words + (f"; not delivered: {lost}" if lost else "") + f"; log {facts['log_hash'][:12]}"
        )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
