"""The parking lot: within its budget always, the oldest goes first, what returns is what was parked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difs.actors.parking import ParkingLot

NAMES = st.sampled_from("abcdef")
PARK = st.tuples(NAMES, st.integers(0, 120))
TAKE = st.tuples(NAMES, st.none())


@given(budget=st.integers(0, 200), deeds=st.lists(PARK | TAKE, max_size=40))
def test_the_lot_keeps_its_budget_and_loses_only_what_it_says(
    budget: int, deeds: list[tuple[str, int | None]]
) -> None:
    lot: ParkingLot[int] = ParkingLot(budget)
    there: dict[str, tuple[int, int]] = {}
    for thing, (name, nbytes) in enumerate(deeds):
        if nbytes is None:
            assert lot.take(name) == (there.pop(name)[0] if name in there else None)
        else:
            there.pop(name, None)
            there[name] = thing, nbytes
            dropped = lot.park(name, thing, nbytes)
            assert (name in dropped) == (nbytes > budget)
            kept = [other for other in there if other not in dropped]
            if name not in dropped:
                assert [*dropped, *kept] == list(there), "the oldest go first"
                spared = sum(there[n][1] for n in kept) + (there[dropped[-1]][1] if dropped else budget)
                assert spared > budget or not dropped, "no more go than must"
            for other in dropped:
                del there[other]
        assert lot.names == tuple(there)
        assert lot.nbytes == sum(size for _, size in there.values()) <= budget


def test_one_that_is_too_large_is_refused_and_nobody_makes_room_for_it() -> None:
    lot: ParkingLot[str] = ParkingLot(10)
    assert lot.park("small", "s", 10) == ()
    assert lot.park("large", "l", 11) == ("large",)
    assert lot.names == ("small",)


def test_a_name_that_is_parked_again_replaces_its_older_thing() -> None:
    lot: ParkingLot[str] = ParkingLot(10)
    lot.park("one", "old", 6)
    lot.park("two", "other", 4)
    assert lot.park("one", "new", 6) == ()
    assert (lot.names, lot.nbytes) == (("two", "one"), 10)
    assert lot.take("one") == "new"
    assert lot.take("one") is None


@pytest.mark.parametrize("nbytes", [1, 10**12])
def test_without_a_budget_nothing_is_parked(nbytes: int) -> None:
    lot: ParkingLot[str] = ParkingLot(0)
    assert lot.park("one", "thing", nbytes) == ("one",)
    assert lot.names == ()
