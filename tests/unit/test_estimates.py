"""difs.estimates: a variant that was never measured costs what its relatives do, in proportion."""

import pytest
from msgspec.structs import replace

from difs import estimates
from difs.actor_messages import Room
from difs.messages import VariantInfo
from difs.profiles import predict
from tests import builders
from tests.unit.test_profiles import work


def named(*infos: VariantInfo) -> dict[str, VariantInfo]:
    return {info.name: info for info in infos}


BASE = builders.variant("base", bytes=1000)
KNOWN = {"base": replace(builders.resident("base"), room=Room(5), seed_bound=0.1)}


def test_steps_go_with_the_parameters_and_a_load_with_the_bytes() -> None:
    half = builders.variant("half", bytes=500)
    found = estimates.of_all(named(BASE, half), KNOWN)["half"]
    was = KNOWN["base"].costs
    assert [c.seconds for c in found.costs.steps] == [c.seconds / 2 for c in was.steps]
    assert found.costs.load_s == was.load_s / 2
    assert (found.costs.encode_s, found.costs.decode_s) == (was.encode_s, was.decode_s)
    assert (found.variant, found.weight_bytes) == ("half", 500)
    assert (found.room, found.seed_bound) == (None, 0.0), "nothing is said that is not known"


def test_a_file_of_twice_the_precision_has_no_more_parameters() -> None:
    exact = builders.variant("exact", bytes=2000, precision="fp32")
    found = estimates.of_all(named(BASE, exact), KNOWN)["exact"]
    assert found.costs.steps == KNOWN["base"].costs.steps
    assert found.costs.load_s == 2 * KNOWN["base"].costs.load_s


def test_a_prediction_from_an_estimate_says_so() -> None:
    found = estimates.of_all(named(BASE, builders.variant("other")), KNOWN)["other"]
    assert predict(work(), found.costs).source == "estimated"
    assert predict(work(), KNOWN["base"].costs).source == "measured"


def test_of_several_relatives_the_nearest_in_size_counts() -> None:
    large = builders.variant("large", bytes=9000)
    slow = replace(builders.COSTS, encode_s=7.0)
    known = {**KNOWN, "large": builders.resident("large", slow)}
    asked = builders.variant("asked", bytes=8000)
    assert estimates.of_all(named(BASE, large, asked), known)["asked"].costs.encode_s == 7.0


@pytest.mark.parametrize("other", [builders.variant("xl", family="sdxl"), BASE])
def test_other_families_and_what_was_measured_get_no_estimate(other: VariantInfo) -> None:
    assert estimates.of_all(named(BASE, other), KNOWN) == {}
