"""The torch engine: reports, cancel between steps, deadlines, failures that stay alone."""

import numpy as np
import pytest
import torch

from difs.actor_messages import Ended, Finished, Stepped
from difs.actors.pipelines import RECIPES, StableDiffusion
from difs.clock import MonotonicClock
from difs.errors import EngineFailed, UnknownName
from tests.engine.conftest import Bench

pytestmark = pytest.mark.torch


def test_every_step_is_reported_and_counts_up(bench: Bench) -> None:
    *steps, last = bench.run(bench.execute(seeds=(1, 2)))
    assert [(s.image, s.step, s.steps) for s in steps if isinstance(s, Stepped)] == [
        (image, step, 4) for image in (0, 1) for step in (1, 2, 3, 4)
    ]
    assert isinstance(last, Finished)
    assert len(last.images) == 2
    assert min(last.encode_s, last.steps_s, last.decode_s, last.deliver_s) > 0


def test_cancel_between_two_steps_ends_the_attempt_and_nothing_else(bench: Bench) -> None:
    first, second = bench.execute("red apple", steps=20), bench.execute("cat", steps=4)
    alone = bench.paint(bench.execute("cat", steps=4))[0]
    bench.engine.submit(first)
    bench.engine.submit(second)
    assert bench.engine.turn() is None  # the prompt's encoding
    assert isinstance(bench.engine.turn(), Stepped)
    assert bench.engine.abort(first.attempt) == Ended(
        first.attempt, "cancelled", "aborted between two steps"
    )
    assert bench.engine.abort(first.attempt) is None
    reports = []
    while bench.engine.is_busy:
        reports.append(bench.engine.turn())
    assert {r.attempt for r in reports if r is not None} == {second.attempt}
    assert isinstance(reports[-1], Finished)
    sealed, slot = reports[-1].images[0], second.slots[0]
    pixels = np.frombuffer(bench.reader.image(slot.offset, sealed.nbytes, slot.generation), np.uint8)
    assert np.array_equal(pixels, alone.ravel())


def test_nothing_is_computed_after_the_deadline(bench: Bench) -> None:
    execute = bench.execute(deadline=MonotonicClock().now() - 1)
    assert bench.run(execute) == [Ended(execute.attempt, "expired", "the deadline passed")]


def test_a_failure_is_typed_and_the_engine_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(self: object, work: object) -> None:
        raise torch.OutOfMemoryError("no memory\nwith details")

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, "step", out_of_memory)
        (report,) = bench.run(bench.execute())
    assert isinstance(report, Ended)
    assert (report.code, report.message) == ("out_of_memory", "no memory")
    assert isinstance(bench.run(bench.execute())[-1], Finished)


def test_a_variant_that_is_not_loaded_is_refused(bench: Bench) -> None:
    (report,) = bench.run(bench.execute(variant="nobody"))
    assert isinstance(report, Ended)
    assert report.code == "engine_failed"
    with pytest.raises(UnknownName):
        bench.engine.load("nobody")


def test_a_prompt_that_is_too_long_is_painted_with_a_note(bench: Bench) -> None:
    last = bench.run(bench.execute("apple " * 40))[-1]
    assert isinstance(last, Finished)
    assert "tokens were not used" in last.notes[0]


def test_load_measures_real_costs(bench: Bench) -> None:
    resident, costs = bench.resident, bench.resident.costs
    assert (resident.precision, resident.memory_mode, costs.pixels) == ("fp32", "full", 64 * 64)
    assert resident.weight_bytes > 50_000_000  # 14.6 M parameters in fp32
    assert min(costs.encode_s, costs.step_s, costs.bare_step_s, costs.decode_s, costs.load_s) > 0


def test_a_family_without_a_recipe_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RECIPES, "sd15")
    with pytest.raises(EngineFailed, match="no recipe for family 'sd15'"):
        bench.engine.load("emoji-base")
