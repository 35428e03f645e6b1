"""`difs explain`, `difs variants` and `difs status`: what changes nothing."""

from typing import Annotated, Any

import msgspec
import typer

from difs.cli.app import (
    ConfigOption,
    JsonOption,
    RunDirOption,
    any_client,
    app,
    home_of,
    is_elsewhere,
    roots,
    running_client,
)
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
from difs.errors import UnknownName
from difs.exits import readable
from difs.messages import AdapterInfo, VariantInfo


@app.command()
@readable
def explain(
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
    rows: Annotated[int, typer.Option(help="Rows of the table of points; 0: all of them.")] = 12,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what generate would do, why, and what else there is, ranked, without doing it."""
    from difs import terminal
    from difs.client.core import to_exception

    wishes = wishes_of(dict(locals()))
    with any_client(run_dir, terminal.Notes(quiet=as_json)) as client:
        found = client.explain(prompt, survey=True, **wishes)
    if found.refusal is not None:
        raise to_exception(found.refusal)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        terminal.show_plan(found.plan, found.points, rows)


@app.command()
@readable
def variants(
    name: Annotated[str | None, typer.Argument(help="Only this one.", metavar="[NAME]")] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="List what NAME can paint, with other words for it.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all of NAME's files with their digests.")
    ] = False,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered variants and adapters, or show NAME and its files."""
    from difs import terminal
    from difs.registration import report

    home, here = home_of(run_dir), roots(config_file, run_dir)
    if is_elsewhere() or home.is_running():
        with any_client(run_dir, terminal.Notes(quiet=True)) as client:
            infos, adapters = client.variants(), client.adapters()
            problems = tuple[str, ...]()
    else:
        infos = tuple(variant.info() for variant in here.known.variants.values())
        adapters = tuple(adapter.info() for adapter in here.known.adapters.values())
        problems = here.known.problems
    files: list[dict[str, Any]] = []
    if name is not None:
        infos, adapters, problems = _only(name, infos, adapters)
        entry = here.known.variants.get(name) or here.known.adapters.get(name)
        if entry is not None and not is_elsewhere():
            files = report.files_of(entry, verify=verify)
    elif captions or verify:
        option = "--captions" if captions else "--verify"
        raise typer.BadParameter(f"say of which variant: difs variants NAME {option}", param_hint=option)
    if as_json:
        facts = {"variants": infos, "adapters": adapters, "problems": problems, "files": files}
        print(msgspec.json.encode(facts).decode())
    elif captions and infos:
        terminal.show_captions(infos[0])
    else:
        terminal.show_variants(infos, adapters, problems)
        if files:
            report.show_files(files)
        if name is not None and infos:
            terminal.show_quality(infos[0])


def _only(
    name: str, infos: tuple[VariantInfo, ...], adapters: tuple[AdapterInfo, ...]
) -> tuple[tuple[VariantInfo, ...], tuple[AdapterInfo, ...], tuple[str, ...]]:
    """Return those called `name`, and no problems; raises UnknownName."""
    found = tuple(info for info in infos if info.name == name)
    beside = tuple(info for info in adapters if info.name == name)
    if not (found or beside):
        known = ", ".join(info.name for info in infos) or "none"
        raise UnknownName(f"no variant {name!r}; registered: {known}", field="variant")
    return found, beside, ()


@app.command()
@readable
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show devices, residents, queues, forecasts and decisions of the running service."""
    from difs import status_view

    with running_client(run_dir) as client:
        if as_json:
            print(msgspec.json.encode(client.status()).decode())
        else:
            status_view.show(client, watch)
