"""An open loop: things are begun at their times, whatever became of those before.

So a system that stalls cannot slow the generator down and hide its stall ("coordinated omission").
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from difs.clock import Clock


async def offer(
    times: Sequence[float],
    begin: Callable[[int], Coroutine[Any, Any, None]],
    clock: Clock,
    zero: float,
) -> None:
    """Begin `begin(i)` at `zero` + times[i] (ascending), and return when all have ended.

    Whoever begins late says so himself: the time of a call against times[i]. Cancelling this cancels all
    that is open. `begin` must not raise.
    """
    async with asyncio.TaskGroup() as group:
        for i, at in enumerate(times):
            await asyncio.sleep(max(0.0, zero + at - clock.now()))
            group.create_task(begin(i))
