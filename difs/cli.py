"""The command line: arguments in, client calls and readable text out. No decisions about requests.

Exit codes (sysexits.h where there is one):
    0   done
    1   the service ended on its own account
    2   bad arguments
    64  the request is invalid, or names something that is not there
    69  no service, no ready device, or no capacity now: try again later
    70  an error of the service
    73  another service runs in this run directory
    74  a file cannot be written
    75  the request was accepted and ended without a picture (expired, cancelled, infeasible)
    78  the configuration is wrong or does not fit the machine
    130 interrupted
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from difs import config, exits, processes
from difs.errors import ConfigError, Unavailable, UnknownName
from difs.exits import readable
from difs.memory_modes import MODES
from difs.messages import VariantInfo
from difs.rundir import RunDir
from difs.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="DIFS: pictures from stated goals, on this machine.",
    epilog="Exit codes: 0 done; 1 the service ended by itself; 2 bad arguments; 64 bad request;"
    " 69 nobody can serve it now; 70 error of the service; 73 already running; 74 cannot write;"
    " 75 accepted, but no picture (expired, cancelled, infeasible); 78 configuration; 130 interrupted.",
)

RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the service keeps its sockets and lock.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="A TOML file.")
]


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    exits.show_origins(debug)


# ---- serve --------------------------------------------------------------------------------------


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
    settings = config.load(config_file, overrides)
    processes.log_to_stderr("difs", settings.service.log_level)

    def announce(devices: tuple[str, ...]) -> None:
        print(f"DIFS is ready on {', '.join(devices)}", flush=True)
        if ready_file is not None:
            ready_file.touch()

    raise typer.Exit(supervisor.serve(settings, announce))


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


# ---- generate -----------------------------------------------------------------------------------


def _size(text: str | None) -> tuple[int, int] | tuple[None, None]:
    if text is None:
        return None, None
    width, times, height = text.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"{text!r} is not a size such as 512x512", param_hint="--size")
    return int(width), int(height)


def _quality(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _adapters(texts: list[str] | None) -> list[tuple[str, float]]:
    pairs = []
    for text in texts or ():
        name, _, weight = text.partition(":")
        try:
            pairs.append((name, float(weight or 1.0)))
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not name[:weight]", param_hint="--adapter") from None
    return pairs


def _wishes(options: dict[str, Any]) -> Any:
    """Turn the options that generate and explain share into arguments of the client."""
    width, height = _size(options["size"])
    return {
        "latency_s": options["latency"],
        "quality": _quality(options["quality"]),
        "width": width,
        "height": height,
        "steps": options["steps"],
        "guidance_scale": options["guidance"],
        "sampler": options["sampler"],
        "seed": options["seed"],
        "n": options["n"],
        "negative_prompt": options["negative"],
        "variant": options["variant"],
        "family": options["family"],
        "adapters": _adapters(options["adapter"]),
        "on_infeasible": "reject" if options["strict"] else None,
        "timeout_s": options["timeout"],
        "deterministic": options["deterministic"] or None,
    }


Latency = Annotated[float | None, typer.Option("--latency", help="Seconds to keep.")]
Quality = Annotated[
    str | None, typer.Option("--quality", help="draft, low, medium, high, best, or 0..1.")
]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT; default: the variant's own.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Pin the denoising steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Pin the guidance scale.")]
SamplerOption = Annotated[str | None, typer.Option("--sampler", help="Pin the sampler.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the first image.")]
Count = Annotated[int | None, typer.Option("-n", help="How many images; image i has seed + i.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What not to paint.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="Pin the variant.")]
Family = Annotated[str | None, typer.Option("--family", help="Pin the family.")]
AdapterOption = Annotated[list[str] | None, typer.Option("--adapter", help="LoRA, as name[:weight].")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse rather than miss the latency.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Compute each image alone: same seed, same bits.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Give up after so many seconds.")]


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

    wishes = _wishes(dict(locals()))
    _check_target(out)
    if previews is not None:
        wishes["preview_every"] = preview_every
    with _client(run_dir, terminal.Notes(quiet=as_json)) as client:
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


@contextmanager
def _client(run_dir: Path | None, notes: Any) -> Iterator[Any]:
    """Yield a client of the running service, or of a private one that ends with it."""
    from difs.client import Client
    from difs.private import PrivateService

    home = _home(run_dir)
    if home.is_running():
        with Client(home.clients) as client:
            yield client
        return
    with notes.private_service(), PrivateService() as service, Client(service.address) as client:
        notes.ready()
        yield client


@contextmanager
def _running(run_dir: Path | None) -> Iterator[Any]:
    """Yield a client of the running service; raises Unavailable when there is none."""
    from difs.client import Client

    home = _home(run_dir)
    if not home.is_running():
        raise Unavailable(f"no DIFS runs in {home.path}; start one with `difs serve`")
    with Client(home.clients) as client:
        yield client


def _home(run_dir: Path | None) -> RunDir:
    chosen = {"service.run_dir": str(run_dir)} if run_dir else None
    return RunDir(config.run_dir(config.load(None, chosen)))


# ---- questions ----------------------------------------------------------------------------------


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
    strict: Strict = False,
    deterministic: Deterministic = False,
    timeout: Timeout = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what generate would do, and why, without doing it."""
    from difs import terminal
    from difs.client.core import to_exception

    wishes = _wishes(dict(locals()))
    with _client(run_dir, terminal.Notes(quiet=as_json)) as client:
        found = client.explain(prompt, **wishes)
    if found.refusal is not None:
        raise to_exception(found.refusal)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        terminal.show_plan(found.plan)


@app.command()
@readable
def variants(
    name: Annotated[str | None, typer.Argument(help="Only this one.", metavar="[NAME]")] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="List what NAME can paint, with other words for it.")
    ] = False,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered variants and adapters; without a service, those in the model repository."""
    from difs import repository, terminal

    home = _home(run_dir)
    if home.is_running():
        with _client(run_dir, terminal.Notes(quiet=True)) as client:
            infos, adapters = client.variants(), client.adapters()
            problems = tuple[str, ...]()
    else:
        found = repository.scan(repository.locate(config.Config().service.model_repo))
        infos = tuple(variant.info() for variant in found.variants.values())
        adapters = tuple(adapter.info() for adapter in found.adapters.values())
        problems = found.problems
    if name is not None:
        infos, adapters, problems = _only(name, infos), (), ()
    elif captions:
        raise typer.BadParameter(
            "say of which variant: difs variants NAME --captions", param_hint="--captions"
        )
    if as_json:
        facts = {"variants": infos, "adapters": adapters, "problems": problems}
        print(msgspec.json.encode(facts).decode())
    elif captions:
        terminal.show_captions(infos[0])
    else:
        terminal.show_variants(infos, adapters, problems)


def _only(name: str, infos: tuple[VariantInfo, ...]) -> tuple[VariantInfo, ...]:
    """Return the one called `name`; raises UnknownName."""
    found = tuple(info for info in infos if info.name == name)
    if not found:
        known = ", ".join(info.name for info in infos) or "none"
        raise UnknownName(f"no variant {name!r}; registered: {known}", field="variant")
    return found


@app.command()
@readable
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show devices, residents, queues and counts of the running service."""
    from difs import terminal

    with _running(run_dir) as client:
        if as_json:
            print(msgspec.json.encode(client.status()).decode())
        else:
            terminal.show_status(client, watch)


# ---- admin --------------------------------------------------------------------------------------

VariantName = Annotated[str, typer.Argument(metavar="VARIANT", help="See `difs variants`.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="As in `difs status`; else all.")]


@app.command()
@readable
def load(variant: VariantName, device: DeviceOption = None, run_dir: RunDirOption = None) -> None:
    """Load a variant in the background; `difs status` shows when it is there."""
    with _running(run_dir) as client:
        print(client.load(variant, device))


@app.command()
@readable
def evict(variant: VariantName, device: DeviceOption = None, run_dir: RunDirOption = None) -> None:
    """Take an idle variant off a device; it is parked in host memory if there is room."""
    with _running(run_dir) as client:
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
    with _running(run_dir) as client:
        print(client.set_mode(variant, mode, device))


@app.command()
def version() -> None:
    """Print the version."""
    print(f"difs {__version__}")


def main() -> None:
    """Run the command line."""
    app()
