"""The autoscaler in the broker: its view, what its plans become, and who hears of it."""

from typing import Any

import pytest

from difs import config
from difs.actor_messages import (
    Evicted,
    EvictVariant,
    Execute,
    Loaded,
    LoadVariant,
    Pulse,
    Resident,
    Room,
    Switched,
    SwitchMode,
    Welcome,
)
from difs.autoscaler import registry
from difs.autoscaler.base import DeviceView, Load, Options, Park, Plan, Planner, SetMode, View
from difs.autoscaler.base import Evict as Drop
from difs.autoscaler.plan import Utility
from difs.broker import demand
from difs.broker.effects import Complain, Effect
from difs.broker.scaler import DECISIONS_KEPT, Scaling
from difs.broker.state import BrokerState
from difs.messages import (
    Cancel,
    DeviceStatus,
    Done,
    Error,
    Evict,
    MemoryMode,
    Pin,
    Reading,
    Result,
    Status,
    StatusReport,
)
from difs.messages import Load as AdminLoad
from difs.policy.base import Options as PolicyOptions
from difs.policy.modelless import Modelless
from tests import builders
from tests.builders import COSTS, House, finished, generate, only, told, variant

MB = 10**6
ROOMS: dict[MemoryMode, Room] = {"full": Room(300 * MB, 200 * MB), "tiled": Room(300 * MB, 20 * MB)}
NAMES = ("tiny", "wide", "deep")


def loaded(name: str, mode: MemoryMode = "full") -> Resident:
    """Return a variant of 300 MB, whose calls need 200 MB more, or 20 MB in `tiled`."""
    return Resident(name, mode, "fp32", 300 * MB, COSTS, room=ROOMS[mode])


class Script:
    """A planner that does what the test says, once."""

    name = "script"

    def __init__(self) -> None:
        self.views: list[View] = []
        self.actions: Any = ()

    def plan(self, view: View) -> Plan:
        self.views.append(view)
        actions, self.actions = self.actions, ()
        if isinstance(actions, Exception):
            raise actions
        return Plan(actions)


class Scaled(House):
    """A house whose broker has a planner, and a device of 1 GB."""

    def __init__(self, planner: Planner | None = None, **facts: Any) -> None:
        super().__init__()
        options = Options(parking_bytes=10**9, idle_unload_s=0, min_residents=0)
        self.planner = planner or Utility()
        self.others = 0
        self.state = BrokerState(
            rules=config.Broker(validate=True),
            policy=facts.pop("policy", builders.POLICIES["static"]),
            variants={name: variant(name, bytes=300 * MB) for name in NAMES},
            adapters={},
            segments=builders.segments(["cpu-0"], ((64 * builders.KIB, 4),)),
            epoch=builders.EPOCH,
            now=0.0,
            scaler=Scaling(self.planner, options),
        )
        self.here = facts.pop("here", ("tiny",))
        profiled = tuple(loaded(name, mode) for name in NAMES for mode in ROOMS)
        self.join(residents=tuple(loaded(name) for name in self.here), profiled=profiled)
        self.pulse()

    def pulse(self) -> list[Any]:
        """Let the actor tell its memory: of 1 GB, its residents and others are used."""
        own = 300 * MB * len(self.state.books.by_device["cpu-0"].residents)
        free = max(0, 1000 * MB - own - self.others)
        reading = Reading("cpu", 1000 * MB, own + self.others, own, free)
        return self.tell(Pulse("cpu-0.first", 0, reading), b"pulse socket")

    def device(self) -> DeviceStatus:
        (found,) = only(self.ask(Status()), StatusReport).devices
        return found


@pytest.fixture
def script() -> Script:
    return Script()


def latest(script: Script) -> DeviceView:
    """Return the only device of what the planner saw last."""
    (seen,) = script.views[-1].devices
    return seen


def commands(effects: list[Effect]) -> list[object]:
    """Return what the actor is told, greetings left out."""
    return [m for m in told(effects, object, b"cpu-0") if not isinstance(m, Welcome)]


# ---- what the planner sees ----------------------------------------------------------------------


def test_what_an_actor_brings_along_has_been_there_since_then(script: Script) -> None:
    house = Scaled(script, here=("tiny", "wide"))
    house.wait(1.0)
    assert {r.wanted_at for r in latest(script).residents.values()} == {0.0}, "not idle for ever"


def test_the_planner_is_asked_four_times_a_second(script: Script) -> None:
    house = Scaled(script)
    house.wait(0.0)
    for _ in range(8):
        house.now = house.state.next_wake()
        house.wait(0.0)
    assert 7 <= len(script.views) <= 9
    assert house.now <= 2.1


def test_it_sees_free_memory_as_the_device_says_and_what_others_take(script: Script) -> None:
    house = Scaled(script)
    house.others = 250 * MB
    house.pulse()
    house.wait(0.25)
    seen = latest(script)
    assert (seen.total_bytes, seen.others_bytes) == (1000 * MB, 250 * MB)
    assert set(seen.residents) == {"tiny"}
    assert {f.memory_mode: (f.rest_bytes, f.peak_bytes) for f in seen.forms["wide"]}["tiled"] == (
        300 * MB,
        20 * MB,
    )


def test_it_sees_no_device_whose_reading_is_older_than_its_residents(script: Script) -> None:
    house = Scaled(script, here=("tiny", "wide"))
    house.now = 1.0
    house.ask(Evict("wide"))
    house.wait(0.25)
    assert script.views[-1].devices == ()
    house.pulse()
    house.wait(0.25)
    assert latest(script).moving == {"wide"}
    house.tell(Evicted("wide", loaded("wide")))
    house.pulse()
    house.wait(0.25)
    assert latest(script).parked == {"wide": 300 * MB}


def test_it_sees_what_is_busy_and_what_is_pinned(script: Script) -> None:
    house = Scaled(script, here=("tiny", "wide"))
    house.ask("a", variant="tiny")
    house.ask(Pin("wide"))
    house.wait(0.25)
    here = latest(script).residents
    assert (here["tiny"].is_busy, here["wide"].is_busy) == (True, False)
    assert (here["tiny"].is_pinned, here["wide"].is_pinned) == (False, True)


def test_requests_are_forecast_by_what_they_want(script: Script) -> None:
    house = Scaled(script, policy=Modelless(PolicyOptions()))
    house.ask("a", variant="tiny")
    house.ask("b", latency_s=2.0)
    house.ask("c", latency_s=2.1)
    house.wait(0.25)
    wants = {(s.want.variant, s.want.latency_s): s.rate_hz for s in script.views[-1].streams}
    assert len(wants) == 2, "2.0 s and 2.1 s are of one kind"
    ((_, latency_s),) = [key for key in wants if key[0] is None]
    assert latency_s is not None
    assert 1.3 < latency_s <= 2.0


def test_a_policy_that_weighs_no_points_wants_what_it_chose(script: Script) -> None:
    house = Scaled(script)
    house.ask("a")
    house.wait(0.25)
    assert [s.want.variant for s in script.views[-1].streams] == ["deep"], "static's first by name"


# ---- what becomes of its plans ------------------------------------------------------------------


def test_actions_become_messages_and_are_told_with_their_reasons(script: Script) -> None:
    house = Scaled(script, here=("tiny", "deep"))
    script.actions = (
        Park("cpu-0", "deep", "nobody wants it"),
        SetMode("cpu-0", "tiny", "tiled", "memory is short", is_forced=True),
        Load("cpu-0", "wide", "tiled", "it is expected"),
    )
    effects = house.wait(0.25)
    assert commands(effects) == [
        EvictVariant("deep"),
        SwitchMode("tiny", "tiled"),
        LoadVariant("wide", "tiled"),
    ]
    report = only(house.ask(Status()), StatusReport)
    assert report.planner == "script"
    assert [(d.action, d.variant, d.reason) for d in report.decisions] == [
        ("load", "wide", "it is expected"),
        ("set_mode", "tiny", "memory is short"),
        ("park", "deep", "nobody wants it"),
    ]


def test_a_load_that_the_planner_wants_goes_on_though_no_request_waits(script: Script) -> None:
    house = Scaled(script)
    script.actions = (Load("cpu-0", "wide", "full", "it is expected"),)
    assert only(house.wait(0.25), LoadVariant)
    assert commands(house.wait(0.25)) == []


@pytest.mark.parametrize(
    "action",
    [
        Park("cpu-0", "tiny", "x"),
        Drop("cpu-0", "tiny", "x"),
        Park("cpu-0", "wide", "not here"),
        SetMode("cpu-0", "wide", "tiled", "not here"),
        Load("cpu-0", "tiny", "full", "here already"),
        Load("cpu-0", "no-such", "full", "x"),
        Load("cuda-7", "wide", "full", "no such device"),
    ],
    ids=str,
)
def test_what_may_not_or_cannot_be_done_is_not_done(script: Script, action: Any) -> None:
    house = Scaled(script)
    house.ask("a", variant="tiny")
    script.actions = (action,)
    assert commands(house.wait(0.25)) == []
    assert only(house.ask(Status()), StatusReport).decisions == ()


@pytest.mark.parametrize("bug", [ValueError("a bug"), "no plan"])
def test_a_planner_that_fails_is_complained_of_and_asked_again_later(script: Script, bug: Any) -> None:
    house = Scaled(script)
    script.actions = bug if isinstance(bug, Exception) else ()
    if not isinstance(bug, Exception):
        script.plan = lambda view: bug  # type: ignore[method-assign]
    assert [e for e in house.wait(0.25) if isinstance(e, Complain)]
    seen = len(script.views)
    house.wait(0.25)
    assert len(script.views) == seen


# ---- memory is short ----------------------------------------------------------------------------


def test_a_neighbour_makes_a_busy_resident_step_down_and_its_reply_says_so() -> None:
    house = Scaled()
    execute = only(house.ask("a", variant="tiny"), Execute)
    house.others = 600 * MB
    house.pulse()
    effects = house.wait(0.25)
    assert only(effects, SwitchMode) == SwitchMode("tiny", "tiled")
    assert house.device().pressure_bytes == 100 * MB
    house.tell(Switched(loaded("tiny", "tiled")))
    result = only(house.tell(finished(execute)), Result)
    assert any("memory mode tiled" in note and "others take" in note for note in result.notes)
    later = only(house.ask("b", variant="tiny"), Execute)
    result = only(house.tell(finished(later)), Result)
    assert any("memory mode tiled" in note for note in result.notes), "as long as it lasts"
    house.others = 0
    for _ in range(40):
        house.pulse()
        if switched := told(house.wait(0.25), SwitchMode):
            break
    assert switched == [SwitchMode("tiny", "full")]
    house.tell(Switched(loaded("tiny")))
    last = only(house.ask("c", variant="tiny"), Execute)
    assert only(house.tell(finished(last)), Result).notes == ()


def test_room_is_made_before_a_wanted_variant_is_loaded() -> None:
    house = Scaled(here=("tiny", "deep"))
    effects = house.ask("a", variant="wide")
    sent = [type(m) for m in told(effects, object, b"cpu-0")]
    assert sent == [EvictVariant, LoadVariant, Execute]


def test_a_request_waits_while_what_is_busy_leaves_it_no_room() -> None:
    house = Scaled(here=("tiny", "deep"))
    running = [only(house.ask(name, variant=name), Execute) for name in ("tiny", "deep")]
    house.others = 200 * MB
    house.pulse()
    for device in house.state.books.ready:
        device.credits = 3
    assert told(house.ask("w", variant="wide"), LoadVariant) == []
    effects = house.tell(finished(running[0]))
    assert [type(m) for m in told(effects, object, b"cpu-0")] == [EvictVariant, LoadVariant, Execute]
    assert only(effects, EvictVariant).variant == "tiny"


def held_up() -> tuple[Scaled, Execute]:
    """Return a house where `wide`, which fits beside none of two, is next, and `deep` waits behind it.

    Four of `tiny` went ahead, as many as may; the last of them is at work.
    """
    house = Scaled(here=("tiny", "deep"))
    house.others = 200 * MB
    house.pulse()
    (device,) = house.state.books.ready
    device.credits = 1
    running = only(house.ask("t", b"t", variant="tiny"), Execute)
    for number, name in enumerate(("wide", *["tiny"] * 4, "deep")):
        house.ask(f"{number}-{name}", b"%d" % number, variant=name)
    for _ in range(4):
        running = only(house.tell(finished(running)), Execute)
    assert running.variant == "tiny"
    return house, running


def test_what_only_queued_requests_want_gives_way_to_what_is_next() -> None:
    house, running = held_up()
    (device,) = house.state.books.ready
    device.credits = 2
    house.pulse()
    effects = house.wait(0.0)
    assert [type(m) for m in commands(effects)] == [EvictVariant, LoadVariant, Execute]
    assert only(effects, EvictVariant).variant == "deep"
    wide = only(effects, Execute)
    house.tell(Evicted("deep", parked=loaded("deep")))
    house.tell(Loaded(loaded("wide", "tiled")))
    house.pulse()
    effects = house.tell(finished(running)) + house.tell(finished(wide))
    house.pulse()
    last = only(effects + house.wait(0.25), Execute)
    assert last.request_id == "5-deep", "it comes back in its turn"
    house.tell(Loaded(loaded("deep", "tiled")))
    assert only(house.tell(finished(last)), Result).request_id == "5-deep"


def test_what_runs_gives_way_to_nobody() -> None:
    house, _ = held_up()
    (device,) = house.state.books.ready
    device.credits = 3
    only(house.ask("d", b"5", variant="deep", priority=9), Execute)
    house.pulse()
    assert commands(house.wait(0.25)) == []


def test_an_administrators_load_pushes_nothing_out_that_requests_want() -> None:
    house, _ = held_up()
    assert told(house.ask(AdminLoad("wide")), EvictVariant) == []


def test_nothing_is_loaded_before_it_is_known_what_a_change_left_of_the_memory() -> None:
    house = Scaled()
    house.wait(1.0)
    house.ask(Evict("tiny"))
    assert commands(house.ask("a", variant="wide")) == []
    house.pulse()
    assert [type(m) for m in commands(house.wait(0.25))] == [LoadVariant, Execute]


def test_a_device_that_has_told_nothing_yet_is_not_loaded() -> None:
    house = Scaled()
    house.join(route=b"next", incarnation="next", residents=(loaded("tiny"),))
    assert told(house.ask("a", variant="wide"), LoadVariant) == []
    house.tell(Pulse("next", 0, Reading("cpu", 1000 * MB, 300 * MB, 300 * MB, 700 * MB)), b"pulse socket")
    assert told(house.wait(0.25), LoadVariant) == [LoadVariant("wide", "full")]


def test_a_request_waits_while_what_is_on_its_way_leaves_it_no_room() -> None:
    house = Scaled(here=())
    house.others = 300 * MB
    house.pulse()
    first = only(house.ask("w", variant="wide"), Execute)
    house.pulse()
    assert commands(house.ask("d", variant="deep")) == []
    house.now += 1.0
    assert commands(house.tell(Loaded(loaded("wide", "tiled")))) == []
    house.now += 0.5
    house.pulse()
    assert [type(m) for m in commands(house.tell(finished(first)))] == [LoadVariant, Execute]


def test_without_a_planner_everything_comes_as_it_is_asked_for() -> None:
    house = builders.served(variants=builders.TWO)
    assert told(house.ask("a", variant="wide"), LoadVariant) == [LoadVariant("wide")]


# ---- administrators -----------------------------------------------------------------------------


def test_a_pin_loads_keeps_and_is_told_until_it_is_taken_off() -> None:
    house = Scaled()
    effects = house.ask(Pin("wide"))
    assert only(effects, LoadVariant).variant == "wide"
    assert only(effects, Done).what == "wide stays"
    house.tell(Loaded(loaded("wide")))
    assert house.device().pinned == ("wide",)
    house.others = 900 * MB
    house.pulse()
    assert told(house.wait(0.25), (EvictVariant, SwitchMode)) != []  # type: ignore[arg-type]
    assert "wide" in house.device().residents
    house.ask(Pin("wide", pinned=False))
    assert house.device().pinned == ()


def test_an_administrator_may_still_evict_what_is_pinned() -> None:
    house = Scaled()
    house.ask(Pin("tiny"))
    assert only(house.ask(Evict("tiny")), EvictVariant)
    assert house.device().pinned == ()


def test_a_pin_without_a_planner_is_refused() -> None:
    house = builders.served()
    assert only(house.ask(Pin("tiny")), Error).code == "unsupported"


def test_an_administrators_load_makes_room_too() -> None:
    house = Scaled(here=("tiny", "deep"))
    sent = [type(m) for m in told(house.ask(AdminLoad("wide")), object, b"cpu-0")]
    assert sent == [EvictVariant, LoadVariant]


# ---- status and configuration -------------------------------------------------------------------


def test_status_tells_states_and_what_is_expected() -> None:
    house = Scaled()
    house.ask("a", variant="tiny")
    house.wait(0.5)
    assert house.device().states == {"tiny": "active"}
    (expected,) = only(house.ask(Status()), StatusReport).expected
    assert (expected.variant, expected.next_s) == ("tiny", None)


def test_the_configured_planner_is_made_with_its_options() -> None:
    asked = config.parse(
        {"autoscaler": {"headroom": "1GiB", "cooldown": "2s"}, "actors": {"parking_budget": "1MiB"}}
    )
    made = registry.configured(asked.autoscaler, asked.actors.parking_budget)
    assert made is not None
    planner, options = made
    assert planner.name == "utility"
    assert (options.headroom_bytes, options.cooldown_s) == (2**30, 2.0)
    assert options.parking_bytes == 2**20
    assert registry.configured(config.parse({"autoscaler": {"planner": "off"}}).autoscaler, 0) is None


def test_only_so_many_kinds_of_requests_are_remembered(script: Script) -> None:
    house = Scaled(script)
    scaler = house.state.books.scaling
    assert scaler is not None
    for number in range(4 * demand.WANTS_KEPT):
        quality, latency_s = number % 10 / 10, 0.02 * 1.6 ** (number // 10 % 20)
        house.ask(generate(f"r{number}", variant="tiny", latency_s=latency_s, quality=quality))
        house.ask(Cancel(f"r{number}"))
    assert len(scaler.traces) == demand.WANTS_KEPT


def test_only_so_many_decisions_are_remembered(script: Script) -> None:
    house = Scaled(script)
    scaler = house.state.books.scaling
    assert scaler is not None
    for number in range(2 * DECISIONS_KEPT):
        script.actions = (SetMode("cpu-0", "tiny", "tiled", f"{number}"),)
        house.wait(0.25)
        house.pulse()
    assert len(scaler.decisions) == DECISIONS_KEPT
