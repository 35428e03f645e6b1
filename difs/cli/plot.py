"""`difs plot`: pictures of what a service would do."""

from pathlib import Path
from typing import Annotated

import typer

from difs.cli.app import RunDirOption, any_client, app
from difs.cli.wishes import (
    AdapterOption,
    Count,
    Family,
    Guidance,
    Latency,
    Quality,
    SamplerOption,
    Size,
    Steps,
    VariantOption,
    wishes_of,
)
from difs.exits import readable

plots = typer.Typer(no_args_is_help=True, help="Draw what the service would do.")
app.add_typer(plots, name="plot")


@plots.callback()
def _plots() -> None:
    pass


@plots.command()
@readable
def tradeoff(
    prompt: Annotated[str, typer.Argument()] = "red apple",
    latency: Latency = None,
    quality: Quality = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerOption = None,
    n: Count = None,
    variant: VariantOption = None,
    family: Family = None,
    adapter: AdapterOption = None,
    out: Annotated[Path, typer.Option("--out", help="A .png or .svg file.")] = Path("tradeoff.png"),
    run_dir: RunDirOption = None,
) -> None:
    """Draw latency against quality of every operating point, with the one that would be chosen."""
    from difs import charts, terminal
    from difs.client.core import to_exception

    wishes = wishes_of(dict(locals()))
    charts.check(out)
    with any_client(run_dir, terminal.Notes(quiet=False)) as client:
        found = client.explain(prompt, survey=True, **wishes)
    if found.refusal is not None:
        raise to_exception(found.refusal)
    charts.tradeoff(out, prompt, found.points, latency)
    terminal.output.print(f"[bold]{out}[/bold]", soft_wrap=True)
