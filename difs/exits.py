"""How a command ends: an error becomes one line for people, or one JSON object, and an exit code.

What the codes mean stands in `difs.cli`, which has the commands.
"""

import json
import os
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from difs import processes
from difs.errors import (
    CapacityError,
    ConfigError,
    Denied,
    DifsError,
    Infeasible,
    RepositoryError,
    RequestEnded,
    RequestError,
)
from difs.rundir import AlreadyRunning

P = ParamSpec("P")

_debug = {"on": False}


def show_origins(on: bool) -> None:
    """Let errors through as they are, so that Python shows where they came from."""
    _debug["on"] = on


def exit_code(error: DifsError) -> int:
    """Return the exit code that an error ends the command with."""
    table: list[tuple[type[DifsError], int]] = [
        (AlreadyRunning, processes.EXIT_TAKEN),
        (ConfigError, processes.EXIT_CONFIG),
        (RepositoryError, processes.EXIT_CONFIG),
        (Infeasible, os.EX_TEMPFAIL),
        (RequestEnded, os.EX_TEMPFAIL),
        (Denied, os.EX_NOPERM),
        (RequestError, os.EX_USAGE),
        (CapacityError, os.EX_UNAVAILABLE),
    ]
    return next((code for cls, code in table if isinstance(error, cls)), processes.EXIT_SOFTWARE)


def fail(error: DifsError, as_json: bool) -> NoReturn:
    """Print one readable line (or one JSON object) and leave."""
    if as_json:
        facts = {
            "error": {
                "code": error.code,
                "message": error.message,
                "field": error.field,
                "limit": error.limit,
                "retryable": error.retryable,
                "retry_after_s": error.retry_after_s,
            }
        }
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"difs: {error.message}", err=True)
    raise typer.Exit(exit_code(error))


def readable(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into one line and an exit code; `difs --debug` shows where they came from."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except DifsError as error:
            if _debug["on"]:
                raise
            fail(error, bool(kwargs.get("as_json")))
        except OSError as error:
            if _debug["on"]:
                raise
            typer.echo(f"difs: {error.strerror}: {error.filename}", err=True)
            raise typer.Exit(os.EX_IOERR) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return guarded
