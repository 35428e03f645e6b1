"""What a trial asks and when: drawn once, from a seed, before anything is sent."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.client import requests
from difs.errors import ConfigError, InvalidRequest
from difs.messages import Prediction
from difs.simulation.scenario import Arrivals, Wish
from difs.trials import preparing
from difs.trials import workload as workloads
from tests.trials import workload

PATTERNS = st.sampled_from(["poisson", "burst", "diurnal"])


@settings(max_examples=40)
@given(st.integers(0, 2**31 - 1), PATTERNS, st.floats(0, 20), st.floats(0, 20))
def test_a_warm_up_changes_nothing_of_what_counts(
    seed: int, pattern: Any, short_s: float, long_s: float
) -> None:
    arrivals = Arrivals(pattern=pattern, rate_hz=20.0, seconds=20.0)
    plans = [
        workloads.schedule(workload(seed=seed, arrivals=arrivals, warmup_s=warmup_s))
        for warmup_s in (short_s, long_s)
    ]
    counted = [[due for due in plan if due.number >= 0] for plan in plans]
    assert counted[0] == counted[1]
    for plan in plans:
        assert [due.at_s for due in plan] == sorted(due.at_s for due in plan)
        assert all((due.at_s < 0) == (due.number < 0) for due in plan)
        assert len({due.seed for due in plan}) == len(plan)


def test_the_same_seed_asks_the_same_and_another_something_else() -> None:
    one, again, other = (workloads.schedule(workload(seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert [due.at_s for due in one] != [due.at_s for due in other]


def test_kinds_come_by_their_shares_and_prompts_equally_often() -> None:
    mix = (Wish(share=3), Wish(share=1, quality="high"))
    arrivals = Arrivals(rate_hz=200.0, seconds=20.0)
    plan = [due for due in workloads.schedule(workload(mix=mix, arrivals=arrivals)) if due.at_s >= 0]
    kinds, prompts = Counter(due.kind for due in plan), Counter(due.prompt for due in plan)
    assert kinds[0] / len(plan) == pytest.approx(0.75, abs=0.04)
    assert max(prompts.values()) - min(prompts.values()) <= 1


def test_the_digest_is_of_what_is_asked_and_when() -> None:
    def digest(**facts: Any) -> str:
        made = workload(**facts)
        return workloads.digest(made, workloads.schedule(made))

    assert digest() == digest(warmup_s=0.0) == digest(clients=3)
    assert digest() != digest(seed=2)
    assert digest() != digest(prompts=("a cat", "a dog", "a cow"))
    assert digest() != digest(mix=(Wish(),))


def test_a_trace_is_as_long_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("".join(f"{i / 100}\n" for i in range(301)))
    made = workload(arrivals=Arrivals(pattern="file", file=str(path), seconds=600.0), warmup_s=3.0)
    plan = workloads.schedule(made)
    assert workloads.window_s(made.arrivals, plan[-1].at_s) == 3.0
    assert 200 < sum(due.at_s < 0 for due in plan) < 400, "the warm-up has the trace's own rate"


def test_nothing_to_ask_and_too_much_are_refused() -> None:
    with pytest.raises(ConfigError, match="none within the seconds"):
        workloads.schedule(workload(arrivals=Arrivals(rate_hz=1e-6, seconds=1.0)))
    with pytest.raises(ConfigError, match="at most 200000"):
        workloads.schedule(workload(arrivals=Arrivals(rate_hz=1000.0, seconds=300.0)))


WISHES = st.builds(
    Wish,
    latency_s=st.none() | st.floats(0.01, 3600),
    quality=st.none() | st.floats(0, 1) | st.sampled_from(["draft", "best", "auto"]),
    priority=st.integers(0, 9),
    best_effort=st.booleans(),
    on_infeasible=st.sampled_from(["degrade", "reject"]),
    variant=st.none() | st.just("emoji-base"),
    steps=st.none() | st.integers(1, 150),
    n=st.integers(1, 8),
    size=st.none() | st.just((64, 128)),
)


@settings(max_examples=100)
@given(WISHES)
def test_a_client_is_told_all_that_a_kind_asks_for(wish: Wish) -> None:
    sent = requests.build("a cat", workloads.wishes_of(wish), progress=False)
    simulated = wish.message("r", "a cat", seed=1)
    assert msgspec.to_builtins(sent.requirements) == msgspec.to_builtins(simulated.requirements)
    assert sent.overrides == simulated.overrides
    assert (sent.width, sent.height, sent.n, sent.timeout_s) == (
        *(simulated.width, simulated.height, simulated.n, simulated.timeout_s),
    )


def test_a_trial_tries_nothing_again() -> None:
    assert workloads.wishes_of(Wish())["retries"] == 0


def test_goals_and_rate_fit_the_machine() -> None:
    predicted = Prediction(9.0, 9.0, 0.1, 0.35, 0.05, 18.5, "measured")
    seconds = workloads.own_s(predicted)
    assert seconds == pytest.approx(0.5)
    goals = [wish.latency_s for wish in workloads.default_mix(seconds) if wish.latency_s]
    assert goals == [2.0, 1.0]
    assert workloads.default_rate_hz(seconds, devices=3) == pytest.approx(3.0)


# ---- what options ask for ------------------------------------------------------------------------


def order(**options: Any) -> preparing.Order:
    known: dict[str, Any] = {
        "scenario_file": None,
        "changes": {},
        "goals": (None, None),
        "prompts": None,
        "warmup_s": 1.0,
    }
    return preparing.order(**known | options)


def test_a_scenario_of_the_simulator_is_a_workload(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(
        "seed = 9\nclients = 4\n[arrivals]\npattern = 'burst'\nrate_hz = 3\n[fleet]\ndevices = 2\n"
        "[[mix]]\nshare = 3\nlatency_s = 2\n[[mix]]\nquality = 'high'\n"
    )
    found = order(scenario_file=path, changes={"arrivals.seconds": 5.0})
    assert found.has_goals
    assert found.has_rate
    assert found.scenario.arrivals == Arrivals(pattern="burst", rate_hz=3.0, seconds=5.0)
    assert [wish.share for wish in found.scenario.mix] == [3.0, 1.0]


def test_what_is_not_said_is_known_to_be_unsaid() -> None:
    plain = order()
    assert (plain.has_goals, plain.has_rate) == (False, False)
    assert plain.scenario.arrivals.seconds == 60.0
    assert order(changes={"arrivals.rate_hz": 2.0}).has_rate
    assert order(goals=(1.0, None)).has_goals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"goals": (1.0, "splendid")}, ConfigError, "quality"),
        ({"goals": (5000.0, None)}, InvalidRequest, "mix, row 1"),
        ({"changes": {"arrivals.pattern": "tidal"}}, ConfigError, "tidal"),
        ({"changes": {"clients": 1000}}, ConfigError, "clients"),
        ({"warmup_s": -1.0}, ConfigError, "warmup_s"),
        ({"changes": {"arrivals.file": "/nowhere", "arrivals.pattern": "file"}}, ConfigError, "nowhere"),
    ],
)
def test_bad_options_are_refused_before_a_service_is_asked(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        order(**options)


def test_prompts_of_a_scenario_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(f'prompts = ["a cat", "{"x" * 5000}"]')
    with pytest.raises(InvalidRequest, match="prompts, number 2"):
        order(scenario_file=path)


def test_prompts_come_from_a_file_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog  \n")
    assert preparing.read_prompts(path) == ("a cat", "a dog")
    path.write_text("a cat\n" + "x" * 5000 + "\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt, line 2: .*4096"):
        preparing.read_prompts(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="no prompts"):
        preparing.read_prompts(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="cannot be read"):
        preparing.read_prompts(path)


def test_default_prompts_are_what_all_can_paint_else_a_list_that_ships() -> None:
    from difs.messages import VariantInfo

    def info(name: str, *captions: str) -> VariantInfo:
        told = tuple((caption,) for caption in captions)
        return VariantInfo(
            name, "t", "f", "p", "s", 1, 2, 3, 1.0, ((64, 64),), "l", "d", 1, captions=told
        )

    assert preparing.default_prompts([info("a", "cat", "dog"), info("b", "dog"), info("c")]) == ("dog",)
    assert len(preparing.default_prompts([info("c")])) > 10
