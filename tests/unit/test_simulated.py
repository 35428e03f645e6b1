"""difs.actors.simulated: the real engine's messages and slots, with scripted times and faults."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difs.actor_messages import Ended, Finished, Loaded, LoadFailed, Slot, Stepped
from difs.actors.jobs import Job, Painting
from difs.actors.simulated import NATIVE_PIXELS, Fault, Score, Script, parse_script, pattern
from difs.actors.units import DeviceBroken
from difs.errors import ConfigError
from difs.profiles import step_seconds
from difs.shm import segment
from difs.shm.reader import matches
from difs.shm.writer import SegmentWriter
from tests import builders
from tests.studio import PLAN, Studio, ends


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a new segment."""
    return segment.create(tmp_path, PLAN)


@pytest.fixture
def writer(path: Path) -> Iterator[SegmentWriter]:
    """Return the segment's writer."""
    with SegmentWriter(path) as opened:
        yield opened


@pytest.fixture
def studio(path: Path, writer: SegmentWriter, request: pytest.FixtureRequest) -> Studio:
    """Return a studio that follows the test's script, if it has one."""
    made = Studio(path, writer, getattr(request, "param", Script()))
    if not any(fault.phase == "load" for fault in getattr(request, "param", Script()).faults):
        made.load()
    return made


def scripted(*faults: Fault, **seconds: float) -> pytest.MarkDecorator:
    """Give the test's studio a script."""
    script = Script(faults=faults, scores=(), neighbours=(), rooms={}, **seconds)
    return pytest.mark.parametrize("studio", [script], indirect=True, ids=["script"])


TIMES = {"load_s": 3.0, "encode_s": 1.0, "step_s": 2.0, "decode_s": 4.0}


# ---- pictures -----------------------------------------------------------------------------------


def test_a_picture_depends_on_prompt_and_seed_alone(studio: Studio) -> None:
    first = studio.order(1)
    again = studio.order(2, steps=7, guidance_scale=0.0, sampler="euler", negative_prompt="x")
    reports = studio.run(first)
    picture = studio.pixels(first)
    studio.run(again)
    assert isinstance(reports[-1], Finished)
    assert studio.pixels(again) == picture == pattern("red apple", 5, 64, 64).tobytes()


def test_what_is_over_dies_at_once_and_waits_for_no_collector(studio: Studio) -> None:
    def alive() -> int:
        return sum(type(found) in (Job, Painting) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        studio.engine.submit(studio.order(1, seeds=(5, 6)))
        studio.engine.submit(studio.order(2))
        assert alive() == before + 5
        studio.engine.abort(2)
        assert sorted(ends(studio.run())) == [1, 2]
        assert alive() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("other", [("red apple", 6), ("red apples", 5), ("", 5)])
def test_another_prompt_or_seed_is_another_picture(other: tuple[str, int]) -> None:
    assert not np.array_equal(pattern(*other, 64, 64), pattern("red apple", 5, 64, 64))


@pytest.mark.parametrize(("height", "width"), [(64, 80), (80, 64), (2048, 64), (1, 1)])
def test_a_picture_has_the_size_that_was_asked_for(height: int, width: int) -> None:
    picture = pattern("x", 1, height, width)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8


def test_what_is_reported_of_a_picture_is_what_lies_in_its_slot(studio: Studio) -> None:
    order = studio.order(seeds=(5, 6))
    (finished,) = (r for r in studio.run(order) if isinstance(r, Finished))
    assert [sealed.index for sealed in finished.images] == [slot.index for slot in order.slots]
    for i, sealed in enumerate(finished.images):
        data = studio.pixels(order, i)
        assert (len(data), matches(memoryview(data), sealed.crc32)) == (sealed.nbytes, True)
        assert data == pattern("red apple", order.seeds[i], 64, 64).tobytes()


def test_a_file_is_delivered_where_a_file_is_wanted(studio: Studio) -> None:
    order = studio.order(format="png", metadata="{}")
    (finished,) = (r for r in studio.run(order) if isinstance(r, Finished))
    slot = order.slots[0]
    data = studio.reader.image(slot.offset, finished.images[0].nbytes, slot.generation)
    assert bytes(data[:8]) == b"\x89PNG\r\n\x1a\n"


# ---- reports and times --------------------------------------------------------------------------


@scripted(**TIMES)
def test_reports_come_in_order_and_say_the_scripted_seconds(studio: Studio) -> None:
    order = studio.order(7, seeds=(5, 6), steps=2, width=512, height=256, format="jpeg", metadata="")
    assert studio.clock.now() == 3.0
    *steps, finished = studio.run(order)
    assert steps == [Stepped(7, image, step, 2) for step in (1, 2) for image in (0, 1)]
    assert isinstance(finished, Finished)
    half = 512 * 256 / NATIVE_PIXELS
    assert (finished.attempt, finished.seed_contract, finished.shared_by) == (7, "same-noise", 2.0)
    # four rows: the two beyond the first image's cost half of theirs
    assert (finished.encode_s, finished.steps_s, finished.decode_s) == (1.0, 2 * 3 * half, 2 * 4 * half)
    assert studio.clock.now() == 3.0 + 1.0 + 6 * half + 8 * half


@scripted(step_s=2.0)
def test_without_guidance_a_step_costs_half(studio: Studio) -> None:
    order = studio.order(steps=4, guidance_scale=1.0, width=512, height=512, format="jpeg")
    finished = studio.run(order)[-1]
    assert isinstance(finished, Finished)
    assert finished.steps_s == 4.0


def test_a_sampler_that_evaluates_more_reports_more_steps(studio: Studio) -> None:
    steps = [r for r in studio.run(studio.order(sampler="heun", steps=3)) if isinstance(r, Stepped)]
    assert [(r.step, r.steps) for r in steps] == [(k, 5) for k in range(1, 6)]


@scripted(**TIMES)
def test_loading_reports_what_it_costs(studio: Studio) -> None:
    (loaded,) = studio.load("wide")
    assert isinstance(loaded, Loaded)
    resident = loaded.resident
    assert (resident.variant, resident.precision, resident.weight_bytes) == ("wide", "fp16", 1000)
    costs = resident.costs
    assert (costs.pixels, costs.load_s, costs.encode_s) == (NATIVE_PIXELS, 3.0, 1.0)
    seconds = [step_seconds(costs, NATIVE_PIXELS, rows) for rows in (1, 2, 4, 8)]
    assert (seconds, costs.decode_s) == ([1.0, 2.0, 3.0, 5.0], 4.0)


def test_a_variant_is_loaded_into_the_mode_that_is_asked_for(studio: Studio) -> None:
    studio.engine.load("wide", "tiled")
    (loaded,) = studio.run()
    assert isinstance(loaded, Loaded)
    assert loaded.resident.memory_mode == "tiled"


def test_attempts_of_equal_laxity_end_in_the_order_in_which_they_came(studio: Studio) -> None:
    orders = [studio.order(attempt, steps=2) for attempt in (4, 2, 9)]
    assert ends(studio.run(*orders)) == [4, 2, 9]


def test_nothing_to_do_is_nothing_to_report(studio: Studio) -> None:
    assert (studio.engine.is_busy, studio.engine.turn(), studio.engine.attempts) == (False, [], ())


# ---- ends ---------------------------------------------------------------------------------------


def test_an_attempt_is_aborted_between_two_steps(studio: Studio) -> None:
    studio.engine.submit(studio.order(1, steps=9))
    studio.engine.submit(studio.order(2, steps=4))
    while Stepped(1, 0, 3, 9) not in studio.engine.turn():
        pass
    studio.engine.abort(1)
    (ended, *others) = studio.run()
    assert isinstance(ended, Ended)
    assert (ended.attempt, ended.code) == (1, "cancelled")
    assert {report.attempt for report in others if isinstance(report, (Stepped, Finished))} == {2}


def test_an_attempt_is_aborted_before_its_turn(studio: Studio) -> None:
    for attempt in (1, 2):
        studio.engine.submit(studio.order(attempt))
    studio.engine.abort(2)
    reports = studio.run()
    assert reports[0] == Ended(2, "cancelled", "aborted between two steps")
    assert ends(reports) == [2, 1]


def test_what_is_not_here_cannot_be_aborted(studio: Studio) -> None:
    studio.engine.abort(99)
    studio.run(studio.order(1))
    studio.engine.abort(1)
    assert studio.run() == []


def test_all_attempts_can_be_forgotten(studio: Studio) -> None:
    studio.engine.submit(studio.order())
    studio.engine.clear()
    assert (studio.engine.is_busy, studio.engine.turn()) == (False, [])


@scripted(step_s=64.0)
def test_an_attempt_ends_at_its_deadline(studio: Studio) -> None:
    *steps, ended = studio.run(studio.order(steps=50, deadline=3.0))  # a step of 64x64 takes 1 s
    assert len(steps) == 3
    assert isinstance(ended, Ended)
    assert ended.code == "expired"
    assert studio.clock.now() == 3.0


def test_an_attempt_whose_deadline_has_passed_is_not_begun(studio: Studio) -> None:
    studio.clock.advance(50.0)
    (ended,) = studio.run(studio.order(deadline=50.0))
    assert isinstance(ended, Ended)
    assert ended.code == "expired"


def test_a_variant_that_was_evicted_cannot_be_painted_with(studio: Studio) -> None:
    studio.engine.evict("tiny")
    (evicted, ended) = studio.run(studio.order())
    assert evicted.variant == "tiny"  # type: ignore[union-attr]
    assert isinstance(ended, Ended)
    assert ended.code == "engine_failed"
    studio.engine.evict("tiny")  # twice is no error


def test_a_variant_that_nobody_knows_cannot_be_loaded(studio: Studio) -> None:
    (failed,) = studio.load("../tiny")
    assert isinstance(failed, LoadFailed)
    assert "no variant" in failed.message


def test_a_slot_that_is_too_small_ends_the_attempt_alone(studio: Studio) -> None:
    tight = builders.execute(attempt=1, slots=(Slot(0, PLAN.slots[0].offset, 100, 1),), is_alone=True)
    reports = studio.run(tight, studio.order(2))
    ended = next(report for report in reports if isinstance(report, Ended))
    assert (ended.attempt, ended.code) == (1, "internal")
    assert isinstance(reports[-1], Finished)


# ---- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["encode", "step", "decode"])
@pytest.mark.parametrize(("kind", "code"), [("error", "engine_failed"), ("oom", "out_of_memory")])
def test_a_scripted_failure_ends_its_attempt_and_the_engine_goes_on(
    path: Path, writer: SegmentWriter, phase: Any, kind: Any, code: str
) -> None:
    studio = Studio(path, writer, Script(faults=(Fault(kind, "bad", phase),)))
    studio.load()
    reports = studio.run(studio.order(1, prompt="a bad apple"), studio.order(2))
    ended = next(report for report in reports if isinstance(report, Ended))
    assert (ended.attempt, ended.code) == (1, code)
    assert isinstance(reports[-1], Finished)
    assert reports[-1].attempt == 2


@scripted(Fault("error", step=3))
def test_a_failure_comes_at_its_step(studio: Studio) -> None:
    *steps, ended = studio.run(studio.order(steps=9))
    assert [r.step for r in steps if isinstance(r, Stepped)] == [1, 2]
    assert isinstance(ended, Ended)


@scripted(Fault("error", times=2))
def test_a_failure_comes_as_often_as_scripted(studio: Studio) -> None:
    reports = [report for attempt in (1, 2, 3, 4) for report in studio.run(studio.order(attempt))]
    kinds = [(type(r), r.attempt) for r in reports if isinstance(r, (Ended, Finished))]
    assert kinds == [(Ended, 1), (Ended, 2), (Finished, 3), (Finished, 4)]


@scripted(Fault("oom", "tin", "load", times=1), load_s=2.0)
def test_a_scripted_failure_to_load_is_told_after_the_time_that_loading_takes(studio: Studio) -> None:
    assert studio.load() == [LoadFailed("tiny", "a scripted lack of memory")]
    assert studio.clock.now() == 2.0
    assert isinstance(studio.load()[0], Loaded)


@scripted(Fault("error", "", "load"))
def test_a_variant_that_failed_to_load_is_not_resident(studio: Studio) -> None:
    assert isinstance(studio.load()[0], LoadFailed)
    (ended,) = studio.run(studio.order())
    assert isinstance(ended, Ended)


@scripted(Fault("sticky"))
def test_a_sticky_fault_reaches_whoever_runs_the_engine(studio: Studio) -> None:
    with pytest.raises(DeviceBroken):
        studio.run(studio.order())


# ---- scripts ------------------------------------------------------------------------------------


def test_a_script_is_read_from_toml() -> None:
    text = """
        step_s = 0.5
        load_s = 2
        [[faults]]
        kind = "kill"
        prompt = "boom"
        phase = "decode"
        times = 1
        [[faults]]
        kind = "error"
    """
    faults = (Fault("kill", "boom", "decode", times=1), Fault("error"))
    assert parse_script(text) == Script(load_s=2.0, step_s=0.5, faults=faults)
    assert parse_script("") == Script()


@pytest.mark.parametrize(
    "text",
    [
        "steps = 1",
        "[[faults]]\nkind = 'error'\nwhen = 3",
        "[[faults]]\nkind = 'explode'",
        "[[faults]]\nphase = 'step'",
        "[[faults]]\nkind = 'error'\nphase = 'sleep'",
        "step_s = -1",
        "step_s = '1s'",
        "step_s = nan",
        "faults = 5",
        "step_s = ",
        "a = " + "[" * 5000,
        "step_s = " + "9" * 5000,
    ],
    ids=lambda text: str(text)[:30],
)
def test_a_script_that_makes_no_sense_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^actors\.script: "):
        parse_script(text)


# ---- scores -------------------------------------------------------------------------------------

SCORED = Script(scores=(Score(0.2, "bad"), Score(0.9, "good")))
scored = pytest.mark.parametrize("studio", [SCORED], indirect=True, ids=["script"])


@scored
@pytest.mark.parametrize(
    ("prompt", "score"), [("a bad one", 0.2), ("good", 0.9), ("bad or good", 0.2), ("x", None)]
)
def test_pictures_are_worth_what_the_script_says(
    studio: Studio, prompt: str, score: float | None
) -> None:
    reports = studio.run(studio.order(prompt=prompt, is_judged=True, seeds=(1, 2)))
    assert [r.score for r in reports if isinstance(r, Finished)] == [score]


@scored
def test_nothing_is_judged_that_was_not_asked_for(studio: Studio) -> None:
    reports = studio.run(studio.order(prompt="good"))
    assert [r.score for r in reports if isinstance(r, Finished)] == [None]


def test_scores_are_read_from_the_script() -> None:
    assert parse_script('scores = [{ score = 0.2, prompt = "bad" }]').scores == (Score(0.2, "bad"),)
    with pytest.raises(ConfigError, match=r"actors\.script"):
        parse_script("scores = [{ score = 1.2 }]")
