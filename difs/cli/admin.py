"""`difs load`, `evict`, `set-mode` and `pin`: what an administrator does to a running service."""

from typing import Annotated

import typer

from difs.cli.app import RunDirOption, app, running_client
from difs.exits import readable
from difs.memory_modes import MODES

VariantName = Annotated[str, typer.Argument(metavar="VARIANT", help="See `difs variants`.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="As in `difs status`; else all.")]


@app.command()
@readable
def load(variant: VariantName, device: DeviceOption = None, run_dir: RunDirOption = None) -> None:
    """Load a variant in the background; `difs status` shows when it is there."""
    with running_client(run_dir) as client:
        print(client.load(variant, device))


@app.command()
@readable
def evict(variant: VariantName, device: DeviceOption = None, run_dir: RunDirOption = None) -> None:
    """Take an idle variant off a device; it is parked in host memory if there is room."""
    with running_client(run_dir) as client:
        print(client.evict(variant, device))


@app.command()
@readable
def set_mode(
    variant: VariantName,
    mode: Annotated[str, typer.Argument(metavar="MODE", help=f"One of {', '.join(MODES)}.")],
    device: DeviceOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Change how much device memory a loaded variant takes, for speed in return."""
    with running_client(run_dir) as client:
        print(client.set_mode(variant, mode, device))


@app.command()
@readable
def pin(
    variant: VariantName,
    off: Annotated[bool, typer.Option("--off", help="Let it leave again.")] = False,
    device: DeviceOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Keep a variant on a device, in its memory mode, whatever the autoscaler finds."""
    with running_client(run_dir) as client:
        print(client.pin(variant, device, pinned=not off))
