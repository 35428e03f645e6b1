"""Performs a trial: connections, requests at their times, looks at the service. Decides nothing."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from difs.client import AsyncClient, Result
from difs.client.requests import Wishes
from difs.clock import MonotonicClock
from difs.errors import DifsError
from difs.messages import Accepted
from difs.trials import openloop
from difs.trials.records import UNFINISHED, End, Line, Request, look_of
from difs.trials.workload import Due, Workload, wishes_of

LEAD_S = 0.5
"""Before the first request: connections are made, tasks begin."""
CLOSE_S = 5.0
SHOW_S = 0.25
MAX_WHY_CHARS = 300


class Where(Struct, frozen=True):
    """A service: its address, and the key to come with."""

    address: str | None
    key: Path | None = None


@dataclass(slots=True)
class Tally:
    """How far a trial is, for who looks at it."""

    at_s: float = 0.0
    sent: int = 0
    delivered: int = 0
    refused: int = 0
    failed: int = 0
    goals: int = 0
    kept: int = 0
    """Of the latencies that were stated."""
    latency_s: float = 0.0
    """Of what was delivered last."""

    @property
    def open(self) -> int:
        """Return how many have not ended."""
        return self.sent - self.delivered - self.refused - self.failed

    def ended(self, request: Request, goal_s: float | None) -> None:
        """Count a request's end."""
        if request.is_delivered:
            self.delivered += 1
            self.latency_s = request.latency_s
        elif request.is_refused:
            self.refused += 1
        else:
            self.failed += 1
        if goal_s is not None:
            self.goals += 1
            self.kept += request.is_delivered and request.latency_s <= goal_s


class Runner:
    """One trial on one service."""

    def __init__(
        self, where: Where, workload: Workload, plan: Sequence[Due], keep: Callable[[Line], None]
    ) -> None:
        """`keep` is given each line when it is known; what it raises ends the trial."""
        self.tally = Tally()
        self._workload, self._plan, self._keep = workload, plan, keep
        count = min(workload.clients, len(plan))
        self._clients = [AsyncClient(where.address, key=where.key) for _ in range(count)]
        self._observer = AsyncClient(where.address, key=where.key)
        self._wishes = [wishes_of(wish) for wish in workload.mix]
        self._clock = MonotonicClock()
        self._zero, self._missed_looks = 0.0, 0

    def _now(self) -> float:
        return self._clock.now() - self._zero

    async def run(self, watch: Callable[[Tally], None], stop: asyncio.Event) -> End:
        """Offer all requests and wait for their ends, or until `stop` is set; returns the last line."""
        cpu_s = time.process_time()
        self._zero = self._clock.now() + LEAD_S - min(0.0, self._plan[0].at_s)
        times = [due.at_s for due in self._plan]
        offering = asyncio.create_task(openloop.offer(times, self._one, self._clock, self._zero))
        beside = [asyncio.create_task(work) for work in (self._look(), self._show(watch), stop.wait())]
        try:
            await asyncio.wait({offering, *beside}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not offering.done()
        finally:
            for task in (offering, *beside):
                task.cancel()
            ends = await asyncio.gather(offering, *beside, return_exceptions=True)
            await self._close()
        _raise_first(ends)
        end = End(self._now(), time.process_time() - cpu_s, interrupted, self._missed_looks)
        self._keep(end)
        return end

    async def _close(self) -> None:
        for client in (*self._clients, self._observer):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await client.aclose()

    # ---- requests -------------------------------------------------------------------------------

    async def _one(self, i: int) -> None:
        """Ask for one picture and keep what came of it, also when it is cut off."""
        due, told, sent_s = self._plan[i], dict[str, Any](), self._now()
        self.tally.sent += 1
        try:
            await self._ask(due, told)
        except asyncio.CancelledError:
            told["code"] = UNFINISHED
            raise
        except DifsError as error:
            told |= {"code": error.code, "why": error.message[:MAX_WHY_CHARS]}
        except Exception as error:  # a service may break in ways of its own: that is a result, too
            told |= {"code": "unexpected", "why": f"{type(error).__name__}: {error}"[:MAX_WHY_CHARS]}
        finally:
            line = Request(due.number, due.kind, due.at_s, sent_s, self._now(), **told)
            if line.code != UNFINISHED:
                self.tally.ended(line, self._workload.mix[due.kind].latency_s)
            self._keep(line)

    async def _ask(self, due: Due, told: dict[str, Any]) -> None:
        client = self._clients[due.number % len(self._clients)]
        wishes: Wishes = {**self._wishes[due.kind], "seed": due.seed}
        events = client.stream(self._workload.prompts[due.prompt], progress=False, **wishes)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Accepted):
                    told["accepted"] = True
                    if event.plan is not None and "predicted_s" not in told:
                        told["predicted_s"] = event.plan.prediction.total_s
                        told["promised"] = event.plan.keeps_latency
                elif isinstance(event, Result):
                    with event:
                        event.verify()
                        told |= _facts(event)

    # ---- beside them ----------------------------------------------------------------------------

    async def _look(self) -> None:
        """Keep the service's state, again and again; one that does not tell it is only counted."""
        while True:
            try:
                report = await self._observer.status()
            except DifsError:
                self._missed_looks += 1
            else:
                self._keep(look_of(report, self._now(), self.tally.open))
            await asyncio.sleep(self._workload.sample_s)

    async def _show(self, watch: Callable[[Tally], None]) -> None:
        while True:
            self.tally.at_s = self._now()
            watch(self.tally)
            await asyncio.sleep(SHOW_S)


def _facts(result: Result) -> dict[str, Any]:
    """Return what a request's line tells of its result."""
    plan, timings = result.plan, result.timings
    return {
        "accepted": True,
        "variant": plan.variant,
        "steps": plan.steps,
        "device": plan.device,
        "memory_mode": plan.memory_mode,
        "quality": plan.expected_quality,
        "attempts": result.attempts,
        "queue_s": timings.queue_s,
        "encode_s": timings.encode_s,
        "steps_s": timings.steps_s,
        "decode_s": timings.decode_s,
        "deliver_s": timings.deliver_s,
        "total_s": timings.total_s,
        "shared_by": timings.shared_by,
    }


def _raise_first(ends: Sequence[Any]) -> None:
    """Raise what ended a task, unless it was cancelled."""
    for end in ends:
        if isinstance(end, BaseExceptionGroup):
            _raise_first(end.exceptions)
        elif isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end
