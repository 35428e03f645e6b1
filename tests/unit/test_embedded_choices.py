"""What `modelless` takes of the embedded family: its own curves, the seconds of one CPU as profiled."""

from pathlib import Path
from typing import Any

import pytest

from difs import repository
from difs.messages import Generate, Plan, Requirements
from difs.policy.base import Admit, DeviceView, Options, View
from difs.policy.modelless import Modelless
from difs.simulation import tables

TABLES = Path(__file__).parents[2] / "bench" / "tables"


@pytest.fixture(scope="module")
def family() -> View:
    known = repository.scan(repository.locate("model_repo")).variants
    infos = {name: variant.info() for name, variant in known.items()}
    models = tables.read(TABLES, infos)
    here = {name: model.modes["full"].resident for name, model in models.items()}
    return View(0.0, (DeviceView("cpu-0", here, 0.0, 0, 8),), {name: infos[name] for name in here}, 0)


def plan_of(view: View, **wishes: Any) -> Plan:
    request = Generate("r", "red apple", requirements=Requirements(**wishes))
    decision = Modelless(Options()).decide(view, request)
    assert isinstance(decision, Admit)
    return decision.plan


def point(view: View, **wishes: Any) -> tuple[str, int]:
    plan = plan_of(view, **wishes)
    return plan.variant, plan.steps


def test_goals_take_different_points_of_the_embedded_family(family: View) -> None:
    draft, soon, best = (point(family, **w) for w in ({"quality": "draft"}, {}, {"quality": "best"}))
    assert len({draft, soon, best}) == 3
    hurried, calm = plan_of(family, latency_s=0.05), plan_of(family, latency_s=2.0)
    assert (hurried.variant, hurried.steps) != (calm.variant, calm.steps)
    assert (hurried.expected_quality or 0) < (calm.expected_quality or 0)


def test_ten_seconds_buy_no_more_than_two_because_nothing_measured_is_better(family: View) -> None:
    calm = plan_of(family, latency_s=2.0)
    assert point(family, latency_s=10.0) == (calm.variant, calm.steps)
    most = max(q.score for info in family.variants.values() for q in info.quality if q.side == 64)
    assert calm.expected_quality == round(most, 3)


def test_thousandths_are_not_bought_with_others_time(family: View) -> None:
    (idle,) = family.devices
    wanted = DeviceView("cpu-0", idle.residents, 0.0, 0, 8, wants={"emoji-turbo": 1})
    busy = View(0.0, (wanted,), family.variants, 0)
    assert point(busy, latency_s=2.0) == point(family)
    bought = plan_of(busy, latency_s=2.0).expected_quality
    assert bought is not None
    assert bought == round(bought, 2)
