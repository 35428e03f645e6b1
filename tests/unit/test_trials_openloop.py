"""The open loop: nothing that is begun waits for what was begun before."""

import asyncio

import pytest

from difs.clock import MonotonicClock
from difs.trials import openloop


def test_all_are_begun_though_none_ends() -> None:
    async def offered() -> list[int]:
        begun: list[int] = []
        all_begun = asyncio.Event()

        async def begin(i: int) -> None:
            begun.append(i)
            if len(begun) == 5:
                all_begun.set()
            await all_begun.wait()  # a loop that waits for answers stands still here

        clock = MonotonicClock()
        async with asyncio.timeout(20):
            await openloop.offer([0.0, 0.0, 0.001, 0.002, 0.003], begin, clock, clock.now())
        return begun

    assert asyncio.run(offered()) == [0, 1, 2, 3, 4]


def test_nothing_begins_before_its_time() -> None:
    async def offered() -> list[float]:
        clock = MonotonicClock()
        zero = clock.now() + 0.01
        times, early = [0.0, 0.005, 0.03], []

        async def begin(i: int) -> None:
            early.append(clock.now() - zero - times[i])

        await openloop.offer(times, begin, clock, zero)
        return early

    assert all(by >= 0 for by in asyncio.run(offered()))


def test_what_is_open_is_cancelled_with_it() -> None:
    async def offered() -> list[int]:
        cancelled, begun = [], asyncio.Event()

        async def begin(i: int) -> None:
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(i)
                raise

        clock = MonotonicClock()
        task = asyncio.create_task(openloop.offer([0.0, 1e6], begin, clock, clock.now()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return cancelled

    assert asyncio.run(offered()) == [0]
