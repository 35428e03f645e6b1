"""Client: the blocking face of AsyncClient, which runs in a thread of its own.

Safe to use from several threads.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from difs.client.aio import AsyncClient, Event
from difs.client.requests import Wishes
from difs.client.result import Result
from difs.messages import (
    AdapterInfo,
    Case,
    Explanation,
    Family,
    Happening,
    MemoryMode,
    Pong,
    Progress,
    StatusReport,
    VariantInfo,
)

T = TypeVar("T")

CLOSE_S = 2.0


class Client:
    """A connection to a running service; use it as `with Client() as client`, or close it."""

    def __init__(self, address: str | None = None, *, key: str | Path | None = None) -> None:
        """See `AsyncClient`."""
        self._client = AsyncClient(address, key=key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="difs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Disconnect; open calls end as Cancelled, leases are given back."""
        if self._loop.is_closed():
            return
        self._do(self._wind_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def _wind_down(self) -> None:
        """Close the client and let the calls of other threads hear of it."""
        await self._client.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=CLOSE_S)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stream(self, prompt: str, *, progress: bool = True, **wishes: Unpack[Wishes]) -> Iterator[Event]:
        """Generate, yielding `Accepted`, `Progress` and at last the `Result`.

        The images of a request advance side by side: each counts up on its own.
        Leaving the loop early cancels the request. Raises DifsError.
        """
        queue: SimpleQueue[Event | BaseException | None] = SimpleQueue()

        async def pump() -> None:
            try:
                async for event in self._client.stream(prompt, progress=progress, **wishes):
                    queue.put(event)
                queue.put(None)
            except BaseException as error:
                queue.put(error)
                raise

        future = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        try:
            while (event := queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            future.cancel()

    def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **wishes: Unpack[Wishes],
    ) -> Result:
        """Generate images. See `Wishes` for the arguments; raises DifsError."""
        if on_progress is None:
            return self._do(self._client.generate(prompt, **wishes))
        for event in self.stream(prompt, **wishes):
            if isinstance(event, Result):
                return event
            if isinstance(event, Progress):
                on_progress(event)
        raise AssertionError("a stream ends with a Result or an error")

    def explain(self, prompt: str, *, survey: bool = False, **wishes: Unpack[Wishes]) -> Explanation:
        """Return the plan, or the refusal, that `generate` with the same arguments would get now."""
        return self._do(self._client.explain(prompt, survey=survey, **wishes))

    def variants(self) -> tuple[VariantInfo, ...]:
        """Return the registered variants."""
        return self._do(self._client.variants())

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """Return the registered LoRA adapters."""
        return self._do(self._client.adapters())

    def status(self, request_id: str | None = None) -> StatusReport:
        """Return the service's state; `position` says where an own request waits."""
        return self._do(self._client.status(request_id))

    def ping(self) -> Pong:
        """Return the broker's sign of life."""
        return self._do(self._client.ping())

    def load(self, variant: str, device: str | None = None) -> str:
        """Have a variant loaded on a device, or on all; `status` tells when it is."""
        return self._do(self._client.load(variant, device))

    def evict(self, variant: str, device: str | None = None) -> str:
        """Take an idle variant off a device, or all; it is parked in host memory if there is room."""
        return self._do(self._client.evict(variant, device))

    def set_mode(self, variant: str, memory_mode: MemoryMode, device: str | None = None) -> str:
        """Have a resident's memory mode changed on a device, or on all; `status` tells when it is."""
        return self._do(self._client.set_mode(variant, memory_mode, device))

    def metrics(self) -> tuple[Family, ...]:
        """Return the service's numbers, as a monitoring system wants them."""
        return self._do(self._client.metrics())

    def story(self, request_id: str | None = None) -> tuple[Happening, ...]:
        """Return what happened to a request, or what happened last at all; raises NotFound."""
        return self._do(self._client.story(request_id))

    def quarantine(self) -> tuple[Case, ...]:
        """Return the contents that are not tried again for a while."""
        return self._do(self._client.quarantine())

    def clear_quarantine(self, digest: str | None = None) -> str:
        """Let one content be tried again, or all; raises NotFound."""
        return self._do(self._client.clear_quarantine(digest))

    def pin(self, variant: str, device: str | None = None, *, pinned: bool = True) -> str:
        """Keep a variant on a device, or on all, whatever the autoscaler finds; or let it go again."""
        return self._do(self._client.pin(variant, device, pinned=pinned))
