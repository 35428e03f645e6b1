"""What is measured of a variant after it serves: not lost where the variant leaves meanwhile."""

from difs.actor_messages import Evicted, Loaded, Switched
from tests.engine.conftest import Bench


def begin(bench: Bench, variant: str) -> Loaded:
    """Load a variant until it serves, and no further."""
    bench.engine.load(variant)
    while True:
        for report in bench.engine.turn():
            assert isinstance(report, Loaded), report
            return report


def test_what_was_parked_before_it_was_measured_is_measured_when_it_returns(tiny: Bench) -> None:
    if "sd15" in {found.variant for found in tiny.engine.residents}:
        tiny.engine.evict("sd15", is_final=True)
        tiny.work()
    rough = begin(tiny, "sd15").resident
    assert [cost.rows for cost in rough.costs.steps] == [1, 2], "one picture with guidance, one without"
    tiny.engine.evict("sd15")
    (evicted,) = tiny.work()
    assert isinstance(evicted, Evicted)
    assert evicted.parked is not None
    tiny.engine.load("sd15")
    reports = []
    while tiny.engine.is_busy or not tiny.engine.is_idle:
        reports += tiny.engine.turn()
    assert isinstance(reports[0], Loaded)
    assert isinstance(reports[-1], Switched)
    rows = [cost.rows for cost in reports[-1].resident.costs.steps]
    assert rows[:3] == [1, 2, 4], "what sharing makes of a picture is known now"
    assert reports[-1].resident.costs.load_s == evicted.parked.costs.load_s, "as it came this time"
