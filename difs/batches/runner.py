"""Paints what waits: keeps the devices' free places full with best effort, and records how lines ended.

It performs what `difs.batches.decisions` decides. Everything that lasts is in the database and in the
folders; what is here may be lost at any moment.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, Unpack, cast

from difs.batches import decisions, folder, lines
from difs.batches.decisions import Again, Fail
from difs.batches.store import Batch, Entry, Store
from difs.client.requests import Wishes
from difs.client.result import Result
from difs.clock import Clock
from difs.errors import DifsError, InternalError, first_line
from difs.messages import MAX_TIMEOUT_S, StatusReport

log = logging.getLogger("difs.batches")

TICK_S = 0.5
"""Between two looks at the service and at what was cancelled or submitted meanwhile."""
LOOK_AGAIN_S = 2.0
"""Before the database is tried again that could take nothing."""
WRITE_AGAIN_S = 60.0
"""Before a batch goes on whose picture was painted in vain, though there seemed to be room."""

Key = tuple[str, int]


class Painter(Protocol):
    """What of `AsyncClient` is needed."""

    def status(self) -> Awaitable[StatusReport]:
        """See AsyncClient.status."""
        ...

    def generate(self, prompt: str, **wishes: Unpack[Wishes]) -> Awaitable[Result]:
        """See AsyncClient.generate."""
        ...


class Runner:
    """All batches of one service, until nothing waits."""

    def __init__(
        self,
        store: Store,
        home: str,
        painter: Painter,
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`home`: the run directory of the service; `wall` tells seconds since 1970."""
        self._store, self._home, self._painter = store, home, painter
        self._clock, self._wall = clock, wall
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._window, self._ceiling = 0, decisions.MAX_IN_FLIGHT
        self._looked_at = float("-inf")
        self._refusals = 0
        self._rest_until = 0.0
        self._resting: dict[str, float] = {}
        """Until when each batch rests whose picture was painted in vain."""
        self._roomless: set[str] = set()
        """The batches whose folder could take nothing when it was last looked at."""
        self._swept: set[str] = set()

    async def run(self) -> None:
        """Paint until nothing waits; cancelled, it cancels what is under way."""
        try:
            while await self._turn():
                tasks = self._tasks.values()
                if tasks:
                    await asyncio.wait(tasks, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(TICK_S)
        finally:
            await self._end(list(self._tasks))

    async def _turn(self) -> bool:
        """Look, give up what was cancelled, begin what there is room for; False: nothing is left."""
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        try:
            found = self._store.open_in(self._home)
            await self._end([key for key in self._tasks if key[0] not in {b.id for b in found}])
            if not found and not self._tasks:
                return False
            await self._look(found)
            self._begin()
        except (OSError, DifsError) as error:
            self._base_failed(error)
        return True

    async def _end(self, keys: list[Key]) -> None:
        tasks = [self._tasks.pop(key) for key in keys]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- looking --------------------------------------------------------------------------------

    async def _look(self, found: list[Batch]) -> None:
        """Ask the service, and each folder, what there is room for; not more often than TICK_S."""
        if self._clock.now() < self._looked_at + TICK_S:
            return
        try:
            self._window = decisions.window(await self._painter.status(), self._ceiling)
        except DifsError:
            self._window = 0  # it is away, and may come back
        self._looked_at = self._clock.now()
        for batch in found:
            if words := self._lacks(batch):
                self._roomless.add(batch.id)
                self._trouble(batch, words)
            else:
                self._roomless.discard(batch.id)

    def _lacks(self, batch: Batch) -> str:
        """Return in words why a batch's folder cannot take more; empty: it can."""
        place = Path(batch.folder)
        if batch.id not in self._swept:
            self._swept.add(batch.id)
            folder.sweep(place, batch.id)
        try:
            free = folder.free_bytes(place)
        except OSError as error:
            return _words(error)
        if free >= decisions.MIN_FREE_BYTES:
            return ""
        room = f"{free / 2**20:.0f} MiB are free, {decisions.MIN_FREE_BYTES / 2**20:.0f} are wanted"
        return f"too little room in {place}: {room}"

    def _trouble(self, batch: Batch, words: str) -> None:
        if words != batch.trouble:
            log.warning("batch %s rests: %s", batch.id, words)
            self._store.troubled(batch.id, words)

    def _rest(self, seconds: float) -> None:
        self._rest_until = max(self._rest_until, self._clock.now() + seconds)

    # ---- painting -------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Fill the window."""
        now = self._clock.now()
        room = self._window - len(self._tasks)
        if room <= 0 or now < self._rest_until:
            return
        resting = self._roomless | {batch for batch, until in self._resting.items() if now < until}
        entries = self._store.take(self._home, self._window, resting)
        for entry in [e for e in entries if e.key not in self._tasks][:room]:
            self._tasks[entry.key] = asyncio.create_task(self._see_to(entry))

    async def _see_to(self, entry: Entry) -> None:
        """Bring a line to its end, or leave it waiting."""
        try:
            await self._attempt(entry)
        except (OSError, DifsError) as error:
            self._base_failed(error)

    async def _attempt(self, entry: Entry) -> None:
        try:
            await self._paint(entry)
            self._refusals = 0
        except DifsError as error:
            self._judge(entry, error)
        except OSError as error:
            self._resting[entry.batch.id] = self._clock.now() + WRITE_AGAIN_S
            self._trouble(entry.batch, _words(error))
        except Exception as error:
            log.exception("line %d of batch %s", entry.number, entry.batch.id)
            self._judge(entry, InternalError(first_line(error)))

    def _base_failed(self, error: Exception) -> None:
        """Rest: the database is full or busy. A picture that is in place is found and recorded later."""
        log.warning("batches rest: %s", error)
        self._rest(LOOK_AGAIN_S)

    async def _paint(self, entry: Entry) -> None:
        place = Path(entry.batch.folder)
        if wanted := folder.missing(place, entry.files):
            result = await self._painter.generate(entry.line.prompt, **_wishes(entry))
            with result:
                result.verify()
                files = {name: result.data(i) for i, name in enumerate(entry.files) if name in wanted}
            for name, data in files.items():
                await asyncio.to_thread(folder.keep, place, entry.batch.id, name, data)
        self._store.painted(entry, self._wall())

    def _judge(self, entry: Entry, error: DifsError) -> None:
        """Do what an error means for its line."""
        verdict = decisions.verdict(error, entry.tries, self._refusals)
        if isinstance(verdict, Again):
            if self._clock.now() >= self._rest_until:  # refused at once, many count as one
                self._refusals += 1
                if self._refusals == decisions.PATIENCE:
                    self._trouble(entry.batch, error.message)
            self._rest(verdict.rest_s)
            self._ceiling = decisions.ceiling(error, self._ceiling, len(self._tasks))
            return
        self._store.tried(entry, error.code, error.message, is_final=isinstance(verdict, Fail))


def _wishes(entry: Entry) -> Wishes:
    """Return how a line is asked for: the same for every try, so that a repetition joins what is open."""
    wishes = {
        **lines.wishes_of(entry.line),
        "request_id": f"batch-{entry.batch.id}-{entry.number}",
        "best_effort": True,
        "timeout_s": MAX_TIMEOUT_S,
        "delivery": "inline",  # a slot of shared memory would be held until the file is written
        "format": entry.batch.form,
        "metadata": entry.batch.metadata,
        "retries": 0,
    }
    return cast(Wishes, wishes)


def _words(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)
