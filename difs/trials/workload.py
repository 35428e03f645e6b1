"""What a trial asks and when: computed wholly beforehand, from a seed. Pure.

Arrivals and kinds of requests are those of a simulator's scenario, so that one file serves both.
Times, kinds, prompts and seeds are drawn from streams of their own; those of the warm-up too, so that
a longer one changes nothing of what is counted.
"""

import hashlib
from collections.abc import Sequence
from itertools import cycle, islice
from random import Random
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct

from difs.client.requests import Wishes
from difs.errors import ConfigError
from difs.messages import Prediction
from difs.simulation.arrivals import bounded, poisson
from difs.simulation.scenario import Arrivals, NotNegative, Positive, Wish

MAX_CLIENTS = 128
"""Connections of one generator: each has threads and open files of its own."""
MAX_REQUESTS = 200_000
DEFAULT_SECONDS, DEFAULT_WARMUP_S, DEFAULT_CLIENTS = 60.0, 5.0, 16
DEFAULT_LOAD = 0.5
"""Of what the devices would do with one request after another."""
SEEDS_A_TRIAL = 10_000_000


class Workload(Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides what is asked and when."""

    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    arrivals: Arrivals
    mix: Annotated[tuple[Wish, ...], Meta(min_length=1)]
    prompts: Annotated[tuple[str, ...], Meta(min_length=1)]
    clients: Annotated[int, Meta(ge=1, le=MAX_CLIENTS)] = DEFAULT_CLIENTS
    """Connections; they take turns."""
    warmup_s: NotNegative = DEFAULT_WARMUP_S
    """Seconds of requests at the same mean rate that come first and are not counted."""
    sample_s: Positive = 0.5
    """How often the service is asked for its state."""


class Due(Struct, frozen=True):
    """One request of a schedule."""

    number: int
    at_s: float
    """From the first moment that counts; negative: warm-up."""
    kind: int
    """Which row of the mix it is."""
    prompt: int
    seed: int


def schedule(workload: Workload) -> tuple[Due, ...]:
    """Return all requests in order of time; raises ConfigError when there are none, or too many."""
    times = workload.arrivals.times(Random(f"arrivals {workload.seed}"))
    if not times:
        raise ConfigError("arrivals: none within the seconds; raise the rate or the seconds")
    counted = _dressed(workload, times, "counted", first_seed=0)
    rate_hz = len(times) / window_s(workload.arrivals, times[-1])
    early = _dressed(workload, _warm_up(workload, rate_hz), "warm-up", first_seed=SEEDS_A_TRIAL // 2)
    if (total := len(early) + len(counted)) > MAX_REQUESTS:
        raise ConfigError(f"arrivals: {total} requests; a trial has at most {MAX_REQUESTS}")
    return tuple(
        Due(number, at_s, *rest) for number, (at_s, *rest) in enumerate([*early, *counted], -len(early))
    )


def window_s(arrivals: Arrivals, last_s: float) -> float:
    """Return the seconds that a trial asks for: as said, or a trace's own length where that is less."""
    return last_s if arrivals.pattern == "file" and last_s else arrivals.seconds


def _warm_up(workload: Workload, rate_hz: float) -> list[float]:
    """Return times before 0: a Poisson process of the trial's mean rate."""
    if not workload.warmup_s:
        return []
    dice = Random(f"warm-up {workload.seed}")
    found = bounded(lambda: poisson(rate_hz, workload.warmup_s, dice))
    return [at - workload.warmup_s for at in found]


def _dressed(
    workload: Workload, times: Sequence[float], stream: str, *, first_seed: int
) -> list[tuple[float, int, int, int]]:
    """Give each time a kind by its share, a prompt (all equally often) and a seed of its own."""
    dice = Random(f"{stream} {workload.seed}")
    shares = [wish.share for wish in workload.mix]
    kinds = dice.choices(range(len(shares)), shares, k=len(times))
    prompts = list(range(len(workload.prompts)))
    dice.shuffle(prompts)
    first_seed += workload.seed * SEEDS_A_TRIAL
    return list(
        zip(times, kinds, islice(cycle(prompts), len(times)), range(first_seed, 2**63), strict=False)
    )


def digest(workload: Workload, plan: Sequence[Due]) -> str:
    """Return a hash of all that is asked and when: equal for what can be compared request by request."""
    asked = msgspec.json.encode((workload.mix, workload.prompts, [due for due in plan if due.at_s >= 0]))
    return hashlib.blake2b(asked, digest_size=8).hexdigest()


def wishes_of(wish: Wish) -> Wishes:
    """Return a kind of request as arguments of the client; nothing is tried again."""
    width, height = wish.size or (None, None)
    told: dict[str, Any] = {
        "latency_s": wish.latency_s,
        "quality": wish.quality,
        "on_infeasible": wish.on_infeasible,
        "priority": wish.priority,
        "best_effort": wish.best_effort,
        "variant": wish.variant,
        "family": wish.family,
        "steps": wish.steps,
        "n": wish.n,
        "width": width,
        "height": height,
        "timeout_s": wish.timeout_s,
        "retries": 0,
    }
    return cast(Wishes, {name: value for name, value in told.items() if value is not None})


def in_words(wish: Wish) -> str:
    """Return what a kind of request asks for, in short."""
    said = [
        f"within {wish.latency_s:g} s" if wish.latency_s is not None else "",
        "or refused" if wish.on_infeasible == "reject" else "",
        f"quality {wish.quality}" if wish.quality is not None else "",
        wish.variant or wish.family or "",
        f"{wish.steps} steps" if wish.steps else "",
        f"{wish.n} images" if wish.n > 1 else "",
        "{}x{}".format(*wish.size) if wish.size else "",
        "best effort" if wish.best_effort else "",
    ]
    return " ".join(filter(None, said)) or "nothing stated"


# ---- what nobody said ----------------------------------------------------------------------------


def own_s(prediction: Prediction) -> float:
    """Return the seconds that a request itself takes, without waiting and loading."""
    return prediction.encode_s + prediction.steps_s + prediction.decode_s


def default_mix(plain_s: float) -> tuple[Wish, ...]:
    """Return goals that fit a machine on which a request that states nothing takes `plain_s` seconds."""
    return (
        Wish(share=2),
        Wish(quality="high"),
        Wish(quality="draft"),
        Wish(share=2, latency_s=_rounded(4 * plain_s)),
        Wish(share=2, latency_s=_rounded(2 * plain_s), on_infeasible="reject"),
    )


def default_rate_hz(plain_s: float, devices: int) -> float:
    """Return half of what so many devices do a second with one request after another."""
    return _rounded(DEFAULT_LOAD * max(1, devices) / plain_s)


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
