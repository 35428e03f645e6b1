"""`difs story` and `difs quarantine`: what happened, and what is not tried again for now."""

from typing import Annotated

import msgspec
import typer

from difs.cli.app import JsonOption, RunDirOption, app, running_client
from difs.exits import readable


@app.command()
@readable
def story(
    request_id: Annotated[
        str | None, typer.Argument(metavar="[REQUEST_ID]", help="Without: what happened last at all.")
    ] = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what happened to a request, also some time after its end."""
    from difs import terminal

    with running_client(run_dir) as client:
        found = client.story(request_id)
    if as_json:
        print(msgspec.json.encode({"happenings": found}).decode())
    else:
        terminal.show_story(found)


quarantine = typer.Typer(no_args_is_help=True, help="Contents that ended too many actors.")
app.add_typer(quarantine, name="quarantine")


@quarantine.command("list")
@readable
def list_(run_dir: RunDirOption = None, as_json: JsonOption = False) -> None:
    """List the contents that are refused for now, by digest: no prompt is kept."""
    from difs import terminal

    with running_client(run_dir) as client:
        found = client.quarantine()
    if as_json:
        print(msgspec.json.encode({"cases": found}).decode())
    else:
        terminal.show_quarantine(found)


@quarantine.command()
@readable
def clear(
    digest: Annotated[
        str | None, typer.Argument(metavar="[DIGEST]", help="As in `list`. Without: all.")
    ] = None,
    run_dir: RunDirOption = None,
) -> None:
    """Let a content be tried again, or all."""
    with running_client(run_dir) as client:
        print(client.clear_quarantine(digest))
