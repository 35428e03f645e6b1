"""What is called when a variant is measured."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from difs.actor_messages import Finished
from difs.actors import warmup
from difs.actors.warmup import Measured
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch


class Counted:
    """Times every call as the rows that it has, and keeps the rows of the steps."""

    def __init__(self, painter: Any) -> None:
        self.rows: list[int] = []
        self._step = painter.step

    def timed(self, act: Callable[[], Any]) -> tuple[Any, float]:
        value = act()
        works = act.args[0] if getattr(act, "func", None) == self._step else ()  # type: ignore[attr-defined]
        if works:
            self.rows.append(sum(work.rows for work in works))
        return value, 1.0


def measured(bench: Bench, variant: str, **how: int) -> tuple[list[int], Measured]:
    bench.ensure(variant)
    painter = bench.engine._painters[variant]
    counted = Counted(painter)
    manifest = bench.repository.variant(variant).manifest
    with torch.inference_mode():
        *_, last = warmup.measure(painter, manifest, counted.timed, steps=2, **how)
    assert last is not None
    return counted.rows, last


def test_by_default_the_numbers_of_rows_are_doubled(bench: Bench) -> None:
    _, found = measured(bench, "emoji-base", max_rows=8)
    assert [cost.rows for cost in found.costs.steps] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("variant", "rows"), [("emoji-base", [1, 2, 4, 6, 8]), ("emoji-turbo", [1, 2, 3, 4, 5, 6, 7, 8])]
)
@pytest.mark.parametrize("how", [{"max_rows": 8, "filled_rows": 0}, {"max_rows": 0, "filled_rows": 8}])
def test_a_gpu_is_let_prepare_every_number_of_rows_that_pictures_take(
    bench: Bench, variant: str, rows: list[int], how: dict[str, int]
) -> None:
    called, found = measured(bench, variant, **how)
    assert [cost.rows for cost in found.costs.steps] == rows
    assert all(called.count(n) >= 2 for n in rows), "the first call of each only prepares it"


@pytest.fixture
def preparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Return an engine that has measured emoji-turbo, and has yet to prepare numbers of rows as a GPU."""
    made = Bench(tmp_path, max_rows=8)
    engine = made.engine
    engine._prepares_rows, timed = True, engine._timed_whole
    monkeypatch.setattr(engine, "_timed_whole", lambda act: (timed(act)[0], 1.0))
    engine.load("emoji-turbo")
    while not (engine.residents and engine._measuring["emoji-turbo"].is_whole):
        engine.turn()
    yield made
    made.close()


def test_calls_are_shared_while_a_gpu_is_let_prepare_and_that_gives_way(preparing: Bench) -> None:
    made, engine = preparing, preparing.engine
    made.variant = "emoji-turbo"
    orders = [made.execute(guidance_scale=1.0, seeds=(seed,)) for seed in (1, 2)]
    for order in orders:
        engine.submit(order)
    done: list[Finished] = []
    with made.sharing("emoji-turbo"):
        while len(done) < len(orders):
            done += [r for r in engine.turn() if isinstance(r, Finished)]
    assert [r.seed_contract for r in done] == ["same-noise", "same-noise"]
    assert engine._measuring, "nothing was prepared while somebody waited"
    made.work()
    assert not engine._measuring
    (resident,) = engine.residents
    assert [cost.rows for cost in resident.costs.steps] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_parked_while_a_gpu_is_let_prepare_was_measured(preparing: Bench) -> None:
    preparing.engine.evict("emoji-turbo")
    preparing.work()
    parked = preparing.engine._parking.take("emoji-turbo")
    assert parked is not None
    assert not parked.is_rough
