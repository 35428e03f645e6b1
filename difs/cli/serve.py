"""`difs serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from difs import config, logs, processes
from difs.cli.app import ConfigOption, RunDirOption, app
from difs.errors import ConfigError
from difs.exits import readable


@app.command()
@readable
def serve(
    config_file: ConfigOption = None,
    policy: Annotated[str | None, typer.Option(help="Which policy decides.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="auto, cpu, cuda:0, simulated:2; may be repeated.")
    ] = None,
    run_dir: RunDirOption = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help='A key of the config, as broker.lease="10s".')
    ] = None,
    parent_pid: Annotated[int, typer.Option(hidden=True)] = 0,
    ready_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the service until it is stopped: one Ctrl-C drains, a second one stops at once."""
    from difs import supervisor

    if parent_pid:
        processes.die_with_parent(parent_pid)
    overrides = dict(_parse_setting(text) for text in setting or ())
    if policy:
        overrides["policy.name"] = policy
    if device:
        overrides["actors.devices"] = list(device)
    if run_dir:
        overrides["service.run_dir"] = str(run_dir)
    settings = config.load(config_file, overrides)
    logs.to_stderr("difs", settings.service.log_level, settings.service.log_format)

    def announce(devices: tuple[str, ...]) -> None:
        print(f"DIFS is ready on {', '.join(devices)}", flush=True)
        if ready_file is not None:
            ready_file.touch()

    raise typer.Exit(supervisor.serve(settings, announce))


def _parse_setting(text: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is TOML, or a plain word."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: must be section.key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()
