"""`difs cluster`: many nodes on Ray."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from difs.cli.app import JsonOption, app
from difs.errors import ConfigError
from difs.exits import readable

cluster = typer.Typer(no_args_is_help=True, help="One service per node of a Ray cluster, one door.")
app.add_typer(cluster, name="cluster")

FileArgument = Annotated[
    Path,
    typer.Argument(metavar="CLUSTER.TOML", exists=True, dir_okay=False, help="As configs/cluster.toml."),
]


@cluster.command()
@readable
def deploy(file: FileArgument) -> None:
    """Run a service on every node, or bring what runs up to what the file says."""
    settings, deploying = _prepare(file)
    where = deploying.deploy(settings)
    print(f"DIFS is ready on {settings.nodes.least} node(s); pictures at {where}", flush=True)


@cluster.command()
@readable
def status(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show the nodes: what they have loaded, and how much is before them."""
    settings, deploying = _prepare(file)
    found = deploying.overview(settings)
    if as_json:
        import msgspec

        print(msgspec.json.encode(found).decode())
        return
    print(f"{settings.cluster.name}: {found.application}{': ' if found.message else ''}{found.message}")
    for node in found.nodes:
        state = "ready" if node.is_ready else "not ready"
        residents = ", ".join(node.residents) or "nothing"
        print(
            f"{node.node}  {state}  {node.devices} device(s), {node.open_requests} open,"
            f" {node.backlog_s:.1f} s of backlog, {len(node.variants)} variants; loaded: {residents}"
        )


@cluster.command()
@readable
def remove(file: FileArgument) -> None:
    """End the services on all nodes; Ray itself goes on."""
    settings, deploying = _prepare(file)
    deploying.remove(settings)
    print(f"{settings.cluster.name} is removed")


def _prepare(file: Path) -> tuple[Any, Any]:
    """Return the settings, and the module that talks to Ray; raises ConfigError."""
    from difs.cluster import settings

    found = settings.load(file)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('a cluster needs Ray: pip install "difs[ray]"')
    from difs.cluster import deploy as deploying

    return found, deploying
