"""difs.autoscaler.baselines: INFaaS's scale rules, and planners by name."""

import pytest

from difs.autoscaler import registry
from difs.autoscaler.base import DeviceView, Load, Park, Planner, Replicate, ResidentView, View
from difs.autoscaler.baselines import Individual, Infaas, Static
from difs.autoscaler.plan import Utility
from difs.errors import ConfigError
from tests.scaling import GB, device, form, view

FORMS = {
    "slow": (form("full", GB, serve_s=1.0),),
    "fast": (form("full", 2 * GB, serve_s=0.2),),
    "other": (form("full", GB, serve_s=0.1),),
}
FAMILIES = {"slow": "sd15", "fast": "sd15", "other": "sdxl"}


def gpu(number: int = 0, rate_hz: float | None = None, **facts: object) -> DeviceView:
    """Return a GPU that has `slow`, if anything, and is asked so often for it."""
    here = {} if rate_hz is None else {"slow": ResidentView("full", rate_hz=rate_hz)}
    return device(f"cuda-{number}", here, FORMS, **facts)


def seen(*devices: DeviceView, memory: object = None) -> View:
    return view(*devices, families=FAMILIES, memory=memory)


def planned(planner: Planner, *devices: DeviceView) -> list[tuple[type, str, str]]:
    return [(type(a), a.device, a.variant) for a in planner.plan(seen(*devices)).actions]


def test_static_keeps_one_replica_on_gpus_and_two_on_cpus() -> None:
    assert planned(Static(), gpu(0, 9.0), gpu(1)) == []
    cpus = [device(f"cpu-{n}", {} if n else {"slow": ResidentView("full")}, FORMS) for n in range(3)]
    assert planned(Static(), *cpus) == [(Replicate, "cpu-1", "slow")]


def test_individual_replicates_the_variant_itself_as_often_as_its_demand_needs() -> None:
    assert planned(Individual(), gpu(0, 0.9), gpu(1), gpu(2)) == []
    assert planned(Individual(), gpu(0, 1.5), gpu(1), gpu(2)) == [(Replicate, "cuda-1", "slow")]
    assert len(planned(Individual(), gpu(0, 2.5), gpu(1), gpu(2))) == 2


def test_infaas_had_rather_load_a_faster_variant_of_the_family_than_exceed_its_replicas() -> None:
    assert planned(Infaas(), gpu(0, 1.5), gpu(1), gpu(2)) == [(Load, "cuda-1", "fast")]


def test_infaas_replicates_where_the_family_has_nothing_faster() -> None:
    forms = {"slow": FORMS["slow"]}
    busy = device("cuda-0", {"slow": ResidentView("full", rate_hz=1.5)}, forms)
    made = Infaas().plan(view(busy, device("cuda-1", {}, forms), families={"slow": "sd15"}))
    assert [(type(a), a.device) for a in made.actions] == [(Replicate, "cuda-1")]


def test_nothing_is_loaded_where_there_is_no_memory() -> None:
    full = gpu(1, None, others_bytes=8 * GB)
    assert planned(Individual(), gpu(0, 1.5, total_bytes=GB), full) == []


@pytest.mark.parametrize(("kind", "rounds"), [("cuda", 20), ("cpu", 10)])
def test_a_replica_goes_when_enough_rounds_in_a_row_want_it(kind: str, rounds: int) -> None:
    devices = [
        device(f"{kind}-{n}", {"slow": ResidentView("full"), "other": ResidentView("full")}, FORMS)
        for n in range(2)
    ]
    memory: object = None
    for _ in range(rounds - 1):
        plan = Individual().plan(seen(*devices, memory=memory))
        assert plan.actions == ()
        memory = plan.memory
    plan = Individual().plan(seen(*devices, memory=memory))
    assert {(type(a), a.variant) for a in plan.actions} >= {(Park, "slow")}


@pytest.mark.parametrize("name", sorted(registry.OURS))
def test_every_planner_of_ours_loads_by_its_name(name: str) -> None:
    made = registry.load(name)
    assert made is not None
    assert made.name == name
    assert made.plan(view()).actions == ()


def test_off_is_no_planner_and_another_name_is_refused_naming_the_nearest() -> None:
    assert registry.load("off") is None
    with pytest.raises(ConfigError, match="no planner 'utilty'; the nearest is utility"):
        registry.load("utilty")
    assert isinstance(registry.load("utility"), Utility)
