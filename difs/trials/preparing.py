"""What is settled before a trial begins: what was asked for, then goals that fit the service.

All that can be refused is refused here: first without a service, then with it.
"""

import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from difs.client import Client
from difs.client import requests as messages
from difs.client.core import to_exception
from difs.errors import ConfigError, Infeasible, InvalidRequest, RequestError, Unavailable
from difs.messages import StatusReport, VariantInfo
from difs.simulation import scenario as scenarios
from difs.simulation.scenario import Scenario
from difs.trials import results
from difs.trials import workload as workloads
from difs.trials.workload import DEFAULT_CLIENTS, DEFAULT_SECONDS, Workload, wishes_of

PATIENCE_S, POLL_S = 300.0, 0.2
MAX_PROMPTS_BYTES = 16 * 2**20
RATES = {"arrivals.rate_hz", "rate", "arrivals.file"}
"""The keys that say how much is asked."""


class Order(Struct, frozen=True):
    """What was asked for; the rest is chosen for the service."""

    scenario: Scenario
    warmup_s: float
    prompts: tuple[str, ...]
    """Empty: what the service can paint."""
    has_goals: bool
    has_rate: bool


def order(
    scenario_file: Path | None,
    changes: Mapping[str, Any],
    goals: tuple[float | None, str | None],
    prompts: Path | None,
    warmup_s: float,
) -> Order:
    """Return what options ask for, checked as far as that goes without a service.

    `changes`: values at keys of the scenario; `goals`: latency and quality of every request. Raises
    ConfigError or InvalidRequest.
    """
    plain = {"arrivals.seconds": DEFAULT_SECONDS, "clients": DEFAULT_CLIENTS}
    found = scenarios.read(scenario_file) if scenario_file else scenarios.changed(Scenario(), plain)
    found = scenarios.wishing(scenarios.changed(found, changes), *goals)
    made = Order(
        scenario=found,
        warmup_s=warmup_s,
        prompts=read_prompts(prompts) if prompts else found.prompts,
        has_goals=scenario_file is not None or goals != (None, None),
        has_rate=scenario_file is not None or not RATES.isdisjoint(changes),
    )
    provisional = _workload(made, found, made.prompts or ("a picture",))
    if made.has_rate:
        workloads.schedule(provisional)
    check_kinds(provisional)
    return made


def complete(asked: Order, client: Client, report: StatusReport) -> Workload:
    """Return the whole workload: what was not said fits the service. Raises what it would refuse."""
    prompts = asked.prompts or default_prompts(client.variants())
    found = asked.scenario
    if not (asked.has_goals and asked.has_rate):
        seconds = plain_s(client, prompts[0])
        if not asked.has_goals:
            found = replace(found, mix=workloads.default_mix(seconds))
        if not asked.has_rate:
            rate_hz = workloads.default_rate_hz(seconds, len(report.devices))
            found = replace(found, arrivals=replace(found.arrivals, rate_hz=rate_hz))
    return _workload(asked, found, prompts)


def _workload(asked: Order, found: Scenario, prompts: tuple[str, ...]) -> Workload:
    tree = {
        "seed": found.seed,
        "arrivals": found.arrivals,
        "mix": found.mix,
        "prompts": prompts,
        "clients": found.clients,
        "warmup_s": asked.warmup_s,
    }
    try:
        return msgspec.convert(msgspec.to_builtins(tree), Workload)
    except ValueError as error:
        raise ConfigError(f"workload: {error}") from None


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a text file, one a line; raises ConfigError with the line's number."""
    try:
        if path.stat().st_size > MAX_PROMPTS_BYTES:
            raise ConfigError(f"{path.name} is larger than {MAX_PROMPTS_BYTES} bytes")
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read as prompts: {error}") from None
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, prompt in found:
        try:
            messages.build(prompt, {}, progress=False)
        except InvalidRequest as error:
            raise ConfigError(f"{path.name}, line {number}: {error.message}") from None
    if not found:
        raise ConfigError(f"{path.name}: no prompts in it")
    return tuple(prompt for _, prompt in found)


def default_prompts(infos: Sequence[VariantInfo]) -> tuple[str, ...]:
    """Return what all variants that name their captions can paint; with none, a fixed list."""
    told = [{words[0] for words in info.captions} for info in infos if info.captions]
    common = sorted(set.intersection(*told)) if told else []
    plain = files("difs.profiling").joinpath("prompts.txt").read_text("utf-8").splitlines()
    return tuple(common or plain)


def wait_until_settled(client: Client) -> StatusReport:
    """Return the service's state as soon as it loads nothing more; raises Unavailable."""
    end = time.monotonic() + PATIENCE_S
    while True:
        report = client.status()
        if report.ready and not any(device.loading for device in report.devices):
            return report
        if time.monotonic() > end:
            raise Unavailable(f"no device was ready, or one still loaded, after {PATIENCE_S:g} s")
        time.sleep(POLL_S)


def plain_s(client: Client, prompt: str) -> float:
    """Return the seconds that a request which states nothing takes there by itself, as predicted."""
    found = client.explain(prompt)
    if found.refusal is not None:
        raise to_exception(found.refusal)
    if found.plan is None:
        raise Unavailable("no device is ready to plan for")
    return workloads.own_s(found.plan.prediction)


def again(path: Path) -> Workload:
    """Return what an earlier trial asked, checked as far as that goes without a service."""
    found = results.read(path).header.workload
    workloads.schedule(found)
    check_kinds(found)
    return found


def check_kinds(workload: Workload) -> None:
    """Refuse prompts and a mix that no service would take; raises InvalidRequest."""
    for i, prompt in enumerate(workload.prompts, 1):
        try:
            messages.build(prompt, {}, progress=False)
        except InvalidRequest as error:
            raise InvalidRequest(f"prompts, number {i}: {error.message}", field=error.field) from None
    for i, wish in enumerate(workload.mix, 1):
        try:
            messages.build(workload.prompts[0], wishes_of(wish), progress=False)
        except InvalidRequest as error:
            raise InvalidRequest(f"mix, row {i}: {error.message}", field=error.field) from None


def check_with(client: Client, workload: Workload) -> None:
    """Ask what would come of each kind, and raise what would be refused whatever the load is."""
    for i, wish in enumerate(workload.mix, 1):
        refusal = client.explain(workload.prompts[0], **wishes_of(wish)).refusal
        error = to_exception(refusal) if refusal is not None else None
        if isinstance(error, RequestError) and not isinstance(error, Infeasible):
            words = f"mix, row {i} ({workloads.in_words(wish)}): {error.message}"
            raise type(error)(words, field=error.field)
