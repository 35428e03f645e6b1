"""The broker plans with what actors announce of their profiles, and with what relatives tell."""

from typing import Any

from msgspec.structs import replace

from difs.actor_messages import CancelLoad, Evicted, Loaded, LoadVariant, Pulse, Resident, Room
from difs.messages import Cancel, Effort, Efforts, Explain, Explanation, Plan, Reading
from difs.policy.base import DeviceView
from difs.policy.points import predict
from difs.profiles import Work
from tests.builders import COSTS, House, generate, only, resident, variant

SLOW = replace(COSTS, encode_s=1.0, load_s=3.0)
FULL, TILED = resident("wide", SLOW), resident("wide", replace(SLOW, encode_s=2.0), "tiled")
VARIANTS = (variant("tiny"), variant("wide", family="sdxl"))


def house(**changes: Any) -> House:
    """Return a house in which `tiny` is loaded and `wide`, of another family, is not."""
    found = House(variants=VARIANTS)
    found.join(**changes)
    return found


def planned(house: House, name: str) -> Plan:
    asked = Explain(generate("x", variant=name))
    plan = only(house.ask(asked), Explanation).plan
    assert plan is not None
    return plan


def test_without_a_profile_nothing_is_known_of_what_was_never_loaded() -> None:
    assert planned(house(), "wide").prediction.source == "assumed"


PARTS = Efforts(*[Effort(10, 1000, 1e5, 1e3, 0.1)] * 3)
COUNTED = (variant("tiny", efforts=PARTS), variant("wide", family="sdxl", bytes=50, efforts=PARTS))


def test_a_variant_of_another_family_is_estimated_where_both_were_counted() -> None:
    found = House(variants=COUNTED)
    found.join()
    prediction = planned(found, "wide").prediction
    assert (prediction.source, prediction.encode_s) == ("estimated", COSTS.encode_s)
    assert prediction.load_s < COSTS.load_s, "its file is the smaller one"


def test_an_estimated_load_is_one_from_the_disk_though_the_relative_is_parked() -> None:
    found = House(variants=COUNTED)
    found.join()
    before = planned(found, "wide").prediction.load_s
    found.tell(Evicted("tiny", parked=resident("tiny", replace(COSTS, load_s=0.001))))
    assert planned(found, "wide").prediction.load_s == before


def test_a_profiled_variant_is_planned_with_what_was_measured_before_it_is_loaded() -> None:
    plan = planned(house(profiled=(FULL, TILED)), "wide")
    assert (plan.prediction.source, plan.memory_mode) == ("measured", "full")
    assert (plan.prediction.encode_s, plan.prediction.load_s) == (1.0, 3.0)


def test_the_mode_that_it_is_loaded_into_counts() -> None:
    plan = planned(house(profiled=(TILED, FULL)), "wide")
    assert (plan.memory_mode, plan.prediction.encode_s) == ("tiled", 2.0)


def test_what_is_loaded_is_known_better_than_by_its_profile_and_again_when_it_is_gone() -> None:
    found = house(profiled=(FULL,))
    found.tell(Loaded(resident("wide", replace(COSTS, encode_s=9.0))))
    assert planned(found, "wide").prediction.encode_s == 9.0
    found.tell(Evicted("wide"))
    plan = planned(found, "wide")
    assert (plan.prediction.encode_s, plan.prediction.load_s) == (1.0, 3.0)


def test_a_new_incarnation_brings_its_own_profiles() -> None:
    found = house(profiled=(FULL,))
    found.join(incarnation="second", pid=7, route=b"second")
    assert planned(found, "wide").prediction.source == "assumed"


def test_a_relative_of_what_was_measured_is_estimated_and_measured_later() -> None:
    found = House(variants=(variant("tiny"), variant("half", bytes=500)))
    found.join()
    plan = planned(found, "half")
    assert plan.prediction.source == "estimated"
    assert plan.prediction.steps_s == planned(found, "tiny").prediction.steps_s / 2
    found.tell(Loaded(resident("half")))
    assert planned(found, "half").prediction.source == "measured"


def test_an_estimate_learns_of_relatives_that_are_loaded_later() -> None:
    found = House(variants=(*VARIANTS, variant("half", family="sdxl", bytes=500)))
    found.join()
    assert planned(found, "half").prediction.source == "assumed"
    found.tell(Loaded(resident("wide")))
    assert planned(found, "half").prediction.source == "estimated"


def test_a_profile_of_what_is_not_registered_harms_nobody() -> None:
    strange = Resident("strange", "full", "fp32", 1, COSTS)
    assert planned(house(profiled=(strange,)), "tiny").prediction.source == "measured"


def test_a_policy_sees_every_mode() -> None:
    view = DeviceView("cpu-0", {}, 0.0, 0, 2, profiled={"wide": (FULL, TILED)})
    assert view.known("wide") is FULL
    assert view.known("tiny") is None
    work = Work(4096, 1, "ddim", 1.0, 1)
    assert predict(view, "wide", work).load_s == 3.0


# ---- the memory mode of what is not loaded yet -----------------------------------------------------

ROOMY, NARROW = replace(FULL, room=Room(1000, 100, 300)), replace(TILED, room=Room(1000, 100, 50))


def moded(free_bytes: int) -> House:
    """Return a house whose device has `free_bytes`, and 1000 more if `tiny` leaves."""
    found = House(variants=VARIANTS, policy="modelless")
    found.join(profiled=(ROOMY, NARROW))
    breathe(found, free_bytes)
    return found


def breathe(house: House, free_bytes: int) -> None:
    house.tell(Pulse("cpu-0.first", 0, Reading("cpu", 10_000, 10_000 - free_bytes, 100, free_bytes)))


def test_a_variant_is_planned_in_the_quickest_mode_that_has_room() -> None:
    assert planned(moded(300), "wide").memory_mode == "full"
    plan = planned(moded(299), "wide")
    assert (plan.memory_mode, plan.prediction.encode_s) == ("tiled", 2.0)


def test_what_somebody_wants_gives_no_room() -> None:
    found = moded(300)
    found.ask("r1", variant="tiny")
    breathe(found, 300)
    assert planned(found, "wide").memory_mode == "tiled"


def test_it_is_loaded_into_the_planned_mode_and_planned_there_until_it_comes() -> None:
    found = moded(299)
    assert only(found.ask("r1", variant="wide"), LoadVariant) == LoadVariant("wide", "tiled")
    breathe(found, 5000)
    assert planned(found, "wide").memory_mode == "tiled", "it is on its way"
    assert only(found.ask(Cancel("r1")), CancelLoad)
    assert planned(found, "wide").memory_mode == "full"


def test_a_plan_without_a_profile_loads_into_the_variant_s_own_mode() -> None:
    found = House(variants=VARIANTS, policy="modelless")
    found.join()
    assert only(found.ask("r1", variant="wide"), LoadVariant) == LoadVariant("wide")
