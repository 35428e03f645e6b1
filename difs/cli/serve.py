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
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP, too: at ADDRESS, or as configured.")
    ] = False,
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="With --http; 127.0.0.1:7860 by default.")
    ] = None,
    http_remote: Annotated[
        bool, typer.Option("--http-remote", help="Let ADDRESS be one that other machines reach.")
    ] = False,
    http_token_file: Annotated[
        Path | None, typer.Option("--http-token-file", help="Who may come in; see `difs http-token`.")
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
    if http_remote:
        overrides["http.remote"] = True
    if http_token_file:
        overrides["http.token_file"] = str(http_token_file)
    if address:
        overrides["http.listen"] = address
    settings = config.load(config_file, overrides)
    settings = _with_door(settings, is_wanted=http, address=address)
    logs.to_stderr("difs", settings.service.log_level, settings.service.log_format)

    def announce(devices: tuple[str, ...]) -> None:
        where = f"; pictures at http://{settings.http.listen}/" if settings.http.listen else ""
        print(f"DIFS is ready on {', '.join(devices)}{where}", flush=True)
        if ready_file is not None:
            ready_file.touch()

    raise typer.Exit(supervisor.serve(settings, announce))


def _with_door(settings: config.Config, *, is_wanted: bool, address: str | None) -> config.Config:
    """Let the HTTP door listen where nothing says where; raises ConfigError."""
    from msgspec.structs import replace

    if address is not None and not is_wanted:
        raise ConfigError(f"{address}: an address goes with --http")
    if not is_wanted or settings.http.listen:
        return settings
    return replace(settings, http=replace(settings.http, listen=config.HTTP_DEFAULT))


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
