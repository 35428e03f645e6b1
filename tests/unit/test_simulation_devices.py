"""A simulated actor alone: memory, loads, modes, and shared calls."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.actor_messages import (
    Abort,
    CancelLoad,
    Ended,
    Evicted,
    EvictVariant,
    Finished,
    FromActor,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Ready,
    Retiring,
    Stop,
    Switched,
    SwitchFailed,
    SwitchMode,
    ToActor,
)
from difs.simulation.device import Device
from difs.simulation.memory import Memory
from tests.builders import execute
from tests.simulated_scenes import MIB, MODELS


class Bench:
    """A device, the time, and everything that it reported."""

    def __init__(self, memory_mib: int = 0, preload: tuple[str, ...] = ("good",), **facts: Any) -> None:
        self.painted: dict[int, int] = {}
        self.device = Device(
            "cuda-0",
            MODELS,
            life=0,
            number=1,
            memory_bytes=memory_mib * MIB,
            parking_bytes=facts.pop("parking_mib", 200) * MIB,
            max_credits=8,
            max_rows=32,
            score=lambda order: 0.5,
            painted=lambda order, steps: self.painted.update({order.attempt: steps}),
            **facts,
        )
        self.now = 0.0
        self.reports: list[tuple[float, FromActor]] = []
        self.device.start(preload, 0.0, is_warm=True)
        self.attend()

    def attend(self) -> None:
        self.reports += [(self.now, report) for report in self.device.attend(self.now)]

    def tell(self, *messages: ToActor) -> None:
        for message in messages:
            self.device.take(message, self.now)
        self.attend()

    def run(self, seconds: float = 100.0) -> None:
        end = self.now + seconds
        while self.device.next_wake <= end:
            self.now = self.device.next_wake
            self.attend()
        self.now = end

    def told(self, kind: type) -> list[Any]:
        return [report for _, report in self.reports if isinstance(report, kind)]

    def when(self, kind: type) -> list[float]:
        return [at for at, report in self.reports if isinstance(report, kind)]


def order(attempt: int, variant: str = "good", **changes: Any) -> Any:
    return execute(attempt=attempt, variant=variant, steps=10, **changes)


def test_a_picture_takes_what_its_table_says() -> None:
    bench = Bench()
    bench.tell(order(1))
    bench.run()
    (at,) = bench.when(Finished)
    assert at == pytest.approx(0.005 + 10 * 0.016 + 0.012)  # guided: two rows
    assert bench.painted == {1: 10}


def test_what_is_alike_shares_calls_and_what_is_not_does_not() -> None:
    alike, apart = Bench(preload=("good", "swift")), Bench(preload=("good", "swift"))
    alike.tell(order(1), order(2))
    apart.tell(order(1), order(2, "swift"))
    for bench in (alike, apart):
        bench.run()
    assert [f.shared_by for f in alike.told(Finished)] == [2.0, 2.0]
    assert [f.shared_by for f in apart.told(Finished)] == [1.0, 1.0]
    assert max(alike.when(Finished)) == pytest.approx(2 * 0.005 + 10 * 0.024 + 2 * 0.012)


def test_one_that_comes_later_joins_at_the_next_step() -> None:
    bench = Bench()
    bench.tell(order(1))
    bench.run(0.1)
    bench.tell(order(2))
    bench.run()
    first, second = bench.told(Finished)
    assert 1.0 < first.shared_by < 2.0
    assert 1.0 < second.shared_by < 2.0


def test_steps_are_told_once_each_however_often_one_looks() -> None:
    bench = Bench()
    bench.tell(order(1))
    seen = []
    while not bench.told(Finished):
        bench.now += 0.007
        seen += [step.step for at, step in bench.device.steps(bench.now) if at <= bench.now]
        if bench.device.next_wake <= bench.now:
            bench.attend()
    assert seen == list(range(1, 11))


def test_an_abort_ends_after_the_step_under_way() -> None:
    bench = Bench()
    bench.tell(order(1))
    bench.run(0.05)
    bench.tell(Abort(1))
    bench.run()
    assert not bench.told(Finished)
    assert [ended.code for ended in bench.told(Ended)] == ["cancelled"]
    assert 0.05 <= bench.when(Ended)[0] <= 0.05 + 0.016


def test_a_request_that_would_be_late_is_cut_down_to_its_floor() -> None:
    bench = Bench()
    bench.device.work.slowness = 3.0
    bench.tell(order(1, latest=0.25, floor_steps=4))
    bench.run()
    assert 4 <= bench.painted[1] < 10
    assert "instead of 10" in bench.told(Finished)[0].notes[0]


def test_what_a_slow_device_costs_is_learned() -> None:
    bench = Bench()
    bench.device.work.slowness = 2.0
    bench.tell(order(1))
    bench.run()
    step_s = bench.told(Finished)[0].costs.steps[1].seconds
    assert 0.016 < step_s < 1.05 * 0.032, "the decoding, as slow, moves it a little further"


# ---- loads ----------------------------------------------------------------------------------------


def test_a_load_takes_its_seconds_and_one_from_host_memory_fewer() -> None:
    bench = Bench()
    bench.tell(LoadVariant("swift"))
    bench.run(1.0)
    bench.tell(EvictVariant("swift"))
    bench.run(1.0)
    bench.tell(LoadVariant("swift"))
    bench.run(1.0)
    assert bench.when(Loaded) == pytest.approx([0.8, 2.1])
    assert bench.told(Evicted)[0].parked.costs.load_s == pytest.approx(0.1)


def test_what_waits_for_a_load_that_fails_is_told_so() -> None:
    bench = Bench(memory_mib=120)
    bench.tell(LoadVariant("swift"), order(1, "swift"))
    bench.run()
    assert "out of memory" in bench.told(LoadFailed)[0].message
    assert [ended.code for ended in bench.told(Ended)] == ["engine_failed"]


def test_a_cancelled_load_gives_its_memory_back_and_may_be_asked_for_again() -> None:
    bench = Bench(memory_mib=200)
    bench.tell(LoadVariant("swift"))
    bench.tell(CancelLoad("swift"))
    assert bench.device.memory.own == 100 * MIB
    bench.tell(LoadVariant("swift"))
    bench.run()
    assert len(bench.told(LoadFailed)) == len(bench.told(Loaded)) == 1


def test_an_evicted_variant_is_dropped_where_host_memory_has_no_room() -> None:
    bench = Bench(parking_mib=10)
    bench.tell(EvictVariant("good"))
    bench.run()
    assert bench.told(Evicted) == [Evicted("good", None, ())]
    assert bench.device.memory.own == 0


@pytest.mark.parametrize("is_parked", [False, True])
def test_what_is_evicted_for_good_is_not_kept_in_host_memory(is_parked: bool) -> None:
    bench = Bench()
    if is_parked:
        bench.tell(EvictVariant("good"))
        bench.run(1.0)
        assert bench.device.residents.parked_bytes > 0
    bench.tell(EvictVariant("good", is_final=True))
    bench.run(1.0)
    assert bench.told(Evicted)[-1] == Evicted("good", None, ("good",))
    assert (bench.device.memory.own, bench.device.residents.parked_bytes) == (0, 0)


def test_a_mode_is_switched_and_one_that_does_not_fit_is_not() -> None:
    bench = Bench(memory_mib=120)
    bench.tell(SwitchMode("good", "model_offload"))
    bench.run(1.0)
    assert bench.device.memory.own == 25 * MIB
    bench.device.memory.want(90 * MIB)
    bench.tell(SwitchMode("good", "full"))
    bench.run(1.0)
    assert [s.resident.memory_mode for s in bench.told(Switched)] == ["model_offload"]
    assert "memory" in bench.told(SwitchFailed)[0].message


def test_without_room_for_a_step_the_ladder_is_climbed() -> None:
    bench = Bench(memory_mib=109)  # at rest 100, a step 10
    bench.tell(order(1))
    bench.run()
    assert bench.told(Finished)
    assert bench.told(Switched)[0].resident.memory_mode == "sliced"
    assert any("out of memory at step" in note for note in bench.told(Finished)[0].notes)


def test_one_that_is_told_to_stop_finishes_and_says_good_bye() -> None:
    bench = Bench()
    bench.tell(order(1))
    bench.tell(Stop())
    bench.run()
    kinds = [type(report) for _, report in bench.reports]
    assert kinds[:2] == [Ready, Retiring]
    assert kinds.index(Finished) < kinds.index(Leaving)


# ---- memory ---------------------------------------------------------------------------------------

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["take", "give", "begin", "end", "want"]),
        st.sampled_from("abc"),
        st.integers(0, 120),
    ),
    max_size=40,
)


@given(ACTS)
@settings(max_examples=100, deadline=None)
def test_memory_is_never_given_twice(acts: list[tuple[str, str, int]]) -> None:
    memory = Memory(100)
    for act, name, nbytes in acts:
        before = memory.own
        match act:
            case "take":
                if not memory.take(name, nbytes):
                    assert memory.own == before
            case "give":
                memory.give_back(name)
            case "begin":
                if not memory.begin(nbytes):
                    assert memory.own == before
            case "end":
                memory.end()
            case _:
                memory.want(nbytes)
        assert 0 <= memory.free == memory.total - memory.own - memory.others
        assert memory.others <= memory.wanted
