"""difs.autoscaler.search: what is called exact is the best of all, and greedy is not far from it."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from difs.autoscaler import search
from difs.autoscaler.base import Form, Want
from difs.autoscaler.search import Later, Option, Picks, Problem, Site
from difs.autoscaler.worth import Offer, ceiling_of, price_of, serve, worth
from tests.scaling import stream

BYTES = st.integers(0, 6)
WORTH = st.integers(0, 10).map(lambda tenths: tenths / 10)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Draw a small problem whose present picks fit."""
    streams = tuple(
        stream(uses=draw(st.integers(1, 9)) / 2, rate_hz=draw(st.integers(0, 8)) / 4)
        for _ in range(draw(st.integers(1, 3)))
    )
    budgets = tuple(draw(st.integers(3, 12)) for _ in range(draw(st.integers(1, 2))))
    sites = []
    for _ in range(draw(st.integers(1, 5))):
        device = draw(st.integers(0, len(budgets) - 1))
        options = [
            Option(
                draw(BYTES),
                draw(BYTES),
                draw(WORTH),
                Offer(
                    device,
                    draw(st.integers(1, 8)) / 4,
                    [(s, draw(WORTH)) for s in range(len(streams)) if draw(st.booleans())],
                ),
            )
            for _ in range(draw(st.integers(1, 2)))
        ]
        absent = Option(0, 0, 0.0, None)
        sites.append(Site.of(device, (*options, absent), len(options)))
    return Problem(budgets, tuple(sites), streams)


def brute_force(problem: Problem) -> float:
    """Return the worth of the best picks of all that fit."""
    every = itertools.product(*(range(len(site.options)) for site in problem.sites))
    return max(search.value(problem, picks) for picks in every if search.fits(problem, picks))


@given(problems())
@settings(max_examples=100, deadline=None)
def test_the_exact_search_finds_what_brute_force_finds(problem: Problem) -> None:
    found = search.exact(problem, search.current(problem))
    assert search.fits(problem, found)
    assert abs(search.value(problem, found) - brute_force(problem)) < 1e-9


@given(problems())
@settings(max_examples=100, deadline=None)
def test_the_greedy_search_keeps_to_the_memory_and_never_makes_it_worse(problem: Problem) -> None:
    found = search.greedy(problem)
    assert search.fits(problem, found)
    assert search.value(problem, found) >= search.value(problem, search.current(problem))


@given(problems())
@settings(max_examples=40, deadline=None)
def test_what_is_used_is_at_least_as_good_as_greedy(problem: Problem) -> None:
    found = search.best(problem)
    assert search.value(problem, found) >= search.value(problem, search.greedy(problem)) - 1e-9


def wants(*worths: float, device: int = 0, serve_s: float = 0.0) -> Offer:
    return Offer(device, serve_s, list(enumerate(worths)))


def knapsack(sizes: tuple[int, ...], worths: tuple[float, ...], budget: int) -> Problem:
    """Return a problem in which every variant serves a stream of its own."""
    absent = Option(0, 0, 0.0, None)
    sites = tuple(
        Site.of(0, (Option(size, 0, 0.0, Offer(0, 0.0, [(i, worth)])), absent), 1)
        for i, (size, worth) in enumerate(zip(sizes, worths, strict=True))
    )
    return Problem((budget,), sites, tuple(stream(uses=1.0, rate_hz=0.0) for _ in sizes))


def test_the_exact_search_finds_the_pair_that_greed_passes_over() -> None:
    problem = knapsack((6, 5, 5), (0.7, 0.6, 0.6), 10)
    assert search.best(problem) == (1, 0, 0)


def test_where_nothing_fits_nothing_is_changed() -> None:
    heavy = Site.of(0, (Option(9, 0, 0.0, wants(1.0)),), 0)
    problem = Problem((5,), (heavy,), (stream(),))
    picks: Picks = (0,)
    assert search.best(problem) == picks


def test_the_largest_call_counts_once_for_all_that_rest() -> None:
    sites = tuple(Site.of(0, (Option(2, 3, 0.0, None),), 0) for _ in range(2))
    assert search.fits(Problem((7,), sites, ()), (0, 0))
    assert not search.fits(Problem((6,), sites, ()), (0, 0))


# ---- what residents serve -----------------------------------------------------------------------


def test_a_request_is_served_once_by_the_best() -> None:
    both = serve([wants(0.5), wants(0.9)], [stream(uses=2.0)], 1)
    assert (both.total, both.by_offer) == (1.8, [0.0, 1.8])


def test_a_device_has_one_second_in_a_second() -> None:
    busy = stream(uses=10.0, rate_hz=2.0)
    alone = serve([wants(0.8, serve_s=1.0)], [busy], 1)
    assert (alone.total, alone.missed) == (4.0, [0.5])
    shared = serve([wants(0.8, serve_s=1.0), wants(0.8, device=1, serve_s=1.0)], [busy], 2)
    assert (shared.total, shared.missed) == (8.0, [0.0])


def test_where_time_is_short_its_price_gives_it_to_who_makes_most_of_it() -> None:
    slow, quick = wants(0.9, serve_s=2.0), wants(0.6, serve_s=0.1)
    busy = stream(uses=30.0, rate_hz=1.0)
    price = price_of([(o.serve_s, o.worths) for o in (slow, quick)], [busy], 1)
    assert 0.3 / 1.9 < price < 0.6 / 0.1
    assert serve([slow, quick], [busy], 1).total < 0.6 * 30.0
    assert serve([slow, quick], [busy], 1, price).by_offer == [0.0, 0.6 * 30.0]
    calm = stream(uses=12.0, rate_hz=0.4)
    assert price_of([(o.serve_s, o.worths) for o in (slow, quick)], [calm], 1) == 0.0


def test_what_is_not_worth_its_price_gets_the_time_that_is_left() -> None:
    dear = wants(0.5, serve_s=1.0)
    found = serve([dear], [stream(uses=10.0, rate_hz=2.0)], 1, price=5.0)
    assert (found.total, found.missed) == (2.5, [0.5])


OFFERS = st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0.0, 1.0)), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.floats(0.01, 8.0), OFFERS), min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_at_its_price_all_that_is_worth_it_has_time(
    asked: list[tuple[float, list[tuple[float, float]]]], devices: int
) -> None:
    streams = [stream(uses=30 * rate_hz, rate_hz=rate_hz) for rate_hz, _ in asked]
    offers = [(s, [(i, value)]) for i, (_, found) in enumerate(asked) for s, value in found]
    price = price_of(offers, streams, devices)
    busy = 0.0
    for rate_hz, found in asked:
        net, seconds = max((value - price * s, s) for s, value in found)
        busy += rate_hz * seconds if net > 0 else 0.0
    assert busy <= devices


# ---- ceilings -------------------------------------------------------------------------------------

SECONDS = st.integers(0, 12).map(float)
FORMS = st.builds(
    lambda quality, latency_s, draft_quality, draft_s: Form(
        "full", 1, 0, 1.0, 1.0, quality, latency_s, draft_quality, draft_s
    ),
    WORTH,
    SECONDS,
    WORTH,
    SECONDS,
)
WANTS = st.builds(Want, latency_s=st.none() | SECONDS, floor=WORTH)


@given(st.lists(FORMS, min_size=1, max_size=4), st.lists(WANTS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_form_is_worth_more_than_the_ceiling(forms: list[Form], wanted: list[Want]) -> None:
    streams = tuple(enumerate(wanted))
    ceiling = dict(ceiling_of(forms, streams))
    for form in forms:
        assert all(worth(form, want) <= ceiling[i] + 1e-9 for i, want in streams)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_options_made_when_they_are_looked_at_are_picked_alike(problem: Problem) -> None:
    def later(site: Site) -> Site:
        return site._replace(options=Later(lambda: site.options), is_vacant=True)

    sites = tuple(later(site) for site in problem.sites)
    assert search.best(problem._replace(sites=sites)) == search.best(problem)


def test_options_that_could_add_nothing_are_never_made() -> None:
    def never() -> list[Option]:
        raise AssertionError

    served = Site.of(0, [Option(1, 0, 0.0, wants(0.9)), Option(0, 0, 0.0, None)], 0)
    useless = Site(0, Later(never), 1, ((0, 0.5),), is_vacant=True)
    sites = (served, *[useless] * (search.EXACT_SITES + 1))
    problem = Problem((2,), sites, (stream(uses=1.0, rate_hz=0.1),))
    assert search.best(problem) == search.current(problem)
