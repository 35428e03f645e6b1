"""`difs profile`: what variants cost on this machine, and what their pictures are worth."""

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from difs import catalogue, config, memory_modes, processes, repository, telemetry
from difs.cli.app import ConfigOption, JsonOption, RunDirOption, app, home_of
from difs.errors import EngineFailed, InvalidRequest, Unavailable, UnknownName
from difs.exits import readable
from difs.messages import MemoryMode
from difs.profiling.reports import Broken, Doing, Order, Report, Way


@app.command()
@readable
def profile(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Variants; default: all.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="auto, cpu, cuda:0; may be repeated. Default: as configured.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The native size, few rows, little time.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="More sizes, more rows, more patience.")] = False,
    mode: Annotated[
        list[str] | None, typer.Option(help="A memory mode; may be repeated. Default: all there are.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what was measured already.")
    ] = False,
    quality: Annotated[
        str, typer.Option(help=f"How pictures are judged: {', '.join(get_args(Way))}.")
    ] = "auto",
    clip: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="The folder of a CLIP model, for its judgement."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Pictures of each prompt.")] = 1,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Measure though a service uses the device and disturbs it.")
    ] = False,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what variants cost on this machine, and what their pictures are worth.

    Kept beside each variant and used by the service from its next start; Ctrl-C and again goes on.
    """
    from difs import terminal
    from difs.profiling import launch
    from difs.profiling.display import Display

    if quick and full:
        raise typer.BadParameter("either --quick or --full", param_hint="--quick")
    settings = config.load(config_file)
    devices = _devices(device, settings)
    order = Order(
        model_repo=str(repository.locate(settings.service.model_repo)),
        user_repo=str(config.user_repo(settings)),
        variants=_variants(names, settings),
        device=devices[0],
        threads=settings.actors.threads or processes.cores_share(len(_configured(settings))),
        effort="quick" if quick else "full" if full else "default",
        modes=_modes(mode, devices),
        is_fresh=fresh,
        quality=_way(quality, clip),
        clip=str(clip.absolute()) if clip is not None else "",
        seeds=seeds,
    )
    if not anyway:
        _refuse_beside_a_service(run_dir, devices)
    kept: list[Report] = []
    with Display(terminal.console, terminal.say, is_quiet=as_json) as display:
        for name in devices:
            for report in launch.run(msgspec.structs.replace(order, device=name)):
                display.show(report, name)
                if not isinstance(report, Doing):
                    kept.append(report)
    _end(kept, as_json)


def _variants(names: list[str] | None, settings: config.Config) -> tuple[str, ...]:
    """Return the variants to measure; raises UnknownName."""
    found = catalogue.open_for(settings).found
    chosen = tuple(found.variant(name).name for name in names or found.variants)
    if not chosen:
        raise UnknownName("no variant is registered in the model repository", field="variant")
    return chosen


def _end(kept: list[Report], as_json: bool) -> None:
    """Print the JSON object; raises EngineFailed when a variant could not be measured."""
    if as_json:
        print(msgspec.json.encode({"reports": kept}).decode())
    broken = [report for report in kept if isinstance(report, Broken)]
    if broken and as_json:
        raise typer.Exit(processes.EXIT_SOFTWARE)
    if broken:
        raise EngineFailed(f"{len(broken)} could not be measured")


def _configured(settings: config.Config) -> list[str]:
    return telemetry.discover(settings.actors.devices)


def _devices(asked: list[str] | None, settings: config.Config) -> list[str]:
    """Return the devices to measure; raises ConfigError, or InvalidRequest for a simulated one."""
    found = telemetry.discover(tuple(asked)) if asked else _configured(settings)
    for device in found:
        if telemetry.kind_of(device) == "simulated":
            raise InvalidRequest(f"{device}: its seconds are in its script; there is nothing to measure")
    return found


def _modes(asked: list[str] | None, devices: list[str]) -> tuple[MemoryMode, ...]:
    """Return the memory modes to measure; raises InvalidRequest for one that a device has not."""
    for device in devices:
        usable: tuple[str, ...] = memory_modes.available(telemetry.kind_of(device))
        for name in asked or ():
            if name not in usable:
                raise InvalidRequest(
                    f"memory mode {name} does not work on {device}; {', '.join(usable)} do"
                )
    return msgspec.convert(tuple(asked or ()), tuple[MemoryMode, ...])


def _way(asked: str, clip: Path | None) -> Any:
    """Return how quality is measured; raises InvalidRequest."""
    ways = get_args(Way)
    if asked not in ways:
        raise InvalidRequest(f"--quality {asked} is none of {', '.join(ways)}")
    if asked == "clip" and clip is None:
        raise InvalidRequest(
            "--quality clip needs --clip with the folder of a CLIP model; none is fetched"
        )
    if clip is not None and asked not in {"auto", "clip"}:
        raise InvalidRequest(f"--clip is of no use with --quality {asked}")
    return asked


def _refuse_beside_a_service(run_dir: Path | None, devices: list[str]) -> None:
    """Refuse to measure a device that a running service uses; raises Unavailable."""
    from difs.client import Client

    home = home_of(run_dir)
    if not home.is_running():
        return
    with Client(home.clients) as client:
        used = {device.device for device in client.status().devices}
    shared = sorted(used & set(devices))
    if shared:
        raise Unavailable(
            f"a service uses {', '.join(shared)}, which would disturb what is measured:"
            " stop it first, or say --anyway"
        )
