"""The best set of residents: by branch and bound where that is quick, else step by step. Pure.

A problem has sites, each a variant on a device with a few options (its memory modes, or to be absent);
one option is picked for each, so that every device's picks fit into its memory. Worth: what all picks
serve together (`difs.autoscaler.worth`), less what the change to each pick costs.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from difs.autoscaler.base import Stream
from difs.autoscaler.worth import Offer, Served, serve

EXACT_NODES = 3000
"""Nodes after which the search gives up to be exact; some milliseconds."""
EXACT_SITES = 10
"""Sites up to which it is tried."""
TRIES = 24
"""Steps of the greedy search at most; the next plan goes on from there."""
LEAST_GAIN = 0.01
"""A step must be worth so much, in pictures of quality 1."""


class Option(NamedTuple):
    """What can be picked at a site."""

    rest_bytes: int
    peak_bytes: int
    cost: float
    """Of the change from what is there now: 0 for what is."""
    offer: Offer | None
    """None: the variant is absent."""


class Site(NamedTuple):
    """A variant on a device."""

    device: int
    options: tuple[Option, ...]
    current: int
    """The option that is there now."""
    ceiling: tuple[tuple[int, float], ...]
    """(index of a stream, worth of the best option): no option is worth more."""

    @classmethod
    def of(cls, device: int, options: Sequence[Option], current: int) -> "Site":
        """Return a site with its ceiling."""
        most: dict[int, float] = {}
        for option in options:
            for stream, worth in option.offer.worths if option.offer is not None else ():
                most[stream] = max(most.get(stream, 0.0), worth)
        return cls(device, tuple(options), current, tuple(most.items()))


class Problem(NamedTuple):
    """See the module."""

    budgets: tuple[int, ...]
    """Bytes of each device."""
    sites: tuple[Site, ...]
    streams: tuple[Stream, ...]


Picks = tuple[int, ...]
"""The option of each site."""


def current(problem: Problem) -> Picks:
    """Return the picks that change nothing."""
    return tuple(site.current for site in problem.sites)


def fits(problem: Problem, picks: Sequence[int]) -> bool:
    """Whether every device has room: for all that rests there, and the largest call."""
    rest, peak = [0] * len(problem.budgets), [0] * len(problem.budgets)
    for site, pick in zip(problem.sites, picks, strict=True):
        option = site.options[pick]
        rest[site.device] += option.rest_bytes
        peak[site.device] = max(peak[site.device], option.peak_bytes)
    return all(r + p <= b for r, p, b in zip(rest, peak, problem.budgets, strict=True))


def value(problem: Problem, picks: Sequence[int]) -> float:
    """Return what picks are worth."""
    chosen = [site.options[pick] for site, pick in zip(problem.sites, picks, strict=True)]
    offers = [option.offer for option in chosen if option.offer is not None]
    served = serve(offers, problem.streams, len(problem.budgets))
    return served.total - sum(option.cost for option in chosen)


def best(problem: Problem) -> Picks:
    """Return the best picks that were found; those of now where nothing is better or nothing fits."""
    found = greedy(problem)
    if len(problem.sites) <= EXACT_SITES:
        return exact(problem, found, EXACT_NODES)
    return found


# ---- exact --------------------------------------------------------------------------------------


def exact(problem: Problem, start: Picks, max_nodes: float = float("inf")) -> Picks:
    """Return the best of all picks that fit, or the best among `max_nodes` nodes.

    Where nothing fits, `start`. A branch is left when even its best options, with all the time of all
    devices, could not beat what was found.
    """
    return _Branching(problem, start, max_nodes).run()


class _Branching:
    """One depth-first search."""

    def __init__(self, problem: Problem, start: Picks, max_nodes: float) -> None:
        self._problem = problem
        self._picks = list(start)
        self._best = start
        self._most = value(problem, start) if fits(problem, start) else float("-inf")
        self._left = max_nodes
        self._ahead = _best_ahead(problem)
        self._rest, self._peak = [0] * len(problem.budgets), [0] * len(problem.budgets)

    def run(self) -> Picks:
        self._descend(0, [0.0] * len(self._problem.streams), 0.0)
        return self._best

    def _descend(self, depth: int, worths: list[float], cost: float) -> None:
        """Try all options of the sites from `depth` on; `worths`: the best picked for each stream."""
        if self._left <= 0:
            return
        self._left -= 1
        problem = self._problem
        if depth == len(problem.sites):
            found = value(problem, self._picks)
            if found > self._most + 1e-9:
                self._most, self._best = found, tuple(self._picks)
            return
        ahead = self._ahead[depth]
        limit = sum(s.uses * max(w, a) for s, w, a in zip(problem.streams, worths, ahead, strict=True))
        if limit - cost <= self._most + 1e-9:
            return
        site = problem.sites[depth]
        device, rest, peak = site.device, self._rest[site.device], self._peak[site.device]
        for i, option in enumerate(site.options):
            if rest + option.rest_bytes + max(peak, option.peak_bytes) > problem.budgets[device]:
                continue
            self._picks[depth] = i
            self._rest[device] = rest + option.rest_bytes
            self._peak[device] = max(peak, option.peak_bytes)
            raised = _raised(worths, option.offer.worths) if option.offer is not None else worths
            self._descend(depth + 1, raised, cost + option.cost)
        self._rest[device], self._peak[device] = rest, peak


def _raised(worths: list[float], by: Sequence[tuple[int, float]]) -> list[float]:
    found = worths.copy()
    for stream, worth in by:
        found[stream] = max(found[stream], worth)
    return found


def _best_ahead(problem: Problem) -> list[list[float]]:
    """Return, for each depth and stream, the best worth of any option from there on."""
    ahead = [[0.0] * len(problem.streams)]
    for site in reversed(problem.sites):
        row = ahead[-1]
        ahead.append(_raised(row, site.ceiling))
    return ahead[::-1]


# ---- greedy -------------------------------------------------------------------------------------


def greedy(problem: Problem) -> Picks:
    """Return good picks: those of now, changed while a change pays; none where they do not fit."""
    return _Climb(problem).run()


class _Climb:
    """Picks that are changed one option at a time, with what gives way to each."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._picks = list(current(problem))
        self._sites_on: list[list[int]] = [[] for _ in problem.budgets]
        for i, site in enumerate(problem.sites):
            self._sites_on[site.device].append(i)
        self._enter(self._outcome())

    def run(self) -> Picks:
        if not fits(self._problem, self._picks):
            return tuple(self._picks)
        heap = self._first()
        tries = 0
        while heap and tries < TRIES:
            _, i, pick = heapq.heappop(heap)
            if pick < 0:
                for entry in self._gains_at(i):
                    heapq.heappush(heap, entry)
                continue
            gain = self._gain(i, self._problem.sites[i].options[pick])
            if gain <= LEAST_GAIN:
                continue
            if heap and gain < -heap[0][0]:
                heapq.heappush(heap, (-gain, i, pick))  # others may be better by now
                continue
            tries += 1
            self._try(i, pick)
        return tuple(self._picks)

    def _first(self) -> list[tuple[float, int, int]]:
        """Return what could be gained at each site at most; its options are looked at when it leads."""
        heap = []
        for i, site in enumerate(self._problem.sites):
            most = self._more(site.ceiling) + self._cost(i)
            if i in self._worth_at:
                heap += self._gains_at(i)
            elif most > LEAST_GAIN:
                heap.append((-most, i, -1))
        heapq.heapify(heap)
        return heap

    def _gains_at(self, i: int) -> list[tuple[float, int, int]]:
        found = [
            (-self._gain(i, option), i, pick)
            for pick, option in enumerate(self._problem.sites[i].options)
            if pick != self._picks[i]
        ]
        return [entry for entry in found if -entry[0] > LEAST_GAIN]

    def _outcome(self) -> tuple[float, Served, dict[int, float]]:
        """Return what the picks are worth, what they serve, and what of it each site does."""
        problem, cost = self._problem, 0.0
        offers: dict[int, Offer] = {}
        for i, (site, pick) in enumerate(zip(problem.sites, self._picks, strict=True)):
            option = site.options[pick]
            cost += option.cost
            if option.offer is not None:
                offers[i] = option.offer
        served = serve(list(offers.values()), problem.streams, len(problem.budgets))
        return served.total - cost, served, dict(zip(offers, served.by_offer, strict=True))

    def _enter(self, outcome: tuple[float, Served, dict[int, float]]) -> None:
        self._value, self._served, self._worth_at = outcome

    def _gain(self, i: int, option: Option) -> float:
        """Return what an option would add at most, all devices having time."""
        gain = self._cost(i) - option.cost
        if option.offer is None:
            return gain - self._worth_at.get(i, 0.0)
        return gain + self._more(option.offer.worths)

    def _more(self, worths: Sequence[tuple[int, float]]) -> float:
        """Return what would be served beyond what is."""
        streams, missed, mean = self._problem.streams, self._served.missed, self._served.mean
        more = 0.0
        for s, worth in worths:
            better = worth - mean[s] if worth > mean[s] else 0.0
            more += streams[s].uses * (missed[s] * worth + (1.0 - missed[s]) * better)
        return more

    def _cost(self, i: int) -> float:
        return self._problem.sites[i].options[self._picks[i]].cost

    def _try(self, i: int, pick: int) -> None:
        """Make a change, with what must give way, if all of it pays."""
        before = self._picks.copy()
        self._picks[i] = pick
        if self._make_room(i):
            outcome = self._outcome()
            if outcome[0] > self._value + LEAST_GAIN:
                self._enter(outcome)
                return
        self._picks = before

    def _make_room(self, newcomer: int) -> bool:
        """Let what serves least for its bytes become absent until the newcomer's device has room."""
        problem, device = self._problem, self._problem.sites[newcomer].device
        here = self._sites_on[device]
        picked = {i: problem.sites[i].options[self._picks[i]] for i in here}
        leaving = sorted(
            (
                (self._worth_at.get(i, 0.0) / max(1, option.rest_bytes), i)
                for i, option in picked.items()
                if i != newcomer
                and option.offer is not None
                and problem.sites[i].options[-1].offer is None
            ),
            reverse=True,
        )
        while not _fits_in(picked.values(), problem.budgets[device]):
            if not leaving:
                return False
            _, i = leaving.pop()
            self._picks[i] = len(problem.sites[i].options) - 1
            picked[i] = problem.sites[i].options[-1]
        return True


def _fits_in(options: Iterable[Option], budget: int) -> bool:
    rest = peak = 0
    for option in options:
        rest += option.rest_bytes
        peak = max(peak, option.peak_bytes)
    return rest + peak <= budget
