"""What stands between a node and its service: connections that come and go, reports that ask little."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from difs.client.aio import AsyncClient
from difs.clock import ManualClock
from difs.cluster.callers import IDLE_S, Callers
from difs.cluster.reports import LISTED_S, Reports
from difs.errors import Unavailable
from difs.messages import Explain, Explanation, Status, StatusReport, VariantList, Variants
from tests import builders


class Service:
    """A service that answers what it is told to, and counts what it is asked; a connection to it."""

    def __init__(self, *names: str) -> None:
        self.names: Sequence[str] = names
        self.planned = names[0] if names else ""
        self.asked: list[type] = []
        self.is_closed = False

    async def ask(self, message: Any, answer: Any) -> Any:
        self.asked.append(type(message))
        if not self.names:
            raise Unavailable("no broker")
        match message:
            case Variants():
                return VariantList(tuple(builders.variant(name) for name in self.names), ())
            case Explain():
                return Explanation("r", builders.plan(variant=self.planned))
            case _:
                return StatusReport(1, "0", "modelless", True, False, 1.0, 0, 0, 0, (), {})

    async def aclose(self) -> None:
        self.is_closed = True


# ---- reports --------------------------------------------------------------------------------------


def ask(reports: Reports, service: Service) -> Any:
    return asyncio.run(reports.ask(cast(AsyncClient, service)))


def test_a_report_asks_for_the_list_of_variants_once_a_while_and_for_the_rest_each_time() -> None:
    clock, service = ManualClock(), Service("tiny")
    reports = Reports("a", clock)
    for serial in range(1, 6):
        assert ask(reports, service).serial == serial
    assert [service.asked.count(kind) for kind in (Variants, Status, Explain)] == [1, 5, 5]
    service.names = ("tiny", "ink")
    clock.advance(LISTED_S)
    assert set(ask(reports, service).variants) == {"tiny", "ink"}
    assert reports.last.serial == 6


def test_a_variant_that_is_planned_and_not_listed_has_the_list_asked_for_anew() -> None:
    service = Service("tiny")
    reports = Reports("a", ManualClock())
    ask(reports, service)
    service.names, service.planned = ("tiny", "ink"), "ink"
    assert "ink" not in ask(reports, service).variants
    found = ask(reports, service)
    assert [point.variant for point in found.points] == ["ink"]
    ask(reports, service)
    assert service.asked.count(Variants) == 2


def test_a_node_whose_broker_is_gone_is_not_ready_until_it_answers() -> None:
    service = Service()
    reports = Reports("a", ManualClock())
    assert (ask(reports, service).is_ready, reports.last.serial) == (False, 1)
    service.names = ("tiny",)
    assert (ask(reports, service).is_ready, reports.last.serial) == (True, 2)


# ---- connections ----------------------------------------------------------------------------------


def test_callers_that_came_and_went_leave_no_connection() -> None:
    clock, made = ManualClock(), list[Service]()

    def connect() -> AsyncClient:
        made.append(Service("tiny"))
        return cast(AsyncClient, made[-1])

    async def come_and_go() -> None:
        callers = Callers(connect, clock)
        async with callers.connection("long"):
            for i in range(100):
                async with callers.connection(f"door-{i}") as first:
                    pass
                async with callers.connection(f"door-{i}") as again:
                    assert again is first, "a caller is one account with the broker"
                clock.advance(1.0)
                assert len(callers) <= IDLE_S + 2
            clock.advance(IDLE_S)
            async with callers.connection("keeper"):
                await asyncio.sleep(0)
                assert len(callers) == 2, "whoever uses one keeps it, however long"
        assert [service.is_closed for service in made] == [False] + [True] * 100 + [False]

    asyncio.run(come_and_go())


def test_a_call_that_fails_gives_its_connection_back() -> None:
    clock, service = ManualClock(), Service("tiny")

    async def fail() -> None:
        callers = Callers(lambda: cast(AsyncClient, service), clock)
        with pytest.raises(Unavailable):
            async with callers.connection("a"):
                raise Unavailable("full")
        clock.advance(IDLE_S)
        async with callers.connection("b"):
            await asyncio.sleep(0)
            assert (len(callers), service.is_closed) == (1, True)

    asyncio.run(fail())
