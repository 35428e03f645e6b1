"""`difs http-token`."""

from pathlib import Path
from typing import Annotated

import typer

from difs.cli.app import app
from difs.exits import readable


@app.command()
@readable
def http_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom the token is for.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As in http.token_file; made if missing.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="It may also load and unload variants, and raise priorities.")
    ] = False,
) -> None:
    """Make a token for the HTTP door and show it, once; deleting its line in FILE revokes it."""
    from difs.doors import tokens

    print(tokens.add(file, name, is_admin=admin))
