"""Whole runs: the same seed, the same run; every request ends once; nothing is left over."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import config
from difs.actor_messages import Execute
from difs.errors import ConfigError
from difs.policy import registry
from difs.simulation import figures, mishaps, tables
from difs.simulation import scenario as scenarios
from difs.simulation.device import Device
from difs.simulation.ledger import Ledger
from difs.simulation.scenario import Arrivals, Fleet, Neighbour, Scenario, Wish
from difs.simulation.world import World
from tests.simulated_scenes import MIB, MODELS, NEIGHBOURS, TROUBLE, lived, model, scene

ROOT = Path(__file__).parents[2]

# ---- determinism ----------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    runs = [lived(scene(seed=seed, mishaps=TROUBLE), keeps_lines=True) for seed in (5, 5, 6)]
    assert runs[0].lines == runs[1].lines
    assert runs[0].digest == runs[1].digest != runs[2].digest
    assert figures.of_run(runs[0]) == figures.of_run(runs[1])


SAME = """
from tests.simulated_scenes import TROUBLE, lived, scene
print(lived(scene(seed=3, mishaps=TROUBLE, policy={policy})).digest)
"""


def test_a_run_does_not_depend_on_how_a_process_hashes() -> None:
    text = SAME.format(policy="__import__('difs').config.PolicyChoice('infaas')")
    text = "import difs.config\n" + text
    found = {
        subprocess.check_output(
            [sys.executable, "-c", text], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": number}
        )
        for number in ("1", "2")
    }
    assert len(found) == 1


# ---- conservation ---------------------------------------------------------------------------------

POLICIES = st.sampled_from(sorted(registry.OURS))


def strict(scenario: Scenario, policy: str) -> Scenario:
    """Return a scenario in which the broker checks its books after every event."""
    return scenarios.changed(scenario, {"policy.name": policy, "rules.validate": True})


@given(st.integers(0, 10_000), POLICIES, st.sampled_from([0, 180, 260]))
@settings(max_examples=12, deadline=None)
def test_every_request_ends_once_and_nothing_is_left_over(seed: int, policy: str, mib: int) -> None:
    fleet = Fleet(devices=3, credits=4, memory_bytes=mib * MIB, parking_bytes=150 * MIB)
    mix = (Wish(latency_s=0.5), Wish(n=3, timeout_s=2.0), Wish(best_effort=True, variant="swift"))
    base = scene(seed=seed, mix=mix, fleet=fleet, mishaps=TROUBLE, neighbours=NEIGHBOURS)
    world = World(strict(base, policy), MODELS)
    ledger = world.run()
    assert {fate.ends for fate in ledger.fates.values()} == {1}
    books = world.state.books
    assert not (books.requests or books.waiting or books.attempts or books.holds)
    assert all(pool.free == pool.total for pool in books.pools.values())
    assert not ledger.complaints
    told = figures.of_run(ledger)
    lost = sum(told["refused"].values()) + sum(told["failed"].values())
    assert told["delivered"] + lost == told["requests"] == len(ledger.fates)


def test_faults_really_happen_and_devices_come_back() -> None:
    wanted = scenarios.Mishaps(deaths_per_h=60, hangs_per_h=200, restart_s=0.5)
    ledger = lived(scene(seed=2, arrivals=Arrivals(rate_hz=4.0, seconds=60.0), mishaps=wanted))
    assert {"died", "killed"} <= figures.of_run(ledger)["lives_ended"].keys()
    late = [fate for fate in ledger.fates.values() if fate.arrived_at > 45]
    assert any(fate.is_delivered for fate in late)


class Watched(Device):
    """A device whose memory is looked at whenever something happens."""

    def attend(self, now: float) -> list[Any]:
        reports = super().attend(now)
        memory = self.memory
        assert 0 <= memory.own <= memory.own + memory.others <= memory.total
        return reports


@given(st.integers(0, 1000), st.sampled_from([150, 200, 300]))
@settings(max_examples=10, deadline=None)
def test_memory_is_never_over_its_budget(seed: int, mib: int) -> None:
    fleet = Fleet(devices=2, memory_bytes=mib * MIB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difs.simulation.world.Device", Watched)
        ledger = lived(scene(seed=seed, fleet=fleet, mishaps=TROUBLE, neighbours=NEIGHBOURS))
    assert all(sample.most <= 1.0 for sample in ledger.samples)
    assert any(sample.others for sample in ledger.samples)


# ---- what the world does --------------------------------------------------------------------------


def test_a_neighbour_takes_memory_and_gives_it_back() -> None:
    scenario = scene(
        fleet=Fleet(devices=1, memory_bytes=300 * MIB),
        neighbours=(Neighbour(100 * MIB, begins_s=2.0, seconds=4.0),),
    )
    others = {sample.at: sample.others for sample in lived(scenario).samples}
    assert others[1.0] == others[7.0] == 0
    assert others[3.0] == 100 * MIB


def test_a_slow_device_is_slow_and_then_is_not() -> None:
    slow = scene(mishaps=scenarios.Mishaps(slow_per_h=3600, slow_s=60, slowness=4))
    calm, slowed = figures.of_run(lived(scene())), figures.of_run(lived(slow))
    assert slowed["p95_s"] > calm["p95_s"]
    assert slowed["mean_quality"] < calm["mean_quality"], "lighter points are taken"


def test_calls_are_shared_under_load() -> None:
    """A device does half as much again as it would one picture after the other."""
    mix = (Wish(variant="good", steps=20),)
    scenario = scene(mix=mix, arrivals=Arrivals(rate_hz=8.0, seconds=20.0), fleet=Fleet(devices=1))
    told = figures.of_run(lived(scenario))
    alone_s = 0.005 + 20 * 0.016 + 0.012
    assert told["delivered"] / told["seconds"] > 1.5 / alone_s


def test_promises_hold_where_predictions_are_right() -> None:
    told = figures.of_run(lived(scene(arrivals=Arrivals(rate_hz=3.0, seconds=60.0))))
    assert told["attainment"] == 1.0


def test_what_the_policy_does_not_know_of_is_not_known_to_it() -> None:
    """Arrivals of another seed's tail change nothing that happened before."""
    short = World(scene(), MODELS, times=[0.1, 0.2, 0.3], keeps_lines=True).run()
    longer = World(scene(), MODELS, times=[0.1, 0.2, 0.3, 9.0], keeps_lines=True).run()
    before = [line for line in longer.lines if float(line.split()[0]) < 0.9]
    assert short.lines[: len(before)] == before


def test_the_cascade_hears_scores_and_paints_the_hard_ones_again() -> None:
    scores = ((0.0, 0.0), (0.3, 0.5), (1.0, 1.0))
    scenario = scene(
        scores=scores, mix=(Wish(latency_s=3.0),), arrivals=Arrivals(rate_hz=15.0, seconds=40.0)
    )
    ledger = lived(scenarios.changed(scenario, {"policy.name": "cascade"}))
    heavy = [f.ease for f in ledger.fates.values() if f.plan is not None and f.plan.variant == "good"]
    light = [f.ease for f in ledger.fates.values() if f.plan is not None and f.plan.variant == "swift"]
    assert heavy
    assert light
    assert sum(heavy) / len(heavy) < sum(light) / len(light) - 0.1, "by chance it is not so much"


@pytest.mark.parametrize(
    ("ease", "score"), [(0.0, 0.0), (0.25, 0.15), (0.5, 0.3), (0.75, 0.65), (1.0, 1.0)]
)
def test_scores_follow_the_shares_that_a_table_tells(ease: float, score: float) -> None:
    assert tables.score_at(((0.0, 0.0), (0.3, 0.5), (1.0, 1.0)), ease) == pytest.approx(score)


def test_a_thousand_devices_are_simulated() -> None:
    scenario = scene(arrivals=Arrivals(rate_hz=40.0, seconds=1.0), fleet=Fleet(devices=1000))
    told = figures.of_run(lived(scenario))
    assert told["delivered"] == told["requests"] > 20


def test_mishaps_are_drawn_in_order_and_within_the_run() -> None:
    found = mishaps.draw(scene(mishaps=TROUBLE, neighbours=NEIGHBOURS), 100.0)
    assert all(a.at <= b.at for a, b in pairwise(found))
    assert {m.kind for m in found} == {"die", "hang", "slow", "steady", "neighbour"}
    assert all(m.at < 100.0 for m in found if m.kind in ("die", "hang", "slow"))


# ---- scenarios ------------------------------------------------------------------------------------


def test_a_scenario_is_read_from_toml_and_changed_by_key() -> None:
    found = scenarios.parse("seed = 4\n[[mix]]\nlatency_s = 2.0\n[fleet]\ndevices = 3\n")
    assert (found.seed, found.mix[0].latency_s, found.fleet.devices) == (4, 2.0, 3)
    again = scenarios.changed(found, {"devices": "5", "memory": "8GiB", "mishaps.deaths_per_h": "2"})
    assert again.fleet == Fleet(devices=5, memory_bytes=8 * 2**30)
    assert again.mishaps.deaths_per_h == 2.0
    assert again.mix == found.mix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("devices = 1", "devices"),
        ("[fleet]\ndevices = 0", "devices"),
        ("seed = -1", "seed"),
        ("[", "TOML|scenario"),
    ],
)
def test_a_bad_scenario_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scenarios.parse(text)


@pytest.mark.parametrize("changes", [{"device": 2}, {"devices": "many"}, {"memory": "8 apples"}])
def test_a_bad_change_is_refused_in_words(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="scenario"):
        scenarios.changed(scene(), changes)


def test_what_is_to_be_preloaded_must_have_a_table() -> None:
    with pytest.raises(ConfigError, match=r"fleet\.preload.*'other'.*good, swift"):
        World(scene(fleet=Fleet(preload=("other",))), MODELS)


def test_a_policy_of_ones_own_is_simulated_like_any_other() -> None:
    policy = registry.load("static")
    policy.name = "mine"
    world = World(scene(), MODELS, policy=policy)
    plans = [fate.plan for fate in world.run().fates.values()]
    assert {plan.policy for plan in plans if plan is not None} == {"mine"}
    assert world.state.books.policy is policy


# ---- figures --------------------------------------------------------------------------------------


def test_the_figures_count_what_is_late_or_refused_as_worth_nothing() -> None:
    overload = scene(
        mix=(Wish(latency_s=0.3, on_infeasible="reject", variant="good"),),
        arrivals=Arrivals(rate_hz=60.0, seconds=4.0),
    )
    told = figures.of_run(lived(overload))
    assert told["refused"]
    assert told["quality_attainment"] < told["attainment"] < 1.0
    assert told["promises_kept"] > told["attainment"]


def test_a_run_without_requests_has_figures() -> None:
    told = figures.of_run(World(scene(), MODELS, times=[]).run())
    assert told["requests"] == 0
    assert told["attainment"] is told["mean_s"] is None


def test_percentiles_are_nearest_ranks() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [figures.percentile(values, share) for share in (0.0, 0.5, 0.75, 0.99, 1.0)] == [1, 2, 3, 4, 4]


def test_a_ledger_keeps_lines_only_where_they_are_wanted() -> None:
    silent, loud = Ledger(), Ledger(keeps_lines=True)
    for ledger in (silent, loud):
        ledger.happened(1.5, "to", "cuda-0", "Execute")
    assert silent.digest == loud.digest
    assert (silent.lines, loud.lines) == ([], ["1.500000000 to cuda-0 Execute"])


def test_executes_carry_what_the_policy_planned() -> None:
    seen: list[Execute] = []
    original = Device.take

    def take(self: Device, message: Any, now: float) -> None:
        if isinstance(message, Execute):
            seen.append(message)
        original(self, message, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "take", take)
        lived(scene(mix=(Wish(steps=7, variant="good"),)))
    assert {(e.variant, e.steps) for e in seen} == {("good", 7)}


# ---- tables ---------------------------------------------------------------------------------------

RUN_TIMES = """,Model,Accel,batchsize,avg_runtime,50th_pct
0,sdturbo,a,1,100,100
1,sdturbo,a,2,150,150
2,sdv15,a,1,2000,2000
3,sdv15,a,2,2500,2500
4,sdv15,a,4,100000,100000
5,sdv15,b,1,7,7
"""


def test_run_times_of_whole_pictures_become_steps() -> None:
    found = tables.diffserve("x_sdturbo.csv", RUN_TIMES)
    heavy, light = found["sd15"], found["sd-turbo"]
    steps = heavy.modes["full"].resident.costs.steps
    assert [(cost.rows, cost.seconds) for cost in steps] == [
        (2, 0.04),
        (4, 0.05),
    ]  # one that broke is out
    assert light.modes["full"].resident.costs.steps[0].seconds == 0.1
    assert heavy.info.quality_kind == light.info.quality_kind == "declared"
    assert [p.steps for p in heavy.info.quality] == [10, 20, 50]
    assert [
        p.steps for p in tables.diffserve("x_sdturbo.csv", RUN_TIMES, has_dial=False)["sd15"].info.quality
    ] == [50]


@pytest.mark.parametrize(
    ("name", "text"), [("other.csv", RUN_TIMES), ("x_sdxs.csv", ",Model,batchsize\n")]
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"csv"):
        tables.read(path, {})


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no profile"):
        tables.read(tmp_path, {})


def test_the_slots_of_a_simulated_device_are_those_of_the_default_configuration() -> None:
    world = World(scene(), MODELS)
    total = sum(config.Shm().slots.values())
    assert {pool.total for pool in world.state.books.pools.values()} == {total}


def test_a_variant_too_large_for_the_device_leaves_the_others() -> None:
    models = {**MODELS, "huge": model("huge", mib=1000)}
    told = figures.of_run(lived(scene(fleet=Fleet(memory_bytes=300 * MIB)), models=models))
    assert told["delivered"] > 0
    assert "huge" not in told["variants"]
