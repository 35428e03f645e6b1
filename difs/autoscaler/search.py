"""The best set of residents: by branch and bound where that is quick, else step by step. Pure.

A problem has sites, each a variant on a device with a few options (its memory modes, or to be absent);
one option is picked for each, so that every device's picks fit into its memory. Worth: what all picks
serve together (`difs.autoscaler.worth`), less what the change to each pick costs.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, overload

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
    options: Sequence[Option]
    """Of most sites none is ever looked at: they may be made when one is (`Later`)."""
    current: int
    """The option that is there now."""
    ceiling: tuple[tuple[int, float], ...]
    """(index of a stream, worth): no option is worth more."""
    is_vacant: bool = False
    """Nothing is there now, which costs and serves nothing."""

    @classmethod
    def of(cls, device: int, options: Sequence[Option], current: int) -> "Site":
        """Return a site with its ceiling."""
        most: dict[int, float] = {}
        for option in options:
            for stream, worth in option.offer.worths if option.offer is not None else ():
                most[stream] = max(most.get(stream, 0.0), worth)
        return cls(device, tuple(options), current, tuple(most.items()))


class Later(Sequence[Option]):
    """Options that are made when one is looked at."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Sequence[Option]]) -> None:
        """`make` is pure, and called once at most."""
        self._make = make
        self._made: Sequence[Option] | None = None

    def _all(self) -> Sequence[Option]:
        if self._made is None:
            self._made = self._make()
        return self._made

    @overload
    def __getitem__(self, index: int) -> Option: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Option]: ...
    def __getitem__(self, index: int | slice) -> Option | Sequence[Option]:
        """Return an option."""
        return self._all()[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all())


class Problem(NamedTuple):
    """See the module."""

    budgets: tuple[int, ...]
    """Bytes of each device."""
    sites: tuple[Site, ...]
    streams: tuple[Stream, ...]
    price: float = 0.0
    """Of a second of a device; see `difs.autoscaler.worth.price_of`."""


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
    """Return what picks are worth; a site that stays vacant serves nothing, and is not looked at."""
    sites = zip(problem.sites, picks, strict=True)
    chosen = [s.options[pick] for s, pick in sites if not (s.is_vacant and pick == s.current)]
    offers = [option.offer for option in chosen if option.offer is not None]
    served = serve(offers, problem.streams, len(problem.budgets), problem.price)
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
        self._chosen = {
            i: site.options[site.current] for i, site in enumerate(problem.sites) if not site.is_vacant
        }
        """The options that serve or cost anything; all other sites are vacant, as they were."""
        self._enter(self._outcome(self._chosen))

    def run(self) -> Picks:
        if not all(self._fits_on(device, self._chosen) for device in range(len(self._problem.budgets))):
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
            if i in self._worth_at:
                heap += self._gains_at(i)
                continue
            most = self._more(site.ceiling) + self._cost(i)
            if most > LEAST_GAIN:
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

    def _outcome(self, chosen: dict[int, Option]) -> "_Outcome":
        """Return what picks are worth."""
        offers = {i: option.offer for i, option in chosen.items() if option.offer is not None}
        cost = sum(option.cost for option in chosen.values())
        streams, price = self._problem.streams, self._problem.price
        served = serve(list(offers.values()), streams, len(self._problem.budgets), price)
        worth_at = dict(zip(offers, served.by_offer, strict=True))
        return _Outcome(served.total - cost, worth_at, _lines(streams, served))

    def _enter(self, outcome: "_Outcome") -> None:
        self._value, self._worth_at, self._lines = outcome

    def _gain(self, i: int, option: Option) -> float:
        """Return what an option would add at most, all devices having time."""
        gain = self._cost(i) - option.cost
        if option.offer is None:
            return gain - self._worth_at.get(i, 0.0)
        return gain + self._more(option.offer.worths)

    def _more(self, worths: Sequence[tuple[int, float]]) -> float:
        """Return what would be served beyond what is."""
        lines, more = self._lines, 0.0
        for s, worth in worths:
            missed, uses, served = lines[s]
            instead = uses * worth - served
            beside = missed * worth
            more += instead if instead > beside else beside
        return more

    def _cost(self, i: int) -> float:
        option = self._chosen.get(i)
        return option.cost if option is not None else 0.0

    def _try(self, i: int, pick: int) -> None:
        """Make a change, with what must give way, if all of it pays."""
        changes = self._make_room(i, pick)
        if changes is None:
            return
        sites = self._problem.sites
        chosen = self._chosen | {j: sites[j].options[to] for j, to in changes.items()}
        outcome = self._outcome(chosen)
        if outcome.value > self._value + LEAST_GAIN:
            self._enter(outcome)
            self._chosen = chosen
            for j, to in changes.items():
                self._picks[j] = to

    def _make_room(self, newcomer: int, pick: int) -> dict[int, int] | None:
        """Return the picks with which the newcomer's device has room; None: there is no way.

        What serves least for its bytes becomes absent.
        """
        sites = self._problem.sites
        device = sites[newcomer].device
        picked = {i: option for i, option in self._chosen.items() if sites[i].device == device}
        picked[newcomer] = sites[newcomer].options[pick]
        leaving = sorted(
            (
                (self._worth_at.get(i, 0.0) / max(1, option.rest_bytes), i)
                for i, option in picked.items()
                if i != newcomer and option.offer is not None and sites[i].options[-1].offer is None
            ),
            reverse=True,
        )
        changes = {newcomer: pick}
        while not self._fits_on(device, picked):
            if not leaving:
                return None
            _, i = leaving.pop()
            changes[i] = len(sites[i].options) - 1
            picked[i] = sites[i].options[-1]
        return changes

    def _fits_on(self, device: int, chosen: Mapping[int, Option]) -> bool:
        rest = peak = 0
        for i, option in chosen.items():
            if self._problem.sites[i].device == device:
                rest += option.rest_bytes
                peak = max(peak, option.peak_bytes)
        return rest + peak <= self._problem.budgets[device]


class _Outcome(NamedTuple):
    """What picks are worth, together and each; and what more could be had of each stream."""

    value: float
    worth_at: dict[int, float]
    lines: list[tuple[float, float, float]]


def _lines(streams: Sequence[Stream], served: Served) -> list[tuple[float, float, float]]:
    """Return, for each stream, the uses that nobody serves, all of them, and what is served."""
    return [
        (stream.uses * missed, stream.uses, stream.uses * (1.0 - missed) * mean)
        for stream, missed, mean in zip(streams, served.missed, served.mean, strict=True)
    ]
