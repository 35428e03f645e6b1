"""Everything that a run is given besides its tables: frozen, checked, readable from TOML."""

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from difs import config
from difs.errors import ConfigError
from difs.messages import (
    DEFAULT_TIMEOUT_S,
    Auto,
    Delivery,
    Generate,
    Level,
    Overrides,
    Requirements,
    Side,
    Unit,
)
from difs.simulation import arrivals

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Nbytes = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Arrivals(Struct, frozen=True, forbid_unknown_fields=True):
    """When requests come."""

    pattern: Literal["poisson", "burst", "diurnal", "file"] = "poisson"
    rate_hz: Positive = 1.0
    """On average; of a day, the least and the most are `low` and `high` times as much."""
    seconds: Positive = 600.0
    """Of a file, at most."""
    cv: Positive = 4.0
    """Bursts: the coefficient of variation of the gaps."""
    low: NotNegative = 0.25
    high: Positive = 1.75
    period_s: Positive = 600.0
    """Of a day."""
    file: str = ""
    speed: Positive = 1.0
    """So many times as fast as the file says."""

    def times(self, dice: Random) -> list[float]:
        """Return the arrivals; raises ConfigError."""
        match self.pattern:
            case "file":
                found = arrivals.read(Path(self.file), self.speed)
                return [at for at in found if at < self.seconds]
            case "burst":
                return arrivals.bounded(lambda: arrivals.burst(self.rate_hz, self.seconds, self.cv, dice))
            case "diurnal":
                rates = self.low * self.rate_hz, max(self.low, self.high) * self.rate_hz
                return arrivals.bounded(
                    lambda: arrivals.diurnal(*rates, self.period_s, self.seconds, dice)
                )
            case _:
                return arrivals.bounded(lambda: arrivals.poisson(self.rate_hz, self.seconds, dice))


class Wish(Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """One kind of request, and which part of all it is."""

    share: Positive = 1.0
    latency_s: Positive | None = None
    quality: Unit | Level | Auto | None = None
    on_infeasible: Literal["degrade", "reject"] = "degrade"
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    best_effort: bool = False
    variant: str | None = None
    family: str | None = None
    steps: Annotated[int, Meta(ge=1, le=150)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] = 1
    size: tuple[Side, Side] | None = None
    timeout_s: Positive = DEFAULT_TIMEOUT_S

    def message(self, name: str, prompt: str, *, seed: int) -> Generate:
        """Return what a client sends."""
        width, height = self.size or (None, None)
        return Generate(
            request_id=name,
            prompt=prompt,
            width=width,
            height=height,
            n=self.n,
            seed=seed,
            timeout_s=self.timeout_s,
            requirements=_requirements(self),
            overrides=_overrides(self),
            delivery=DELIVERY,
        )


DELIVERY = Delivery(format="raw", metadata=False)


@lru_cache(maxsize=256)  # the same for every request of its kind
def _requirements(wish: Wish) -> Requirements:
    return Requirements(
        latency_s=wish.latency_s,
        quality=wish.quality,
        priority=wish.priority,
        on_infeasible=wish.on_infeasible,
        best_effort=wish.best_effort,
    )


@lru_cache(maxsize=256)
def _overrides(wish: Wish) -> Overrides:
    return Overrides(variant=wish.variant, family=wish.family, steps=wish.steps)


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """The devices: all alike."""

    devices: Annotated[int, Meta(ge=1, le=100_000)] = 1
    kind: Literal["cuda", "cpu", "simulated"] | None = None
    """Which memory modes there are; None: as in the tables."""
    memory_bytes: Nbytes = 0
    """Of a device; 0: without bound."""
    parking_bytes: Nbytes = 2 * 2**30
    credits: Annotated[int, Meta(ge=1, le=64)] = 16
    max_rows: Annotated[int, Meta(ge=1, le=256)] = 32
    preload: tuple[str, ...] = ("*",)
    """Loaded at the start, as far as memory goes."""


class Neighbour(Struct, frozen=True, forbid_unknown_fields=True):
    """Another program on a device that wants memory for a while."""

    nbytes: Nbytes
    begins_s: NotNegative
    seconds: Positive
    device: int | None = None
    """None: on every one."""


class Mishaps(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong by chance; how often is for each device."""

    deaths_per_h: NotNegative = 0.0
    hangs_per_h: NotNegative = 0.0
    """It works no more, and its heart beats on."""
    restart_s: Positive = 3.0
    """From a death until the first variant begins to load."""
    slow_per_h: NotNegative = 0.0
    slow_s: Positive = 30.0
    slowness: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    """How many times as long everything takes in a slow phase."""


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """A run."""

    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1
    arrivals: Arrivals = Arrivals()
    mix: Annotated[tuple[Wish, ...], Meta(min_length=1)] = (Wish(),)
    prompts: tuple[str, ...] = ()
    """Empty: what the variants say that they can paint."""
    fleet: Fleet = Fleet()
    policy: config.PolicyChoice = config.PolicyChoice()
    autoscaler: config.Autoscaler = config.Autoscaler()
    rules: config.Broker = config.Broker()
    clients: Annotated[int, Meta(ge=1, le=1024)] = 64
    """They take turns; each may have as many open requests as the rules say."""
    mishaps: Mishaps = Mishaps()
    neighbours: tuple[Neighbour, ...] = ()
    scores: tuple[tuple[Share, Share], ...] = ()
    """(threshold, share of pictures that a scorer finds below it), ascending; it has its own ruler.
    Empty: the scorer tells what a picture is worth by the ruler of the qualities."""
    sample_s: Positive = 1.0
    """How often memory is looked at for the figures."""


def read(path: Path) -> Scenario:
    """Read a scenario from a TOML file; raises ConfigError."""
    try:
        return parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from None


def parse(text: str) -> Scenario:
    """Read a scenario from TOML text; raises ConfigError."""
    try:
        return msgspec.convert(tomllib.loads(text), Scenario)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"scenario: {error}") from None


SHORT = {
    "devices": "fleet.devices",
    "memory": "fleet.memory_bytes",
    "rate": "arrivals.rate_hz",
    "seconds": "arrivals.seconds",
    "speed": "arrivals.speed",
    "policy": "policy.name",
    "planner": "autoscaler.planner",
}
"""Short words for what is changed most."""


def changed(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """Return a scenario with other values at dotted keys ("fleet.devices", or "devices").

    Texts become what the field wants: a number, or bytes such as "8GiB". Raises ConfigError.
    """
    tree = msgspec.to_builtins(scenario)
    for key, value in changes.items():
        *path, last = SHORT.get(key, key).split(".")
        place = tree
        for name in path:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            words = f"scenario: no {key!r}; short words are {', '.join(sorted(SHORT))}"
            raise ConfigError(f"{words}; others are as in the file, such as mishaps.deaths_per_h")
        place[last] = _meant(last, value)
    try:
        return msgspec.convert(tree, Scenario, strict=False)
    except ValueError as error:
        raise ConfigError(f"scenario: {error}") from None


def wishing(scenario: Scenario, latency_s: float | None, quality: str | None) -> Scenario:
    """Return a scenario whose every request asks for these as well. Raises ConfigError."""
    asked: dict[str, Any] = {}
    if latency_s is not None:
        asked["latency_s"] = latency_s
    if quality is not None:
        asked["quality"] = quality
    try:
        mix = [msgspec.to_builtins(wish) | asked for wish in scenario.mix]
        return replace(scenario, mix=msgspec.convert(mix, tuple[Wish, ...], strict=False))
    except ValueError as error:
        raise ConfigError(f"scenario: {error}") from None


def _meant(name: str, value: Any) -> Any:
    """Return bytes for a text such as "8GiB" where bytes are wanted; raises ConfigError."""
    if not (name.endswith("bytes") and isinstance(value, str)) or value.isdecimal():
        return value
    try:
        return config.parse_bytes(value)
    except ValueError as error:
        raise ConfigError(f"scenario: {name} {error}") from None
