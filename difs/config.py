"""The configuration: one frozen tree, read from TOML; units as text.

`configs/default.toml` shows every key. Loading is total: a bad file yields all of its problems at
once, and an unknown key names the nearest known one. Nothing reads the environment but `run_dir` and
`user_repo`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from difs import addresses
from difs.errors import ConfigError

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
MAX_QUANTITY = 2.0**53
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*$")


Bytes = Annotated[int, Meta(ge=0, extra={"units": _BYTES, "example": "64MiB"})]
"""A size; in TOML a text such as "64MiB"."""
Seconds = Annotated[float, Meta(ge=0, extra={"units": _SECONDS, "example": "30s"})]
"""A duration; in TOML a text such as "30s" or "250ms"."""


class Service(Struct, frozen=True):
    """Where DIFS lives."""

    run_dir: str = ""
    model_repo: str = "model_repo"
    user_repo: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["human", "json"] = "human"


class Network(Struct, frozen=True):
    """The door for other machines; closed unless `listen` says where it is."""

    listen: str = ""
    security: Literal["keys", "none"] = "keys"
    keys: str = ""


class Broker(Struct, frozen=True):
    """Bounds of what clients may ask of the broker."""

    max_queued: Annotated[int, Meta(ge=1)] = 1000
    max_outstanding: Annotated[int, Meta(ge=1)] = 64
    max_clients: Annotated[int, Meta(ge=1)] = 1024
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    quarantine: Seconds = 600.0
    lease: Seconds = 30.0
    admin: bool = True
    actor_silence: Seconds = 2.5
    stall_floor: Seconds = 10.0
    stall_steps: Annotated[float, Meta(ge=2, le=1e6)] = 10.0
    send_patience: Seconds = 10.0
    validate: bool = False


class PolicyChoice(Struct, frozen=True):
    """Which policy decides, and the variants that some of them want to be told."""

    name: str = "modelless"
    variant: str = ""
    light: str = ""
    heavy: str = ""


class Autoscaler(Struct, frozen=True):
    """Who decides what is loaded where, and how eagerly."""

    planner: str = "utility"
    headroom: Bytes = 256 * 2**20
    cooldown: Seconds = 1.0
    settle: Seconds = 4.0
    idle_unload: Seconds = 1800.0
    min_residents: Annotated[int, Meta(ge=0)] = 1


class Actors(Struct, frozen=True):
    """The devices to use and what is loaded on them at start."""

    devices: tuple[str, ...] = ("auto",)
    preload: tuple[str, ...] = ("*",)
    threads: Annotated[int, Meta(ge=0)] = 0
    awake: Seconds = 2.0
    memory_budget: Bytes = 0
    memory_sharers: tuple[str, ...] = ()
    parking_budget: Bytes = 2 * 2**30
    adapter_budget: Bytes = 512 * 2**20
    prompt_cache: Bytes = 64 * 2**20
    credits: Annotated[int, Meta(ge=1, le=64)] = 16
    max_rows: Annotated[int, Meta(ge=1, le=256)] = 32
    warm_up_steps: Annotated[int, Meta(ge=2, le=20)] = 4
    script: str = ""


class Shm(Struct, frozen=True):
    """Shared memory for images, per actor."""

    dir: str = "/dev/shm"  # noqa: S108 -- tmpfs by the platform's convention; made private below it
    slots: dict[str, Annotated[int, Meta(ge=0, le=4096)]] = msgspec.field(
        default_factory=lambda: {"64KiB": 32, "1MiB": 8, "4MiB": 8, "16MiB": 1}
    )


class Supervisor(Struct, frozen=True):
    """Starts, restarts and the end."""

    drain: Seconds = 30.0
    backoff: Seconds = 0.5
    backoff_cap: Seconds = 30.0
    stable_after: Seconds = 60.0
    max_restarts: Annotated[int, Meta(ge=0)] = 5
    restart_window: Seconds = 300.0
    start_timeout: Seconds = 600.0


class Metrics(Struct, frozen=True):
    """Numbers for Prometheus, on this machine only."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 0


HTTP_DEFAULT = "127.0.0.1:7860"
"""Where A1111 listens, so that its clients find us."""


class Http(Struct, frozen=True):
    """The HTTP door; nothing listens unless `listen` says where."""

    listen: str = ""
    remote: bool = False
    token_file: str = ""
    hosts: tuple[str, ...] = ()


class Config(Struct, frozen=True):
    """The whole configuration."""

    service: Service = Service()
    network: Network = Network()
    broker: Broker = Broker()
    policy: PolicyChoice = PolicyChoice()
    autoscaler: Autoscaler = Autoscaler()
    actors: Actors = Actors()
    shm: Shm = Shm()
    supervisor: Supervisor = Supervisor()
    metrics: Metrics = Metrics()
    http: Http = Http()


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the defaults, changed by the TOML file at `path`, changed by `overrides`.

    `overrides` maps dotted keys ("policy.name") to TOML values. Raises ConfigError with every
    problem found.
    """
    tree = read_toml(path) if path is not None else {}
    for dotted, value in (overrides or {}).items():
        section, _, key = dotted.partition(".")
        table = tree.setdefault(section, {})
        if isinstance(table, dict):  # else `parse` says what is wrong with it
            table[key] = value
    return parse(tree)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; raises ConfigError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, endless digits
        raise ConfigError(f"{path} is not TOML: {error}") from None


def parse(tree: Mapping[str, Any]) -> Config:
    """Validate a tree of TOML values; raises ConfigError with every problem found."""
    problems: list[str] = []
    sections = read_sections(tree, Config, problems)
    if "shm" in sections:
        problems += _check_slots(sections["shm"].slots)
    if "network" in sections:
        network = sections["network"]
        problems += filter(None, [addresses.problem(network.listen, network.security)])
    if problems:
        raise ConfigError("; ".join(problems))
    return Config(**sections)


def read_sections(tree: Mapping[str, Any], kind: Any, problems: list[str]) -> dict[str, Any]:
    """Return the sections of `kind`, a struct of structs, that a tree has; adds to `problems`."""
    sections = {}
    known = {field.name: field.type for field in fields(kind)}
    for name, values in tree.items():
        if name not in known:
            problems.append(_unknown(name, known))
        elif not isinstance(values, Mapping):
            problems.append(f"{name}: must be a table")
        else:
            sections[name] = _section(name, known[name], values, problems)
    return sections


def _section(name: str, cls: Any, values: Mapping[str, Any], problems: list[str]) -> Any:
    good = {}
    known = {field.name: field.type for field in fields(cls)}
    for key, value in values.items():
        if key not in known:
            problems.append(_unknown(f"{name}.{key}", [f"{name}.{k}" for k in known]))
            continue
        try:
            good[key] = msgspec.convert(_without_unit(value, known[key]), known[key])
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(f"{name}.{key}: {error}")
    return cls(**good)


def _unknown(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"{name}: unknown key; the nearest known one is {near[0]}"


def _without_unit(value: Any, kind: Any) -> Any:
    """Turn a text such as "30s" into its number, where the key wants a quantity."""
    for meta in getattr(kind, "__metadata__", ()):
        if meta.extra:
            return _quantity(value, meta.extra["units"], meta.extra["example"])
    return value


def parse_bytes(text: Any) -> int:
    """Return the bytes that a text such as "64MiB" means; raises ValueError."""
    return int(_quantity(text, _BYTES, "64MiB"))


def _quantity(value: Any, units: Mapping[str, float], example: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
        return 0
    match = _QUANTITY.match(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f'must be a text such as "{example}" ({", ".join(units)}), got {value!r}')
    number = float(match[1]) * units[match[2]]
    if number > MAX_QUANTITY:
        raise ValueError(f"{value!r} is too large")
    return int(number) if units is _BYTES else number


def _check_slots(slots: Mapping[str, int]) -> list[str]:
    problems = []
    for text in slots:
        try:
            parse_bytes(text)
        except ValueError as error:
            problems.append(f"shm.slots: {error}")
    if not any(slots.values()):
        problems.append("shm.slots: at least one slot is needed")
    return problems


def slot_classes(shm: Shm) -> tuple[tuple[int, int], ...]:
    """Return (slot bytes, count) pairs, smallest first."""
    return tuple(sorted((parse_bytes(text), count) for text, count in shm.slots.items() if count))


def run_dir(config: Config) -> Path:
    """Return the private folder of this user's service: sockets, lock, logs."""
    if config.service.run_dir:
        return Path(config.service.run_dir).expanduser().absolute()
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/difs-{os.getuid()}"  # noqa: S108 -- made 0700
    return Path(base) / "difs"


def user_repo(config: Config) -> Path:
    """Return the folder of what this user registered; it need not be there yet."""
    if config.service.user_repo:
        return Path(config.service.user_repo).expanduser().absolute()
    return data_home() / "models"


def keys_dir(config: Config) -> Path:
    """Return the folder of the service's keys; it need not be there yet."""
    if config.network.keys:
        return Path(config.network.keys).expanduser().absolute()
    return data_home() / "keys"


def data_home() -> Path:
    """Return this user's own data folder (XDG Base Directory Specification); it need not be there."""
    base = os.environ.get("XDG_DATA_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path("~/.local/share").expanduser()
    return home / "difs"


def dump(config: Config) -> bytes:
    """Return `config` as JSON, for a child process."""
    return msgspec.json.encode(config)


def undump(data: bytes) -> Config:
    """Return the config that `dump` wrote."""
    return msgspec.json.decode(data, type=Config)
