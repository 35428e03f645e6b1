"""difs.estimates: a variant that was never measured costs what others do, by what both take."""

from itertools import permutations
from pathlib import Path

import pytest
from msgspec.structs import replace

from difs import efforts, estimates, repository
from difs.actor_messages import Costs, Resident, Room, RowCost, SizeCost
from difs.messages import VariantInfo
from difs.profiles import predict, step_seconds
from difs.simulation import tables
from difs.sizes import at
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
    own = work(pixels=KNOWN["base"].costs.pixels)
    assert predict(own, found.costs).source == "estimated"
    assert predict(own, KNOWN["base"].costs).source == "measured"


def test_of_several_relatives_the_nearest_in_size_counts() -> None:
    large = builders.variant("large", bytes=9000)
    slow = replace(builders.COSTS, encode_s=7.0)
    known = {**KNOWN, "large": builders.resident("large", slow)}
    asked = builders.variant("asked", bytes=8000)
    assert estimates.of_all(named(BASE, large, asked), known)["asked"].costs.encode_s == 7.0


@pytest.mark.parametrize("other", [builders.variant("xl", family="sdxl"), BASE])
def test_what_was_not_counted_and_has_no_relative_gets_no_estimate(other: VariantInfo) -> None:
    assert estimates.of_all(named(BASE, other), KNOWN) == {}


# ---- by count -------------------------------------------------------------------------------------

SHIPPED = {
    name: found.info()
    for name, found in repository.scan(repository.locate("model_repo")).variants.items()
}
REAL = builders.variant(
    "sd15-real",
    family="sd15",
    bytes=2_133_000_000,
    native_sizes=((512, 512),),
    efforts=efforts.of_parts(
        {path.parent.name: path.read_bytes() for path in repository.PIPELINES.glob("sd15/*/config.json")}
    ),
)
INFOS = {**SHIPPED, REAL.name: REAL}
MEASURED = {
    "emoji-base": (
        {64: {1: 0.0224, 2: 0.0297, 8: 0.0787}, 128: {1: 0.052, 4: 0.169}},
        {64: 0.0217, 128: 0.0864},
    ),
    "emoji-small": (
        {64: {1: 0.0102, 2: 0.0146, 8: 0.0321}, 128: {1: 0.0226, 4: 0.0621}},
        {64: 0.0228, 128: 0.0851},
    ),
    "emoji-xl": (
        {64: {1: 0.0113, 2: 0.0165, 8: 0.0335}, 128: {1: 0.0217, 4: 0.0613}},
        {64: 0.0218, 128: 0.0894},
    ),
    "sd15-real": ({128: {1: 1.28}, 256: {1: 2.81}}, {128: 1.50, 256: 6.68}),
}
"""CPU seconds of a UNet's call by side and rows, and of a decoding by side: one thread of an AMD EPYC,
torch 2.13, fp32, measured as `python -m bench.estimates` does. `sd15-real` has Stable Diffusion 1.5's
structure, not its weights."""


def measured(name: str) -> Resident:
    """Return a variant as it was measured."""
    steps, decodes = MEASURED[name]
    own, other = [
        SizeCost(side * side, tuple(RowCost(*cost) for cost in rows.items()), decodes[side])
        for side, rows in steps.items()
    ]
    costs = Costs(own.pixels, 0.001, own.steps, own.decode_s, 1.0, (other,))
    return builders.resident(name, costs)


def estimated(name: str, known: dict[str, Resident], kind: str = "cpu") -> Resident:
    """Return the estimate of a variant from others that were measured."""
    return estimates.of_all(INFOS, known, kind)[name]


TABLES = tables.read(Path(__file__).parents[2] / "bench" / "tables", SHIPPED)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_other_sizes_are_told_far_better_by_count_than_by_pixels(name: str) -> None:
    """Each measured size and number of rows, told from the native size alone."""
    truth = TABLES[name].modes["full"].resident.costs
    native = replace(truth, sizes=())
    counted = estimates.at_other_sizes(native, SHIPPED[name].efforts, "cpu")
    by_pixels, by_count = [], []
    for size in truth.sizes:
        for cost in size.steps:
            by_pixels.append(step_seconds(native, size.pixels, cost.rows) / cost.seconds)
            by_count.append(step_seconds(counted, size.pixels, cost.rows) / cost.seconds)
    assert max(by_pixels) > 1.6, "what is small takes less than its pixels say"
    assert max(by_count) < 1.4
    assert min(by_count) > 0.75
    assert sum(abs(r - 1) for r in by_count) < 0.5 * sum(abs(r - 1) for r in by_pixels)


def test_the_size_that_was_measured_stays_as_it_was_measured() -> None:
    native = replace(TABLES["emoji-base"].modes["full"].resident.costs, sizes=())
    counted = estimates.at_other_sizes(native, SHIPPED["emoji-base"].efforts, "cpu")
    assert replace(counted, sizes=()) == native
    assert [size.pixels for size in counted.sizes] == [32 * 32, 128 * 128]


@pytest.mark.parametrize("seconds", [0.0, float("inf")])
def test_of_what_was_not_counted_or_measured_no_other_size_is_told(seconds: float) -> None:
    native = replace(TABLES["emoji-base"].modes["full"].resident.costs, sizes=())
    assert estimates.at_other_sizes(native, None, "cpu") is native
    odd = replace(native, steps=(RowCost(1, seconds),))
    assert estimates.at_other_sizes(odd, SHIPPED["emoji-base"].efforts, "cpu") is odd


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (("emoji-base",), "emoji-small"),
        (("emoji-small",), "emoji-base"),
        (("emoji-base",), "emoji-xl"),
        (("emoji-xl",), "emoji-base"),
        (("emoji-xl",), "emoji-small"),
        (("emoji-small", "emoji-xl"), "emoji-base"),
        (("emoji-base", "emoji-small"), "emoji-xl"),
        (("emoji-base",), "sd15-real"),
        (("emoji-base", "emoji-small", "emoji-xl"), "sd15-real"),
    ],
)
def test_a_variant_of_a_family_never_measured_here_is_estimated_within_a_factor_of_two(
    known: tuple[str, ...], asked: str
) -> None:
    found = estimated(asked, {name: measured(name) for name in known}).costs
    steps, decodes = MEASURED[asked]
    for side, rows in steps.items():
        for number, seconds in rows.items():
            assert 0.5 < step_seconds(found, side * side, number) / seconds < 2
        assert 0.5 < at(found, side * side).decode_s / decodes[side] < 2


@pytest.mark.parametrize(
    ("known", "asked"), [*permutations(("emoji-base", "emoji-small", "emoji-turbo", "emoji-xl"), 2)]
)
def test_in_the_tables_of_the_benches_too(known: str, asked: str) -> None:
    models = tables.read(Path(__file__).parents[2] / "bench" / "tables", SHIPPED)
    there = {name: next(iter(model.modes.values())).resident for name, model in models.items()}
    found = estimated(asked, {known: there[known]}).costs
    for number in (1, 2, 4, 8, 16):
        told, seen = (step_seconds(costs, 64 * 64, number) for costs in (found, there[asked].costs))
        assert 0.5 < told / seen < 2
    assert 0.5 < found.load_s / there[asked].costs.load_s < 2


def test_an_estimate_across_families_says_so_and_is_for_the_variants_own_size() -> None:
    found = estimated("sd15-real", {"emoji-xl": measured("emoji-xl")})
    assert (found.costs.source, found.variant, found.costs.pixels) == (
        "estimated",
        "sd15-real",
        512 * 512,
    )
    assert [size.pixels for size in found.costs.sizes] == [128 * 128, 1024 * 1024]


@pytest.mark.parametrize("sides", [(), (16,), (32, 128), (63, 65)])
def test_the_sizes_of_an_estimate_ascend_and_its_own_is_not_among_them(sides: tuple[int, ...]) -> None:
    known = measured("emoji-base")
    sizes = tuple(SizeCost(side * side, known.costs.steps, known.costs.decode_s) for side in sides)
    found = estimated(REAL.name, {"emoji-base": replace(known, costs=replace(known.costs, sizes=sizes))})
    pixels = [size.pixels for size in found.costs.sizes]
    assert pixels == sorted({*pixels} - {512 * 512})
    assert min(pixels) < 512 * 512, "what is smaller than usual is not taken to be linear"
    for side in (64, 256, 512, 1024):
        assert step_seconds(found.costs, side * side, 2) > 0


def test_of_the_same_structure_everything_but_the_load_is_the_same() -> None:
    known = measured("emoji-base")
    found = estimated("emoji-turbo", {"emoji-base": known})
    ours, theirs = found.costs, known.costs
    assert (ours.pixels, ours.steps, ours.encode_s) == (theirs.pixels, theirs.steps, theirs.encode_s)
    assert (ours.decode_s, ours.sizes[1:]) == (theirs.decode_s, theirs.sizes)
    assert found.costs.load_s > known.costs.load_s, "the adapter is read too"


def test_a_larger_file_takes_longer_to_load_but_not_in_proportion() -> None:
    found = estimated("sd15-real", {"emoji-base": measured("emoji-base")}).costs.load_s
    twice = replace(REAL, bytes=2 * REAL.bytes)
    longer = estimates.of_all(
        {"emoji-base": SHIPPED["emoji-base"], "twice": twice}, {"emoji-base": measured("emoji-base")}
    )
    assert found < longer["twice"].costs.load_s < 2 * found


def test_a_slower_memory_mode_tells_nothing_where_the_full_one_was_measured() -> None:
    slow = replace(measured("emoji-xl"), memory_mode="sequential_offload")
    known = {"emoji-base": measured("emoji-base")}
    assert estimated("emoji-small", {**known, "emoji-xl": slow}) == estimated("emoji-small", known)
    assert estimated("emoji-small", {"emoji-xl": slow}).memory_mode == "sequential_offload"


def test_with_nothing_measured_the_kind_of_device_is_taken_and_it_says_so() -> None:
    cpu, gpu = estimated("sd15-real", {}), estimated("sd15-real", {}, "cuda")
    assert cpu.costs.source == gpu.costs.source == "assumed"
    assert predict(work(), gpu.costs).source == "assumed"
    assert step_seconds(gpu.costs, 512 * 512, 2) == pytest.approx(0.075, rel=0.1), (
        "as diffusers' guide says"
    )
    assert step_seconds(cpu.costs, 512 * 512, 2) > 100 * step_seconds(gpu.costs, 512 * 512, 2)
    assert cpu.weight_bytes == 2 * gpu.weight_bytes, "a CPU computes in fp32"


def test_what_cannot_be_counted_is_estimated_from_its_relatives_still() -> None:
    strange = builders.variant("strange", family="sd15", bytes=SHIPPED["emoji-base"].bytes)
    known = {"emoji-base": measured("emoji-base")}
    found = estimates.of_all({**SHIPPED, "strange": strange}, known)["strange"]
    assert found.costs.steps == known["emoji-base"].costs.steps
