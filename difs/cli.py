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
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import msgspec
import typer

from difs import config, processes
from difs.errors import (
    CapacityError,
    ConfigError,
    DifsError,
    Infeasible,
    RepositoryError,
    RequestEnded,
    RequestError,
)
from difs.rundir import AlreadyRunning, RunDir
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


# ---- errors -------------------------------------------------------------------------------------


def exit_code(error: DifsError) -> int:
    """Return the exit code that an error ends the command with."""
    table: list[tuple[type[DifsError], int]] = [
        (AlreadyRunning, processes.EXIT_TAKEN),
        (ConfigError, processes.EXIT_CONFIG),
        (RepositoryError, processes.EXIT_CONFIG),
        (Infeasible, os.EX_TEMPFAIL),
        (RequestEnded, os.EX_TEMPFAIL),
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
        print(json.dumps(facts))
    else:
        print(f"difs: {error.message}", file=sys.stderr)
    raise typer.Exit(exit_code(error))


P = ParamSpec("P")


def _readable(command: Callable[P, None]) -> Callable[P, None]:
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
            print(f"difs: {error.strerror}: {error.filename}", file=sys.stderr)
            raise typer.Exit(os.EX_IOERR) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return guarded


_debug = {"on": False}


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    _debug["on"] = debug


# ---- serve --------------------------------------------------------------------------------------


@app.command()
@_readable
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
Timeout = Annotated[float | None, typer.Option("--timeout", help="Give up after so many seconds.")]


@app.command()
@_readable
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
    timeout: Timeout = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File (.png .jpg .webp) or folder; default: out/")
    ] = None,
    metadata: Annotated[bool, typer.Option(help="Write prompt and plan into the file.")] = True,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a picture; starts a private service when none is running."""
    from difs import terminal

    wishes = _wishes(dict(locals()))
    _check_target(out)
    with _client(run_dir, terminal.Notes(quiet=as_json)) as client:
        result = terminal.generate(client, prompt, wishes, show=not as_json)
        with result:
            paths = result.save(_target(out, prompt, result.seeds), metadata=metadata)
            facts = {
                "paths": [str(path) for path in paths],
                "seeds": result.seeds,
                "plan": result.plan,
                "timings": result.timings,
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
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


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


def _home(run_dir: Path | None) -> RunDir:
    chosen = {"service.run_dir": str(run_dir)} if run_dir else None
    return RunDir(config.run_dir(config.load(None, chosen)))


# ---- questions ----------------------------------------------------------------------------------


@app.command()
@_readable
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
@_readable
def variants(run_dir: RunDirOption = None, as_json: JsonOption = False) -> None:
    """List the registered variants; without a service, those in the model repository."""
    from difs import repository, terminal

    home = _home(run_dir)
    if home.is_running():
        with _client(run_dir, terminal.Notes(quiet=True)) as client:
            infos, problems = client.variants(), tuple[str, ...]()
    else:
        found = repository.scan(repository.locate(config.Config().service.model_repo))
        infos = tuple(variant.info() for variant in found.variants.values())
        problems = found.problems
    if as_json:
        print(msgspec.json.encode({"variants": infos, "problems": problems}).decode())
    else:
        terminal.show_variants(infos, problems)


@app.command()
@_readable
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show devices, residents, queues and counts of the running service."""
    from difs import terminal
    from difs.client import Client
    from difs.errors import Unavailable

    home = _home(run_dir)
    if not home.is_running():
        raise Unavailable(f"no DIFS runs in {home.path}; start one with `difs serve`")
    with Client(home.clients) as client:
        if as_json:
            print(msgspec.json.encode(client.status()).decode())
        else:
            terminal.show_status(client, watch)


@app.command()
def version() -> None:
    """Print the version."""
    print(f"difs {__version__}")


def main() -> None:
    """Run the command line."""
    app()
