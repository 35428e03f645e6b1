"""difs.actors.engine: jobs, turns and failures, with an engine whose times and faults are scripted."""

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from difs.actor_messages import (
    Ended,
    Evicted,
    Execute,
    Finished,
    Loaded,
    LoadFailed,
    Stepped,
    Switched,
    SwitchFailed,
)
from difs.actors.simulated import Fault, Script
from difs.actors.units import Report
from difs.profiles import step_seconds
from difs.shm import segment
from difs.shm.writer import SegmentWriter
from tests.studio import PLAN, Studio, ends, stepped

SECOND = 64.0
"""A scripted time at 512x512 that takes a second at 64x64."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return segment.create(tmp_path, PLAN)


@pytest.fixture
def writer(path: Path) -> Iterator[SegmentWriter]:
    with SegmentWriter(path) as opened:
        yield opened


@pytest.fixture
def studio(path: Path, writer: SegmentWriter) -> Any:
    """Return what makes a studio with `tiny` loaded: faults first, then the script's seconds."""

    def make(*faults: Fault, max_rows: int = 32, **seconds: float) -> Studio:
        made = Studio(
            path,
            writer,
            Script(faults=faults, scores=(), neighbours=(), rooms={}, **seconds),
            max_rows=max_rows,
        )
        made.load()
        return made

    return make


def until(studio: Studio, wanted: Report) -> list[Report]:
    """Turn until a report comes; returns all."""
    reports: list[Report] = []
    while wanted not in reports:
        reports += studio.turn()
        assert len(reports) < 10_000
    return reports


def finished(reports: list[Report]) -> dict[int, Finished]:
    return {r.attempt: r for r in reports if isinstance(r, Finished)}


# ---- joining and leaving --------------------------------------------------------------------------


def test_a_newcomer_joins_at_the_next_step(studio: Any) -> None:
    it = studio()
    it.engine.submit(it.order(1, steps=6))
    until(it, Stepped(1, 0, 2, 6))
    it.engine.submit(it.order(2, steps=4))
    steps = stepped(it.run())
    assert steps == [(1, 3), (2, 1), (1, 4), (2, 2), (1, 5), (2, 3), (1, 6), (2, 4)]


def test_who_is_finished_leaves_at_once(studio: Any) -> None:
    it = studio(step_s=SECOND, decode_s=SECOND)
    reports = it.run(it.order(1, steps=2), it.order(2, steps=9))
    where = [type(r).__name__ for r in reports if getattr(r, "attempt", 0) == 1]
    assert where == ["Stepped", "Stepped", "Finished"]
    after = reports.index(finished(reports)[1])
    assert stepped(reports[after:])[0] == (2, 3)


def test_a_request_alone_is_bitwise_and_one_that_shared_says_how_much(studio: Any) -> None:
    it = studio()
    alone = finished(it.run(it.order(1, steps=4)))[1]
    assert (alone.seed_contract, alone.shared_by, alone.seed_bound) == ("bitwise", 1.0, 0.0)
    both = finished(it.run(it.order(2, steps=4), it.order(3, steps=8)))
    assert (both[2].seed_contract, both[2].shared_by) == ("same-noise", 2.0)
    assert (both[3].seed_contract, both[3].shared_by) == ("same-noise", 1.5)


def test_a_deterministic_request_shares_no_call_and_its_images_neither(studio: Any) -> None:
    it = studio()
    reports = it.run(it.order(1, steps=4, is_alone=True, seeds=(1, 2)), it.order(2, steps=4))
    assert finished(reports)[1].seed_contract == "bitwise"
    assert finished(reports)[1].shared_by == 1.0
    assert finished(reports)[2].seed_contract == "bitwise"


def test_sharing_is_faster_than_one_after_the_other(studio: Any) -> None:
    it = studio(step_s=SECOND)
    it.run(*(it.order(attempt, steps=10) for attempt in range(4)))
    assert it.clock.now() == 10 * (1 + 3 * 0.5)


def test_what_falls_behind_leaves_steps_out_to_keep_its_latency(studio: Any) -> None:
    it = studio(step_s=SECOND)
    hurried = it.order(1, steps=20, due=12.5, latest=12.5, floor_steps=4)
    reports = it.run(hurried, it.order(2, steps=8))
    done = finished(reports)[1]
    (note,) = done.notes
    whole = next(r.steps for r in reversed(reports) if isinstance(r, Stepped) and r.attempt == 1)
    assert note == f"{whole} steps instead of 20: it fell behind, and its latency was to be kept"
    assert 4 < whole < 20
    at = reports.index(done)
    assert (1, whole) in stepped(reports[:at])
    assert finished(reports)[2].notes == ()


@pytest.mark.parametrize(
    "changes",
    [{"floor_steps": 0}, {"floor_steps": 20}, {"latest": 50.0}, {"latest": 0.0}],
    ids=["has no floor", "stands on its floor", "is in time", "nothing was stated"],
)
def test_steps_are_left_out_only_where_they_may_and_must(studio: Any, changes: Any) -> None:
    it = studio(step_s=SECOND)
    order = it.order(1, steps=20, **{"latest": 8.0, "floor_steps": 4} | changes)
    reports = it.run(order)
    assert stepped(reports)[-1] == (1, 20)
    assert finished(reports)[1].notes == ()


def test_no_step_is_left_out_below_the_floor(studio: Any) -> None:
    it = studio(step_s=SECOND)
    reports = it.run(it.order(1, steps=20, due=3.0, latest=3.0, floor_steps=9))
    assert stepped(reports)[-1] == (1, 9)
    assert [r for r in reports if isinstance(r, Stepped)][-1].steps == 9


def test_other_sizes_and_variants_take_turns(studio: Any) -> None:
    it = studio(step_s=SECOND)
    it.load("wide")
    orders = [it.order(1, steps=3), it.order(2, steps=3, variant="wide"), it.order(3, steps=3, width=128)]
    reports = it.run(*orders)
    assert sorted(ends(reports)) == [1, 2, 3]
    assert all(report.shared_by == 1.0 for report in finished(reports).values())


def test_a_cancelled_one_leaves_the_others_in_their_batch(studio: Any) -> None:
    it = studio()
    for attempt in (1, 2, 3):
        it.engine.submit(it.order(attempt, steps=5))
    until(it, Stepped(2, 0, 2, 5))
    it.engine.abort(2)
    reports = it.run()
    assert reports[0] == Ended(2, "cancelled", "aborted between two steps")
    assert ends(reports) == [2, 1, 3]
    assert not [r for r in reports if isinstance(r, Stepped) and r.attempt == 2]


def test_the_images_of_a_request_are_painted_together(studio: Any) -> None:
    it = studio(step_s=SECOND)
    reports = it.run(it.order(1, steps=2, seeds=(1, 2, 3)))
    assert [(r.image, r.step) for r in reports if isinstance(r, Stepped)] == [
        (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)
    ]  # fmt: skip
    assert finished(reports)[1].steps_s == 4.0


# ---- decodings between steps ----------------------------------------------------------------------


def test_decodings_do_not_stall_others_longer_than_a_step(studio: Any) -> None:
    """Four finish at once and each needs a step's time to decode; one more goes on stepping."""
    it = studio(step_s=SECOND, decode_s=SECOND, row_share=0.0)
    for attempt in range(4):
        it.engine.submit(it.order(attempt, steps=2))
    it.engine.submit(it.order(9, steps=12))
    times = []
    while not it.engine.is_idle:
        if any(isinstance(r, Stepped) and r.attempt == 9 for r in it.engine.turn()):
            times.append(it.clock.now())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 12
    assert max(gaps) == 2.0  # one step and one decoding


def test_a_file_is_made_in_the_background(studio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = studio()
    gate = threading.Event()
    encode = it.engine._easel._encode

    def slowly(*args: Any) -> Any:
        assert gate.wait(10)
        return encode(*args)

    monkeypatch.setattr(it.engine._easel, "_encode", slowly)
    it.engine.submit(it.order(1, steps=1, format="png"))
    it.engine.submit(it.order(2, steps=3))
    reports = until_raw(it, 2)
    assert ends(reports) == [2]
    assert not it.engine.is_busy
    assert not it.engine.is_idle
    it.engine.abort(1)
    assert it.engine.turn() == []  # its slot is still being written
    gate.set()
    assert ends(it.run()) == [1]


def until_raw(it: Studio, attempt: int) -> list[Report]:
    reports: list[Report] = []
    while attempt not in ends(reports):
        reports += it.engine.turn()
    return reports


# ---- previews -------------------------------------------------------------------------------------


def test_previews_come_every_k_steps_for_those_who_ask(studio: Any) -> None:
    it = studio()
    reports = it.run(it.order(1, steps=7, preview_every=3), it.order(2, steps=7))
    shown = [(r.attempt, r.step) for r in reports if isinstance(r, Stepped) and r.preview is not None]
    assert shown == [(1, 3), (1, 6)]
    preview = next(r.preview for r in reports if isinstance(r, Stepped) and r.preview is not None)
    assert len(preview.pixels) == preview.height * preview.width * 3 > 0


# ---- judgement ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scores", "score"), [((0.9, 0.4), 0.4), ((0.9, None), None), ((0.0, 1.0), 0.0)])
def test_the_worst_picture_counts_and_all_must_be_judged(studio: Any, scores: Any, score: Any) -> None:
    it = studio()
    it.engine.judge = lambda painting, canvas: scores[painting.index]
    (done,) = finished(it.run(it.order(1, seeds=(1, 2), is_judged=True))).values()
    assert done.score == score


# ---- nobody starves -------------------------------------------------------------------------------


def test_nobody_starves_under_an_endless_stream_of_urgent_requests(studio: Any) -> None:
    """Twice the device's capacity of urgent requests, and one that has time: it ends all the same."""
    it = studio(step_s=SECOND / 10, max_rows=4)
    chance = random.Random(3)
    patient = it.order(10_000, steps=20, due=60.0)
    it.engine.submit(patient)
    reports: list[Report] = []
    attempt, next_at = 0, 0.0
    while 10_000 not in ends(reports):
        now = it.clock.now()
        # by 90 s all that was due before it has expired; then only promises at their last go before it
        assert now < 100.0, "the patient request starves"
        while next_at <= now:
            attempt += 1
            next_at += chance.expovariate(4.0)
            tight = it.order(attempt, steps=5, due=now + 1.0, latest=now + 1.0, deadline=now + 30.0)
            it.engine.submit(tight)
        if it.engine.is_busy:
            reports += it.engine.turn()
        else:
            it.clock.advance(0.01)
    assert len(ends(reports)) > 50


def test_best_effort_yields_and_is_served_before_its_deadline(studio: Any) -> None:
    it = studio(step_s=SECOND, max_rows=2)
    late = it.order(1, steps=10, due=50.0, deadline=50.0)
    reports = it.run(late, *(it.order(k, steps=5, due=5.0 * k, variant="tiny") for k in (2, 3, 4)))
    assert ends(reports) == [2, 3, 4, 1]
    assert it.clock.now() <= 50.0


@pytest.mark.parametrize("arrives_at_step", [1, 4, 9])
def test_best_effort_delays_other_work_by_one_step_at_most(studio: Any, arrives_at_step: int) -> None:
    it = studio(step_s=SECOND, max_rows=32)
    spare = it.order(1, steps=10, is_best_effort=True, due=2.0, deadline=1e6)
    it.engine.submit(spare)
    reports = until(it, Stepped(1, 0, arrives_at_step, 10))
    began = it.clock.now()
    it.engine.submit(it.order(2, steps=5))
    while 2 not in ends(reports):
        reports += it.turn()
    assert it.clock.now() - began == pytest.approx(5.0), "as if it were alone"
    assert stepped(reports).count((1, arrives_at_step + 1)) == 0
    while 1 not in ends(reports):
        reports += it.turn()
    assert [step for attempt, step in stepped(reports) if attempt == 1] == list(range(1, 11))


# ---- failures -------------------------------------------------------------------------------------


def test_one_that_breaks_a_shared_step_breaks_nobody_else(studio: Any) -> None:
    it = studio(Fault("error", "bad", step=3))
    good, bad, other = (
        it.order(1, steps=5),
        it.order(2, steps=5, prompt="a bad one"),
        it.order(3, steps=5),
    )
    reports = it.run(good, bad, other)
    assert sorted(finished(reports)) == [1, 3]
    assert [r for r in reports if isinstance(r, Ended)] == [
        Ended(2, "engine_failed", "a scripted failure")
    ]
    assert stepped(reports).count((1, 3)) == 1, "no step is done twice"


@pytest.mark.parametrize("phase", ["encode", "step", "decode"])
def test_memory_that_never_suffices_ends_one_request_and_tells_each_rung(studio: Any, phase: Any) -> None:
    it = studio(Fault("oom", "big", phase))
    reports = it.run(it.order(1, prompt="too big"), it.order(2))
    assert [r.attempt for r in reports if isinstance(r, Ended)] == [1]
    assert next(r for r in reports if isinstance(r, Ended)).code == "out_of_memory"
    modes = [r.resident.memory_mode for r in reports if isinstance(r, Switched)]
    assert modes == ["sliced", "tiled"]
    assert list(finished(reports)) == [2]
    assert not it.engine.wants_restart, "one climb is one incident"


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("decode", "out of memory at decode: decoded in tiles"),
        ("encode", "out of memory at encode: memory mode sliced"),
        ("step", "out of memory at step: memory mode sliced"),
    ],
)
def test_a_request_that_memory_fails_once_is_finished_with_a_note(
    studio: Any, phase: Any, words: str
) -> None:
    it = studio(Fault("oom", "", phase, times=1))
    (done,) = finished(it.run(it.order(1, steps=4))).values()
    assert done.notes == (words,)


def test_a_batch_that_is_too_large_goes_on_in_halves_with_no_step_lost(studio: Any) -> None:
    it = studio(Fault("oom", "", "step", step=2, times=1))
    reports = it.run(*(it.order(attempt, steps=4) for attempt in range(4)))
    assert sorted(finished(reports)) == [0, 1, 2, 3]
    assert sorted(stepped(reports)) == [(a, s) for a in range(4) for s in (1, 2, 3, 4)]
    assert all(
        r.notes == ("out of memory at step: at most 4 rows share a step",)
        for r in finished(reports).values()
    )
    told = [r.costs for r in finished(reports).values() if r.costs is not None]
    assert told
    assert all(costs.steps[-1].rows <= 4 for costs in told), "more are not reckoned with"


def test_after_a_minute_without_errors_batches_grow_again(studio: Any) -> None:
    it = studio(Fault("oom", "", "step", step=1, times=1))
    it.run(*(it.order(attempt, steps=2) for attempt in range(8)))
    assert it.engine._limits.allowed("tiny", it.clock.now()) == 8
    it.clock.advance(61)
    assert it.engine._limits.allowed("tiny", it.clock.now()) == 16
    it.clock.advance(61)
    assert it.engine._limits.allowed("tiny", it.clock.now()) == 32


def test_two_incidents_in_a_minute_ask_for_a_restart_and_lose_nothing(studio: Any) -> None:
    it = studio(Fault("oom", "", "decode", times=1), Fault("oom", "again", "step", times=1))
    reports = it.run(it.order(1))
    assert not it.engine.wants_restart
    reports += it.run(it.order(2, prompt="again"))
    assert it.engine.wants_restart
    assert sorted(finished(reports)) == [1, 2]


# ---- residents ------------------------------------------------------------------------------------


def test_others_keep_stepping_while_a_variant_loads(studio: Any) -> None:
    it = studio(step_s=SECOND, load_s=5.0)
    assert it.clock.now() == 5.0
    it.engine.load("wide")
    it.engine.submit(it.order(1, steps=8))
    it.engine.submit(it.order(2, steps=2, variant="wide"))
    reports = it.run()
    loaded = next(i for i, r in enumerate(reports) if isinstance(r, Loaded))
    assert len(stepped(reports[:loaded])) == 5
    assert sorted(finished(reports)) == [1, 2]


def test_a_load_that_is_cancelled_is_told_and_can_be_begun_again(studio: Any) -> None:
    it = studio(load_s=5.0)
    it.engine.load("wide")
    it.engine.cancel_load("wide")
    assert it.run() == [LoadFailed("wide", "cancelled")]
    it.engine.cancel_load("wide")
    assert it.run() == []
    assert isinstance(it.load("wide")[0], Loaded)


def test_an_attempt_whose_variant_fails_to_load_ends(studio: Any) -> None:
    it = studio(Fault("error", "wide", "load"), load_s=5.0)
    it.engine.load("wide")
    reports = it.run(it.order(1, variant="wide"))
    assert isinstance(reports[0], LoadFailed)
    assert isinstance(reports[1], Ended)
    assert (reports[1].attempt, reports[1].code) == (1, "engine_failed")


def test_what_was_parked_returns_without_the_disk(studio: Any) -> None:
    it = studio(load_s=5.0)
    it.engine.evict("tiny")
    (evicted,) = it.run()
    assert isinstance(evicted, Evicted)
    assert evicted.parked is not None
    assert evicted.parked.costs.load_s == 0.0
    before = it.clock.now()
    assert isinstance(it.load("tiny")[0], Loaded)
    assert it.clock.now() == before


def test_a_mode_is_switched_between_two_steps_of_a_request(studio: Any) -> None:
    it = studio()
    it.engine.submit(it.order(1, steps=4))
    until(it, Stepped(1, 0, 2, 4))
    it.engine.switch_mode("tiny", "tiled")
    reports = it.run()
    assert isinstance(reports[0], Switched)
    assert reports[0].resident.memory_mode == "tiled"
    assert stepped(reports) == [(1, 3), (1, 4)]
    assert list(finished(reports)) == [1]


@pytest.mark.parametrize(("variant", "mode"), [("nobody", "full"), ("tiny", "group_offload")])
def test_a_mode_that_does_not_apply_is_refused(studio: Any, variant: str, mode: Any) -> None:
    it = studio()
    it.engine.switch_mode(variant, mode)
    (failed,) = it.run()
    assert isinstance(failed, SwitchFailed)
    assert failed.variant == variant


# ---- learning -------------------------------------------------------------------------------------


def test_costs_are_corrected_by_what_steps_really_take(studio: Any) -> None:
    it = studio(step_s=SECOND)
    told: Execute = it.order(1, steps=10)
    before, pixels = it.engine.residents[0].costs, told.width * told.height
    it.engine.submit(told)
    sleep = it.engine._sleep
    it.engine._sleep = lambda seconds: sleep(2 * seconds)  # another program takes half of the device
    (done,) = finished(it.run()).values()
    assert done.costs is not None
    after = done.costs

    def times(size: int, rows: int) -> float:
        return step_seconds(after, size, rows) / step_seconds(before, size, rows)

    assert 1.8 < times(pixels, 2) < 2.0
    assert 1.3 < times(before.pixels, 2) < times(pixels, 8) < times(pixels, 2), (
        "the device is to blame, too"
    )


def test_what_the_first_call_of_a_shape_takes_to_prepare_is_not_learned(studio: Any) -> None:
    it = studio(step_s=SECOND, decode_s=SECOND)
    paint, told = it.engine.step, it.engine.residents[0].costs
    prepared = set()

    def step(paintings: Any) -> None:
        paint(paintings)
        if len(paintings) not in prepared:
            prepared.add(len(paintings))
            it.clock.advance(9.0)

    it.engine.step = step
    it.run(it.order(1, steps=3))
    it.run(it.order(2, steps=3), it.order(3, steps=3))
    assert prepared == {1, 2}
    for rows in (2, 4):
        now_s = step_seconds(it.engine.residents[0].costs, 64 * 64, rows)
        assert now_s == pytest.approx(step_seconds(told, 64 * 64, rows))
