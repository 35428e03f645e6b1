"""difs.autoscaler: the rules of the planner, in a small world with a time of its own."""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.autoscaler import room
from difs.autoscaler.base import Evict, Load, Options, Park, Replicate, ResidentView, SetMode, Site
from difs.autoscaler.forecast import Trace
from difs.autoscaler.plan import Memory, Utility
from tests.scaling import GB, MODES, World, device, form, stream, view

FULL = ResidentView("full")
OPTIONS = Options(parking_bytes=100 * GB)


def world(names: str = "abc", total: int = 8 * GB, **facts: object) -> World:
    """Return a world with a planner and variants of three modes, all of them loaded."""
    found = World(Utility(), dict.fromkeys(names, MODES), total, OPTIONS, **facts)  # type: ignore[arg-type]
    found.here = {("cuda-0", name): "full" for name in names}
    return found


def run(found: World, seconds: float) -> None:
    for _ in range(round(seconds / 0.25)):
        found.tick()


# ---- pressure -----------------------------------------------------------------------------------


def test_modes_step_down_before_anything_is_parked() -> None:
    found = world()
    found.others = 5 * GB  # 3 GB left, 3.5 GB in use: lighter calls suffice
    plan = found.tick()
    assert plan.pressure == {"cuda-0": GB // 2}
    assert {type(a) for a in plan.actions} == {SetMode}
    assert found.used() <= 3 * GB


def test_what_no_mode_can_save_is_parked_not_dropped_and_the_minimum_stays() -> None:
    found = world()
    found.others = 8 * GB - GB // 2  # two of the lightest need more
    plan = found.tick()
    assert {type(a) for a in plan.actions} == {SetMode, Park}
    assert len(found.here) == 1
    found.others = 8 * GB
    run(found, 5)
    assert len(found.here) == 1, "min_residents"


def test_the_headroom_stays_free() -> None:
    found = world()
    found.options = Options(headroom_bytes=5 * GB, parking_bytes=100 * GB)
    found.tick()
    assert found.used() <= 3 * GB


@pytest.mark.parametrize("what", ["busy", "pinned"])
def test_busy_and_pinned_residents_never_leave(what: str) -> None:
    found = world("ab")
    getattr(found, what).update({("cuda-0", "a"), ("cuda-0", "b")})
    found.others = 8 * GB
    run(found, 5)
    assert set(found.here) == {("cuda-0", "a"), ("cuda-0", "b")}
    is_lighter = {mode != "full" for mode in found.here.values()}
    assert is_lighter == {what == "busy"}, "the mode of busy work changes, that of pinned does not"


def test_what_pressure_took_is_back_within_ten_seconds_of_its_end() -> None:
    found = world()
    found.others = 8 * GB - GB // 2
    run(found, 20)
    found.others = 0
    run(found, 9)
    assert found.here == {("cuda-0", name): "full" for name in "abc"}


def test_all_of_it_is_told_why() -> None:
    found = world()
    found.others = 5 * GB
    assert all("others take 5.00 GB" in a.reason for a in found.tick().actions)


def square(at: float) -> int:
    return 7 * GB if at % 8 < 4 else 0


def saw(at: float) -> int:
    return round(8 * GB * (at % 7) / 7)


def noise(at: float) -> int:
    return round(8 * GB * random.Random(round(at * 4)).random())


@pytest.mark.parametrize("neighbour", [square, saw, noise])
@pytest.mark.parametrize("cooldown_s", [1.0, 3.0])
def test_however_a_neighbour_behaves_a_resident_changes_once_in_a_cooldown(
    neighbour: Callable[[float], int], cooldown_s: float
) -> None:
    found = world()
    found.options = Options(cooldown_s=cooldown_s, parking_bytes=100 * GB)
    found.busy = {("cuda-0", "a")}
    for _ in range(800):
        found.others = neighbour(found.now)
        found.tick()
    assert ("cuda-0", "a") in found.here, "work that is lost"
    times = defaultdict(list)
    for at, action in found.changes:
        times[action.variant].append(at)
    gaps = [b - a for found in times.values() for a, b in pairwise(found)]
    assert min(gaps) >= cooldown_s
    assert max(len(changes) for changes in times.values()) <= 40, "200 s, 25 squares"


def test_pressure_that_returns_at_once_is_given_more_time_each_time() -> None:
    found = world("a")
    for _ in range(1600):
        found.others = 8 * GB - GB if found.now % 6 < 1 else 0
        found.tick()
    ups = [at for at, a in found.changes if isinstance(a, SetMode) and a.memory_mode == "full"]
    assert len(ups) <= 3, f"400 s, and 66 times under pressure: {ups}"


# ---- room for what is wanted --------------------------------------------------------------------

ONE = (form("full", GB, 0),)


def cycle(planner: Utility | None, variants: int, slots: int, rounds: int, gap_s: float) -> World:
    """Ask for `variants` in turns where `slots` of them have room."""
    names = [f"v{i:02}" for i in range(variants)]
    options = Options(parking_bytes=0, idle_unload_s=0, min_residents=0)
    found = World(planner, dict.fromkeys(names, ONE), slots * GB, options)
    for number in range(rounds * variants):
        if number == 2 * variants:  # every system has to load each once
            found.hits = found.misses = 0
        found.ask(names[number % variants])
        run(found, gap_s)
    return found


@pytest.mark.parametrize("gap_s", [2.5, 5.0, 10.0])
@pytest.mark.parametrize("planner", [Utility(), None], ids=["planner", "room only"])
def test_a_cyclic_working_set_of_1_3_times_the_memory_keeps_60_percent_hits(
    planner: Utility | None, gap_s: float
) -> None:
    found = cycle(planner, 13, 10, 6, gap_s)
    assert found.hits / (found.hits + found.misses) >= 0.6


@given(seed=st.integers(0, 2**32), slots=st.integers(4, 10))
@settings(max_examples=8, deadline=None)
def test_a_cycle_that_is_not_quite_regular_keeps_its_hits_too(seed: int, slots: int) -> None:
    chance = random.Random(seed)
    variants = math.floor(1.3 * slots)
    names = [f"v{i:02}" for i in range(variants)]
    options = Options(parking_bytes=0, idle_unload_s=0, min_residents=0)
    found = World(Utility(), dict.fromkeys(names, ONE), slots * GB, options)
    for number in range(8 * variants):
        if number == 2 * variants:
            found.hits = found.misses = 0
        found.ask(names[number % variants])
        run(found, 4.0 + chance.uniform(-1.0, 1.0))
    assert found.hits / (found.hits + found.misses) >= 0.6


def test_room_is_made_by_what_is_missed_least_and_costs_no_busy_one() -> None:
    here = device(
        residents={"rare": FULL, "often": FULL, "busy": ResidentView("full", is_busy=True)},
        forms=dict.fromkeys(("rare", "often", "busy", "new"), ONE),
        total_bytes=3 * GB,
    )
    streams = [stream("rare", 0.1), stream("often", 9.0)]
    made = room.make(view(here, streams=streams), here, "new")
    assert [(type(a), a.variant) for a in made.leaving] == [(Park, "rare")]
    assert (made.fits, made.memory_mode) == (True, "full")


def test_a_slower_mode_is_cheaper_than_sending_away_what_is_wanted() -> None:
    forms = (form("full", 2 * GB), form("tiled", GB, serve_s=0.6))
    here = device(residents={"often": FULL}, forms={"often": ONE, "new": forms}, total_bytes=2 * GB)
    made = room.make(view(here, streams=[stream("often", 9.0)]), here, "new")
    assert (made.leaving, made.memory_mode, made.fits) == ((), "tiled", True)


def test_where_only_busy_ones_are_there_is_no_room_yet() -> None:
    here = device(
        residents={"busy": ResidentView("full", is_busy=True)},
        forms=dict.fromkeys(("busy", "new"), ONE),
        total_bytes=GB,
    )
    assert not room.make(view(here), here, "new").fits


def test_a_variant_of_which_nothing_is_known_is_left_to_its_actor() -> None:
    here = device()
    assert room.make(view(here), here, "new") == room.Room(None, (), fits=True)


def test_host_memory_keeps_what_is_wanted_more() -> None:
    facts: dict[str, object] = {
        "residents": {"leaving": FULL},
        "forms": dict.fromkeys(("leaving", "kept"), ONE),
        "parked": {"kept": GB},
    }
    here = device(**facts)  # type: ignore[arg-type]
    options = Options(parking_bytes=GB)
    for wanted, found in (
        ("kept", [(Evict, "leaving")]),
        ("leaving", [(Evict, "kept"), (Park, "leaving")]),
    ):
        seen = view(here, streams=[stream(wanted)], options=options)
        assert [(type(a), a.variant) for a in room.leave(seen, here, "leaving", "x")] == found


# ---- the best set -------------------------------------------------------------------------------


def actions(*facts: object, **more: object) -> list[tuple[type, str, str]]:
    plan = Utility().plan(view(*facts, **more))  # type: ignore[arg-type]
    return [(type(a), a.device, a.variant) for a in plan.actions]


def test_what_is_expected_is_loaded_before_it_is_asked_for() -> None:
    here = device(forms={"a": ONE, "b": ONE})
    assert actions(here, streams=[stream("a")]) == [(Load, "cuda-0", "a")]


def test_what_is_hardly_expected_is_not_worth_its_load() -> None:
    slow = (form("full", load_s=60.0),)
    assert actions(device(forms={"a": slow}), streams=[stream("a", uses=0.5)]) == []


def test_requests_that_name_no_variant_get_the_best_that_keeps_their_deadline() -> None:
    forms = {
        "quick": (form("full", quality=0.5, latency_s=0.3),),
        "good": (form("full", quality=0.9, latency_s=5.0, draft_s=4.0),),
    }
    here = device(forms=forms, total_bytes=GB)
    assert actions(here, streams=[stream()]) == [(Load, "cuda-0", "good")]
    assert actions(here, streams=[stream(latency_s=1.0)]) == [(Load, "cuda-0", "quick")]


def test_one_that_has_too_much_to_do_is_replicated() -> None:
    forms = {"a": (form("full", serve_s=1.0),)}
    devices = (device("cuda-0", {"a": FULL}, forms), device("cuda-1", {}, forms))
    busy = stream("a", uses=45.0)
    assert actions(*devices, streams=[busy]) == [(Replicate, "cuda-1", "a")]
    assert actions(*devices, streams=[stream("a", uses=15.0)]) == []


def test_one_that_is_overloaded_is_replicated_earlier() -> None:
    forms = {"a": (form("full", serve_s=1.0),)}
    for state, expected in (("active", []), ("overloaded", [(Replicate, "cuda-1", "a")])):
        here = {"a": ResidentView("full", state=state)}  # type: ignore[arg-type]
        devices = (device("cuda-0", here, forms), device("cuda-1", {}, forms))
        assert actions(*devices, streams=[stream("a", uses=25.0)]) == expected


def test_what_is_overloaded_recovers_first() -> None:
    found = world("ab", total=4 * GB)
    found.others = 3 * GB
    run(found, 5)
    assert set(found.here.values()) != {"full"}
    found.states = {("cuda-0", "b"): "overloaded"}
    found.others = 0
    run(found, 9)
    ups = [a.variant for _, a in found.changes if a.reason == "memory is free again"]
    assert ups[0] == "b"


def test_a_mode_that_an_administrator_chose_is_changed_by_pressure_only() -> None:
    slow = (form("full", GB, GB // 2), form("tiled", GB, 0, serve_s=2.0, latency_s=8.0))
    for is_chosen, expected in ((False, [(SetMode, "cuda-0", "a")]), (True, [])):
        here = device(residents={"a": ResidentView("tiled", is_chosen=is_chosen)}, forms={"a": slow})
        assert actions(here, streams=[stream("a", uses=30.0)]) == expected
    here = device(
        residents={"a": ResidentView("full", is_chosen=True)}, forms={"a": slow}, total_bytes=GB
    )
    assert actions(here) == [(SetMode, "cuda-0", "a")]


def test_a_mode_that_frees_no_memory_must_be_faster_by_more_than_profiles_err() -> None:
    for serve_s, expected in ((0.95, []), (0.8, [(SetMode, "cuda-0", "a")])):
        forms = {"a": (form("full", serve_s=1.0), form("sliced", serve_s=serve_s))}
        here = device(residents={"a": FULL}, forms=forms)
        assert actions(here, streams=[stream("a", uses=60.0)]) == expected


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.1, 40), st.floats(0.1, 8)), min_size=1, max_size=3), st.floats(0.2, 3)
)
def test_where_all_have_room_nobody_is_made_slower_or_sent_away(
    asked: list[tuple[float, float]], serve_s: float
) -> None:
    slow = form(serve_s=serve_s, latency_s=serve_s, draft_s=serve_s / 5, quality=0.95)
    lighter = form(
        "tiled", GB // 2, serve_s=6 * serve_s, latency_s=6 * serve_s, draft_s=serve_s, quality=0.95
    )
    forms = {"a": (form(serve_s=0.1),), "b": (slow, lighter)}
    here = device(residents={"a": FULL, "b": FULL}, forms=forms, total_bytes=100 * GB)
    streams = [stream(uses=30 * rate, rate_hz=rate, latency_s=latency_s) for rate, latency_s in asked]
    assert actions(here, streams=streams) == []


def test_as_many_leave_as_must_for_what_comes() -> None:
    forms = {
        "slow": (form(serve_s=2.0, quality=0.95),),
        "slower": (form(serve_s=3.0, quality=0.99),),
        "new": (form(quality=0.9),),
    }
    streams = [stream(uses=30.0), stream("new", uses=9.0)]
    for gigabytes, leaving in ((3, 0), (2, 1)):
        here = {"slow": FULL, "slower": FULL}
        found = actions(device("cuda-0", here, forms, total_bytes=gigabytes * GB), streams=streams)
        assert [kind for kind, *_ in found].count(Park) == leaving


def grown(total: int, **busy: bool) -> list[tuple[type, str, str]]:
    """Return what is done where a light variant is wanted much, and lacks the room of a heavy one."""
    forms = {
        "light": (
            form("full", 2 * GB, serve_s=0.1),
            form("model_offload", GB // 4, serve_s=0.4, latency_s=1.0),
        ),
        "heavy": (
            form("full", 6 * GB, serve_s=2.0, quality=0.9),
            form("tiled", 2 * GB, serve_s=2.2, quality=0.9),
        ),
    }
    here = {
        "light": ResidentView("model_offload", is_busy=True),
        "heavy": ResidentView("full", is_busy=busy.get("heavy", False), is_pinned=False),
    }
    found = device(residents=here, forms=forms, total_bytes=total)
    return actions(found, streams=[stream(uses=300.0, rate_hz=8.0)])


def test_one_that_grows_waits_until_what_makes_room_for_it_has_made_it() -> None:
    assert grown(9 * GB) == [(SetMode, "cuda-0", "light")], "there is room"
    assert grown(6 * GB + GB // 2) == [
        (SetMode, "cuda-0", "heavy"),
        (SetMode, "cuda-0", "light"),
    ], "in this order"


def test_what_is_busy_is_made_slower_only_where_that_is_worth_much() -> None:
    assert grown(6 * GB + GB // 2, heavy=True), "four times as many are served"
    forms = {
        "a": (form(rest=2 * GB, serve_s=0.5), form("tiled", GB, serve_s=0.6)),
        "b": (form(rest=2 * GB, serve_s=0.5), form("tiled", GB, serve_s=0.6)),
    }
    for is_busy, expected in ((False, 2), (True, 0)):
        here = {"a": ResidentView("full", is_busy=is_busy), "b": ResidentView("tiled", is_busy=True)}
        found = device(residents=here, forms=forms, total_bytes=3 * GB)
        streams = [stream("b", uses=60.0, rate_hz=2.0), stream("a", uses=1.0, rate_hz=0.03)]
        assert len(actions(found, streams=streams)) == expected


def test_what_we_take_more_than_was_known_is_no_pressure_of_others_and_nothing_is_owed() -> None:
    found = world("ab", total=3 * GB)
    run(found, 5)
    heavier = (form("full", GB, GB + GB // 2), *MODES[1:])
    found.forms = dict.fromkeys("ab", heavier)  # as its calls showed
    plan = found.tick()
    assert {type(a) for a in plan.actions} == {SetMode}
    assert isinstance(plan.memory, Memory)
    assert plan.memory.displaced == {}
    found.others = GB
    plan = found.tick(10.0)
    assert isinstance(plan.memory, Memory)
    assert plan.memory.displaced, "others' doing is to be undone"


def test_what_changed_lately_is_left_alone_and_what_moves_too() -> None:
    here = device(forms={"a": ONE}, moving=frozenset("a"))
    assert actions(here, streams=[stream("a")]) == []
    found = World(Utility(), {"a": ONE, "b": ONE}, GB, OPTIONS)
    found.here = {("cuda-0", "a"): "full"}
    for number in range(400):  # the favourite changes every second
        favourite = "ab"[number // 4 % 2]
        found.traces = {favourite: Trace(1.0, found.now, 0.0, 0.0, 1)}
        found.tick()
    per_site: dict[Site, list[float]] = defaultdict(list)
    for at, action in found.changes:
        per_site[action.device, action.variant].append(at)
    gaps = [b - a for times in per_site.values() for a, b in pairwise(times)]
    assert min(gaps, default=4.0) >= 4.0


def test_what_nobody_wants_is_parked_after_its_time_but_for_the_minimum() -> None:
    found = world("ab")
    found.options = Options(parking_bytes=100 * GB, idle_unload_s=60.0)
    run(found, 59)
    assert len(found.here) == 2
    run(found, 10)
    assert (len(found.here), len(found.parked)) == (1, 1)


def test_what_comes_regularly_is_there_before_its_time() -> None:
    options = Options(parking_bytes=0, idle_unload_s=20.0, min_residents=0)
    found = World(Utility(), {"a": ONE}, 8 * GB, options)
    for number in range(8):
        if number == 5:
            found.hits = found.misses = 0
        found.ask("a")
        run(found, 120)
    assert (found.hits, found.misses) == (3, 0)
    assert any(isinstance(a, Park | Evict) for _, a in found.changes), "it was not there all the time"


# ---- forecasts ----------------------------------------------------------------------------------


def arrivals(*times: float) -> Trace:
    trace = Trace()
    for at in times:
        trace = trace.arrived(at)
    return trace


def test_a_rate_fades() -> None:
    trace = arrivals(0.0, 1.0, 2.0)
    assert trace.rate(2.0) > trace.rate(30.0) > trace.rate(300.0) > 0


def test_a_rhythm_is_found_and_lost() -> None:
    trace = arrivals(0.0, 100.0, 200.0, 300.0)
    assert trace.next_s(340.0) == 60.0
    assert trace.uses(301.0) < trace.uses(360.0) < trace.uses(399.0)
    assert trace.next_s(451.0) is None
    assert arrivals(0.0, 100.0, 110.0, 300.0, 301.0).next_s(310.0) is None


@given(st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=30), st.floats(0.0, 1000.0))
def test_forecasts_are_finite_and_never_negative(gaps: list[float], later: float) -> None:
    trace, now = Trace(), 0.0
    for gap in gaps:
        now += gap
        trace = trace.arrived(now)
    for value in (trace.rate(now + later), trace.uses(now + later), trace.rhythm_hz(now + later)):
        assert math.isfinite(value)
        assert value >= 0.0
