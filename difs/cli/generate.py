"""`difs generate`."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from difs.cli.app import JsonOption, RunDirOption, any_client, app
from difs.cli.wishes import (
    AdapterOption,
    BestEffort,
    Count,
    Deterministic,
    Family,
    Guidance,
    Latency,
    Negative,
    Priority,
    Quality,
    SamplerOption,
    Seed,
    Size,
    Steps,
    Strict,
    Timeout,
    VariantOption,
    wishes_of,
)
from difs.exits import readable


@app.command()
@readable
def generate(
    prompt: str,
    latency: Latency = None,
    quality: Quality = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerOption = None,
    seed: Seed = None,
    n: Count = None,
    negative: Negative = None,
    variant: VariantOption = None,
    family: Family = None,
    adapter: AdapterOption = None,
    priority: Priority = None,
    best_effort: BestEffort = False,
    strict: Strict = False,
    deterministic: Deterministic = False,
    timeout: Timeout = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File (.png .jpg .webp) or folder; default: out/")
    ] = None,
    metadata: Annotated[bool, typer.Option(help="Write prompt and plan into the file.")] = True,
    previews: Annotated[
        Path | None, typer.Option(help="Folder for preview-IMAGE-STEP.png, a file for each step.")
    ] = None,
    preview_every: Annotated[int, typer.Option(help="Steps between two previews.")] = 1,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a picture; starts a private service when none is running."""
    from difs import terminal

    wishes = wishes_of(dict(locals()))
    _check_target(out)
    if previews is not None:
        wishes["preview_every"] = preview_every
    with any_client(run_dir, terminal.Notes(quiet=as_json)) as client:
        keep = _preview_keeper(previews)
        result = terminal.generate(client, prompt, wishes, show=not as_json, on_progress=keep)
        with result:
            paths = result.save(_target(out, prompt, result.seeds), metadata=metadata)
            facts = {
                "paths": [str(path) for path in paths],
                "seeds": result.seeds,
                "plan": result.plan,
                "timings": result.timings,
                "seed_contract": result.seed_contract,
                "seed_bound": result.seed_bound,
                "notes": result.notes,
                "request_id": result.request_id,
            }
    if as_json:
        print(msgspec.json.encode(facts).decode())
    else:
        terminal.show_result(facts)


def _check_target(out: Path | None) -> None:
    """Refuse a place that cannot be written before anything is painted; raises OSError."""
    from difs.client.result import form_of

    folder = out or Path("out")
    if folder.suffix:
        form_of(folder)
        folder = folder.parent
    _make_folder(folder)


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _preview_keeper(folder: Path | None) -> Callable[[Any], Any] | None:
    """Return what writes the previews of a request into `folder`; raises OSError."""
    from difs.client import previews

    if folder is None:
        return None
    _make_folder(folder)
    return lambda event: previews.save(event, folder)


def _target(out: Path | None, prompt: str, seeds: list[int]) -> Path:
    """Return the file to write; a folder gets a name made of the prompt and the first seed."""
    if out is not None and out.suffix:
        return out
    words = "".join(c if c.isalnum() else "-" for c in prompt.lower())
    slug = "-".join(filter(None, words.split("-")))[:48] or "picture"
    name = f"{slug}.png" if len(seeds) > 1 else f"{slug}-{seeds[0]}.png"
    return (out or Path("out")) / name
