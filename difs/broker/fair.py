"""A fair queue: whose request is next, so that clients that wait get equal shares of a device's seconds.

Start-time fair queueing (Goyal, Vin, Cheng 1996, "Start-time Fair Queuing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks"): every flow has a start tag, the seconds that it was
charged; the least tag is next. Two flows that wait all the time differ by one request of each at most.
Virtual time moves with the work as in WF2Q+ (Bennett, Zhang 1997, "Hierarchical Packet Fair Queueing
Algorithms"), so that an endless stream of new flows, which begin at the virtual time, starves nobody.
A known flow begins up to a few requests before it, as far as it did not take its share of late (as a
thread that slept does in Linux's CFS): who asks for little is not held up by who always asks for more.

Of a queue's head another may go ahead whose kind (variant) is loaded, but only so often. Everything is
O(kinds + log n). No requests, actors or policies here: items, flows and kinds are any hashable values.
"""

import heapq
import math
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

JUMPS = 4
"""So often others of a loaded kind go ahead of one whose kind must be loaded first,"""
JUMPED_S = 5.0
"""and for no more than so many seconds of the device."""
SAVED = 4.0
"""A flow that waits for nothing saves up so many items of the usual length, and no more."""
RECENT = 8
"""The usual length is that of about so many items that were taken last."""
KEPT = 64
"""Up to so many flows that wait for nothing are remembered, for what they have saved up."""
SLACK = 16
"""A heap is rebuilt when its stale entries outnumber the live ones by more than this."""
TIE = 1e-6
"""Tags that differ by less, as a part of an item, are equal."""


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    flow: "_Flow[T]"
    order: tuple[float, int]
    seconds: float
    kind: Hashable
    jumps: int = 0
    jumped_s: float = 0.0
    is_live: bool = True


@dataclass(slots=True, eq=False)
class _Flow(Generic[T]):
    """What one client waits for: a heap in its own order, and what it was charged."""

    start: float
    heap: list[tuple[tuple[float, int], int, _Entry[T]]] = field(default_factory=list)
    live: int = 0
    waits_s: float = 0.0
    """The seconds of all its items; kept, as each decision asks."""
    version: int = 0
    """Of its entry among the tops; older ones are stale."""

    @property
    def head(self) -> _Entry[T] | None:
        """Return its first item, dropping what has left."""
        while self.heap and not self.heap[0][2].is_live:
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None


@dataclass(order=True, slots=True)
class _Top(Generic[T]):
    """The head of a flow, by its tag, then by its own order."""

    start: float
    order: tuple[float, int]
    flow: _Flow[T] = field(compare=False)
    version: int = field(compare=False)

    @property
    def is_fresh(self) -> bool:
        """Whether its flow still stands like this."""
        return self.version == self.flow.version and self.flow.live > 0


class FairQueue(Generic[T]):
    """See the module."""

    def __init__(self) -> None:
        """Start empty."""
        self._flows: dict[Hashable, _Flow[T]] = {}
        self._entries: dict[T, _Entry[T]] = {}
        self._tops: dict[Hashable, list[_Top[T]]] = {}
        self._active = self._added = 0
        self._virtual = 0.0
        self._usual_s = 0.0
        """What items took of late, each."""
        self._under_way = 0.0
        """By how much the virtual time will have grown when what was taken last is done."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    # ---- in and out -----------------------------------------------------------------------------

    def add(
        self, item: T, *, flow: Hashable, order: tuple[float, int], seconds: float, kind: Hashable
    ) -> None:
        """Put `item` into a flow, by its `order` there; it will take `seconds` of the device."""
        found = self._flows.get(flow)
        if found is None:
            self._prune()
            found = self._flows[flow] = _Flow(self._virtual)
        elif not found.live:
            found.start = max(found.start, self._begin)
            self._flows[flow] = self._flows.pop(flow)  # the latest stands last
        before = found.head
        entry = _Entry(item, found, order, seconds, kind)
        self._entries[item] = entry
        self._active += not found.live
        found.live += 1
        found.waits_s += seconds
        self._added += 1  # an item that left and came back may meet its own stale entry
        heapq.heappush(found.heap, (order, self._added, entry))
        if before is None or order < before.order:
            self._show(found)

    def discard(self, item: T) -> None:
        """Take `item` out, uncharged; nothing happens when it is not here."""
        entry = self._entries.pop(item, None)
        if entry is not None:
            self._remove(entry)

    def take(self, item: T) -> None:
        """Take `item` out to be served now: its flow is charged, and whoever it went ahead of is told."""
        entry, first = self._entries.pop(item), self._first(None)
        if first is not None and first is not entry:
            first.jumps += 1
            first.jumped_s += entry.seconds
        flow = entry.flow
        self._virtual = max(self._virtual + self._under_way, flow.start)
        done = flow.start + entry.seconds  # who waits alone catches up with what others had saved up
        self._under_way = (
            entry.seconds / self._active if self._active > 1 else max(0.0, done - self._virtual)
        )
        self._usual_s += (entry.seconds - self._usual_s) / (RECENT if self._usual_s else 1)
        flow.start = done
        self._remove(entry, is_charged=True)

    def refund(self, flow: Hashable, seconds: float) -> None:
        """Give seconds back that a flow was charged and did not use; negative: it used more."""
        found = self._flows.get(flow)
        if found is not None and seconds:
            found.start -= seconds
            if found.live:
                self._show(found)

    def forget(self) -> None:
        """Forget what flows were charged: an idle device owes nobody."""
        if not self._entries:
            self._flows.clear()
            self._tops.clear()
            self._virtual = self._under_way = 0.0

    # ---- who is next ----------------------------------------------------------------------------

    def pick(self, loaded: Container[Hashable]) -> T | None:
        """Return who is next, leaving it there: the first, or one of a loaded kind that may go ahead."""
        first = self._first(None)
        if first is None:
            return None
        if first.kind in loaded or first.jumps >= JUMPS:
            return first.item
        other = self._first(loaded)
        if other is None or first.jumped_s + other.seconds > JUMPED_S:
            return first.item
        return other.item

    # ---- who will be next -----------------------------------------------------------------------

    def position(self, item: T) -> int:
        """Return how many are served until `item` is, itself included, if none goes ahead and none comes.

        O(n log n): for who asks, not for the dispatch.
        """
        asked = self._entries[item]
        before = [e.seconds for *_, e in asked.flow.heap if e.is_live and e.order < asked.order]
        mine = (asked.flow.start + sum(before), asked.order)
        ahead = len(before)
        for flow in self._flows.values():
            start = flow.start
            for order, _, entry in sorted(flow.heap) if flow is not asked.flow else ():
                if (start, order) > mine:
                    break
                if entry.is_live:
                    ahead, start = ahead + 1, start + entry.seconds
        return ahead + 1

    @property
    def seconds(self) -> float:
        """Return the seconds of all that waits."""
        return sum([flow.waits_s for flow in self._flows.values()])

    def ahead_s(self, flow: Hashable, seconds: float, to_come: Mapping[Hashable, float]) -> float:
        """Return the seconds that go, or may yet go, ahead of an item that `flow` would add now.

        `to_come`: the seconds that will be added of each flow. Of another flow, what waits and what is to
        come goes ahead as far as its tags are lower; its items are taken to be as long as this one.
        """
        own = self._flows.get(flow)
        ahead = own.waits_s if own is not None else 0.0
        tag = self._start_of(own) + ahead
        for name, other in self._flows.items():
            if other is not own:
                before_s = _rounded_up(tag - self._start_of(other), seconds, other.waits_s)
                ahead += min(before_s, other.waits_s + to_come.get(name, 0.0))
        new_s = _rounded_up(tag - self._virtual, seconds, 0.0)
        new = to_come.keys() - self._flows.keys() - {flow}
        return ahead + sum([min(new_s, to_come[name]) for name in new])

    def _start_of(self, flow: _Flow[T] | None) -> float:
        """Return the tag of what a flow has, or would add, first."""
        if flow is None:
            return self._virtual
        return flow.start if flow.live else max(flow.start, self._begin)

    @property
    def _begin(self) -> float:
        """Return the least tag that a known flow may come with."""
        return self._virtual - SAVED * self._usual_s

    def _first(self, kinds: Container[Hashable] | None) -> _Entry[T] | None:
        """Return the entry with the least tag among `kinds`, or among all."""
        best: _Top[T] | None = None
        for kind in [kind for kind in self._tops if kinds is None or kind in kinds]:
            top = self._top(kind)
            if top is not None and (best is None or top < best):
                best = top
        return best.flow.head if best is not None else None

    def _top(self, kind: Hashable) -> _Top[T] | None:
        tops = self._tops[kind]
        while tops and not tops[0].is_fresh:
            heapq.heappop(tops)
        if not tops:
            del self._tops[kind]
            return None
        return tops[0]

    # ---- upkeep ---------------------------------------------------------------------------------

    def _show(self, flow: _Flow[T]) -> None:
        """Enter a flow's head among the tops of its kind, in place of what stood there for it."""
        head = flow.head
        assert head is not None
        flow.version += 1
        tops = self._tops.setdefault(head.kind, [])
        heapq.heappush(tops, _Top(flow.start, head.order, flow, flow.version))
        if len(tops) > 2 * self._active + SLACK:
            tops[:] = [top for top in tops if top.is_fresh]
            heapq.heapify(tops)

    def _remove(self, entry: _Entry[T], *, is_charged: bool = False) -> None:
        flow = entry.flow
        was_head = flow.head is entry
        entry.is_live = False
        flow.live -= 1
        flow.waits_s = flow.waits_s - entry.seconds if flow.live else 0.0
        self._active -= not flow.live
        if not flow.live or len(flow.heap) > 2 * flow.live + SLACK:
            flow.heap = [kept for kept in flow.heap if kept[2].is_live]
            heapq.heapify(flow.heap)
        if flow.live and (was_head or is_charged):
            self._show(flow)

    def _prune(self) -> None:
        """Forget those that wait for nothing and owe nothing, but for the last that came."""
        if len(self._flows) > 2 * self._active + KEPT:
            idle = [k for k, f in self._flows.items() if not f.live and f.start <= self._begin]
            for name in idle[: -KEPT // 2]:
                del self._flows[name]

    # ---- proof ----------------------------------------------------------------------------------

    def contradictions(self) -> Iterator[str]:
        """Yield in words whatever does not agree; see `difs.broker.audit`."""
        live = [flow for flow in self._flows.values() if flow.live]
        if len(live) != self._active or sum(flow.live for flow in live) != len(self._entries):
            yield f"counts {self._active} flows and {len(self._entries)} items, {len(live)} flows are"
        fresh = {id(top.flow): top for tops in self._tops.values() for top in tops if top.is_fresh}
        for name, flow in self._flows.items():
            waiting = sorted(e.order for *_, e in flow.heap if e.is_live)
            if len(waiting) != flow.live:
                yield f"flow {name!r} counts {flow.live} items, {len(waiting)} wait"
            waits_s = sum([e.seconds for *_, e in flow.heap if e.is_live])
            if not math.isclose(flow.waits_s, waits_s, rel_tol=1e-6, abs_tol=1e-6):
                yield f"flow {name!r} waits for {flow.waits_s} s, its items for {waits_s} s"
            top = fresh.get(id(flow))
            if waiting and (top is None or (top.start, top.order) != (flow.start, waiting[0])):
                yield f"flow {name!r} does not stand where its tag says"


def _rounded_up(gap_s: float, seconds: float, waits: float) -> float:
    """Return the seconds of the items whose tags lie in a gap; at its end, of what waits already."""
    if seconds <= 0:
        return max(0.0, gap_s)
    items = max(0.0, gap_s) / seconds
    count = math.ceil(items - TIE)
    is_tie = gap_s >= -TIE * seconds and abs(items - count) < TIE and waits > (count + TIE) * seconds
    return (count + is_tie) * seconds
