"""A CPU's memory budget: real tensor bytes are counted, each once, and what does not fit is refused."""

from pathlib import Path

import pytest

from difs.actor_messages import Evicted, LoadFailed
from tests.engine.conftest import Bench


def test_tensors_are_counted_while_they_are_on_the_device(tiny_repo: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny_repo)
    assert bench.engine.held_bytes() == 0
    found = bench.load("sd15")
    assert 0 < bench.engine.held_bytes() <= found.weight_bytes
    bench.engine.evict("sd15")
    (left,) = bench.work()
    assert isinstance(left, Evicted)
    assert left.parked is not None
    assert bench.engine.held_bytes() == 0, "host memory is not the device's"
    bench.engine.evict("sd15", is_final=True)
    assert bench.work() == [Evicted("sd15", None, ("sd15",))]
    bench.close()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_does_not_fit_into_the_budget_is_refused(
    tiny_repo: Path, tmp_path: Path, share: float
) -> None:
    bench = Bench(tmp_path, tiny_repo)
    bench.load("sd15")
    need = bench.engine.held_bytes()
    bench.close()
    again = tmp_path / "again"
    again.mkdir()
    tight = Bench(again, tiny_repo, memory_budget=round(share * need))
    tight.engine.load("sd15")
    (report,) = tight.work()
    assert isinstance(report, LoadFailed) == (share < 1.0)
    if isinstance(report, LoadFailed):
        assert "memory_budget" in report.message
        assert tight.engine.held_bytes() == 0
    tight.close()
