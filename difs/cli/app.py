"""The command line's root: the app, options that many commands share, and the way to a service."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from difs import config, exits
from difs.errors import Unavailable
from difs.repository import Repository
from difs.rundir import RunDir
from difs.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="DIFS: pictures from stated goals, on this machine.",
    epilog="Exit codes: 0 done; 1 the service ended by itself; 2 bad arguments; 64 bad request;"
    " 69 nobody can serve it now; 70 error of the service; 73 already running; 74 cannot write;"
    " 75 accepted, but no picture (expired, cancelled, infeasible); 77 denied; 78 configuration;"
    " 130 interrupted.",
)

RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the service keeps its sockets and lock.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="A TOML file.")
]


STARTS_WITHIN_S = 120.0
"""So long a service is waited for that has no device ready."""
LOOK_S = 0.2


class Elsewhere(NamedTuple):
    """The service of another machine that the command is for, as the options before its name say."""

    address: str | None = None
    key: Path | None = None


HERE = Elsewhere()
FROM_AFAR = (
    *("generate", "explain", "variants", "status", "plot", "bench", "story"),
    *("load", "evict", "set-mode", "pin", "quarantine"),
)
"""The commands that need nothing but a connection; the others work on files beside the service."""
_elsewhere = {"service": HERE}


def is_elsewhere() -> bool:
    """Whether the command is for the service of another machine."""
    return _elsewhere["service"] != HERE


@app.callback()
def _main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="A service elsewhere, as tcp://10.0.0.5:5555.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The file that `difs keys new` made.")] = None,
) -> None:
    exits.show_origins(debug)
    _elsewhere["service"] = Elsewhere(address, key)
    command = context.invoked_subcommand
    if is_elsewhere() and command not in FROM_AFAR:
        words = f"difs {command} is for the service's own machine"
        raise typer.BadParameter(words, param_hint="--address and --key")


# ---- services ------------------------------------------------------------------------------------


def _running_service(run_dir: Path | None) -> Elsewhere | None:
    """Return where the service is that is meant; None when it does not run."""
    home = home_of(run_dir)
    if is_elsewhere():
        return _elsewhere["service"]
    return Elsewhere(home.clients) if home.is_running() else None


@contextmanager
def any_service(run_dir: Path | None, notes: Any) -> Iterator[Elsewhere]:
    """Yield where the service is that is meant, or a private one that ends with it."""
    from difs.private import PrivateService

    where = _running_service(run_dir)
    if where is not None:
        yield where
    else:
        with notes.private_service(), PrivateService() as service:
            notes.ready()
            yield Elsewhere(service.address)


@contextmanager
def any_client(run_dir: Path | None, notes: Any) -> Iterator[Any]:
    """Yield a client of the service that is meant, or of a private one that ends with it.

    One that was started just now is waited for: a GPU takes a while to its first picture.
    """
    from difs.client import Client

    with any_service(run_dir, notes) as where, Client(where.address, key=where.key) as client:
        _wait_for_a_device(client, notes)
        yield client


def _wait_for_a_device(client: Any, notes: Any) -> None:
    """Wait until a service can serve, or `STARTS_WITHIN_S`, or not at all when it is about to end."""
    until, is_told = time.monotonic() + STARTS_WITHIN_S, False
    while not (report := client.status()).ready and not report.draining and time.monotonic() < until:
        if not is_told:
            notes.no_device()
        is_told = True
        time.sleep(LOOK_S)


@contextmanager
def running_client(run_dir: Path | None) -> Iterator[Any]:
    """Yield a client of the service that is meant; raises Unavailable when it does not run."""
    from difs.client import Client

    where = _running_service(run_dir)
    if where is None:
        raise Unavailable(f"no DIFS runs in {home_of(run_dir).path}; start one with `difs serve`")
    with Client(where.address, key=where.key) as client:
        yield client


def home_of(run_dir: Path | None) -> RunDir:
    """Return the run directory that is meant: the one given, else the configured one."""
    chosen = {"service.run_dir": str(run_dir)} if run_dir else None
    return RunDir(config.run_dir(config.load(None, chosen)))


# ---- the repository ------------------------------------------------------------------------------


class Roots(NamedTuple):
    """Where the repository stands, and what is in it."""

    shipped: Path
    user: Path
    known: Repository


def roots(config_file: Path | None, run_dir: Path | None) -> Roots:
    """Return the repository of the running service, else the one that is configured."""
    from difs import repository

    home = home_of(run_dir)
    settings = home.read_facts()[0] if home.is_running() else config.load(config_file)
    shipped, user = repository.locate(settings.service.model_repo), config.user_repo(settings)
    return Roots(shipped, user, repository.scan(shipped, user))


@app.command()
def version() -> None:
    """Print the version."""
    print(f"difs {__version__}")
