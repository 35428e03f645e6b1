"""DIFS's own routes: jobs that outlive their connection, and questions."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from difs import metrics
from difs.doors import native
from difs.doors.answers import refused
from difs.doors.guard import Caller
from difs.doors.jobs import Job, Jobs, State
from difs.doors.orders import Order
from difs.doors.replies import event, json
from difs.doors.service import Service, body_of, caller_of
from difs.errors import DifsError, IdConflict, InternalError, NotFound, Unavailable
from difs.messages import Accepted, Progress

KEEP_ALIVE_S = 15.0
"""A stream with no news says so after so long: a reader that is gone is noticed."""
POSITION_S = 1.0
"""How often the readers of a job that waits are told where."""
FIRST_NEWS_S = 10.0
"""How long a POST waits for the broker to accept or refuse."""


class NativeDoor:
    """`/difs/v1`, and what watches the service."""

    def __init__(self, service: Service) -> None:
        """Serve from `service`."""
        self._service = service
        self._jobs = Jobs()
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._news: dict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = f"{native.PATH}/requests/{{id}}"
        return [
            Route(f"{native.PATH}/generate", self.generate, methods=["POST"]),
            Route(f"{native.PATH}/explain", self.explain, methods=["POST"]),
            Route(f"{native.PATH}/requests", self.requests, methods=["GET"]),
            Route(one, self.request, methods=["GET"]),
            Route(one, self.cancel, methods=["DELETE"]),
            Route(f"{one}/events", self.events, methods=["GET"]),
            Route(f"{one}/images/{{i:int}}", self.image, methods=["GET"]),
            Route(f"{native.PATH}/status", self.status, methods=["GET"]),
            Route(f"{native.PATH}/variants", self.variants, methods=["GET"]),
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def aclose(self) -> None:
        """Give up what is open."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def revoke(self, account: str) -> None:
        """Give up and forget the jobs of a caller that may come no more."""
        for job in [job for job in self._jobs if job.caller == account]:
            if (task := self._tasks.get((account, job.request_id))) is not None:
                task.cancel()
            self._jobs.forget(job)

    # ---- jobs -----------------------------------------------------------------------------------

    async def generate(self, request: Request) -> Response:
        """Begin a job; answers with its plan. The same id and body again: the same job."""
        body, caller = await body_of(request), caller_of(request)
        asked = native.read(body)
        asked = replace(asked, request_id=asked.request_id or secrets.token_hex(12))
        assert asked.request_id is not None
        order = native.order(asked, body)
        job = self._jobs.known(caller.account, asked.request_id)
        if job is None:
            job = self._begin(caller, asked.request_id, asked.n, order)
            await self._first_news(job)
        elif job.order != order:
            raise IdConflict("request_id: belongs to a request with other content", field="request_id")
        if job.refused is not None and job.plan is None:
            self._jobs.forget(job)  # it never was one
            return json(native.error(job.refused), job.refused.status, job.refused.headers())
        location = f"{native.PATH}/requests/{job.request_id}"
        position = await self._position(caller, job)
        shown = native.view(job, self._service.clock.now(), position=position)
        return json(shown, 202, {"location": location})

    async def _position(self, caller: Caller, job: Job) -> int | None:
        """Return where a job waits, None where it does not; many readers ask the broker once."""
        if job.state is not State.QUEUED:
            return None
        now = self._service.clock.now()
        if now - job.placed_at >= POSITION_S:
            job.placed_at = now
            job.position = await self._service.position(caller, job.request_id)
        return job.position if job.state is State.QUEUED else None

    def _begin(self, caller: Caller, request_id: str, n: int, order: Order) -> Job:
        now = self._service.clock.now()
        self._jobs.sweep(now)
        job = Job(caller.account, request_id, n, now, order)
        self._jobs.add(job)
        key = (caller.account, request_id)
        self._tasks[key] = asyncio.create_task(self._run(caller, job, order))
        self._tasks[key].add_done_callback(lambda _: self._ended(job))
        return job

    def _ended(self, job: Job) -> None:
        if job.is_open:  # cancelled before its task began
            job.failed(native.GIVEN_UP, self._service.clock.now())
        del self._tasks[job.caller, job.request_id]
        self._tell((job.caller, job.request_id))

    async def _run(self, caller: Caller, job: Job, order: Order) -> None:
        clock, key = self._service.clock, (job.caller, job.request_id)

        def heard(event: Accepted | Progress) -> None:
            job.heard(event, clock.now())
            self._tell(key)

        try:
            job.done(await self._service.make(caller, order, heard), clock.now())
        except DifsError as error:
            job.failed(refused(error), clock.now())
        except asyncio.CancelledError:
            job.failed(native.GIVEN_UP, clock.now())
        except Exception:
            job.failed(refused(InternalError("a bug")), clock.now())
            raise

    def _tell(self, key: tuple[str, str]) -> None:
        """Wake everybody who waits for news of a job."""
        if (news := self._news.pop(key, None)) is not None:
            news.set()

    async def _first_news(self, job: Job) -> None:
        """Wait until the broker has accepted or refused it."""
        try:
            async with asyncio.timeout(FIRST_NEWS_S):
                while job.version == 0:
                    await self._news[job.caller, job.request_id].wait()
        except TimeoutError:
            pass  # it is queued in the client, which tries on

    def _find(self, request: Request) -> Job:
        self._jobs.sweep(self._service.clock.now())
        return self._jobs.find(caller_of(request).account, request.path_params["id"])

    async def requests(self, request: Request) -> Response:
        """List the caller's jobs, the oldest first."""
        now, caller = self._service.clock.now(), caller_of(request).account
        self._jobs.sweep(now)
        return json({"requests": [native.view(job, now) for job in self._jobs if job.caller == caller]})

    async def request(self, request: Request) -> Response:
        """Tell how a job stands."""
        job = self._find(request)
        position = await self._position(caller_of(request), job)
        preview = await self._service.preview(job.preview)
        return json(native.view(job, self._service.clock.now(), preview, position))

    async def cancel(self, request: Request) -> Response:
        """Give a job up, or forget one that has ended."""
        job = self._find(request)
        task = self._tasks.get((job.caller, job.request_id))
        if task is None:
            self._jobs.forget(job)
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return json(native.view(job, self._service.clock.now()))

    async def image(self, request: Request) -> Response:
        """Return one picture as a file."""
        job, i = self._find(request), request.path_params["i"]
        if job.outcome is None or not 0 <= i < len(job.outcome.pictures):
            raise NotFound(f"no image {i}: the request is {job.state} and has {job.n}")
        picture = job.outcome.pictures[i]
        return Response(picture.data, media_type=f"image/{picture.form}")

    async def events(self, request: Request) -> Response:
        """Stream how a job stands, each time that there is news."""
        states = self._states(caller_of(request), self._find(request))
        return StreamingResponse(states, media_type="text/event-stream")

    async def _states(self, caller: Caller, job: Job) -> AsyncIterator[bytes]:
        """Yield the newest state: a slow reader misses some and holds nobody up."""
        seen: tuple[int, int | None] | None = None
        shown = None
        while True:
            stands = (job.version, await self._position(caller, job))
            if stands != seen:
                seen = stands
                is_new = job.preview is not None and job.preview is not shown
                shown = job.preview
                preview = await self._service.preview(job.preview) if is_new else None
                yield event(native.view(job, self._service.clock.now(), preview, stands[1]), job.state)
            elif not job.is_open:
                return
            elif not await self._has_news(job):
                yield b": nothing new\n\n"

    async def _has_news(self, job: Job) -> bool:
        """Wait for news of a job; for those that wait it is looked often enough how they stand."""
        try:
            async with asyncio.timeout(POSITION_S if job.state is State.QUEUED else KEEP_ALIVE_S):
                await self._news[job.caller, job.request_id].wait()
        except TimeoutError:
            return False
        return True

    # ---- questions ------------------------------------------------------------------------------

    async def explain(self, request: Request) -> Response:
        """Tell what `generate` would do now, without doing it."""
        body, caller = await body_of(request), caller_of(request)
        asked = native.read(body)
        order = native.order(asked, body)
        return json(await self._service.explain(caller, order, survey=asked.survey))

    async def status(self, request: Request) -> Response:
        """Tell the service's state."""
        return json(await self._service.client(caller_of(request)).status())

    async def variants(self, request: Request) -> Response:
        """List variants and adapters."""
        client = self._service.client(caller_of(request))
        return json({"variants": await client.variants(), "adapters": await client.adapters()})

    async def healthz(self, request: Request) -> Response:
        """Tell that the door stands."""
        return json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Tell whether a picture could be made now."""
        if not (await self._service.client(caller_of(request)).ping()).ready:
            raise Unavailable("no device is ready")
        return json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Tell the service's numbers to Prometheus."""
        families = await self._service.client(caller_of(request)).metrics()
        return Response(metrics.text(families), media_type="text/plain; version=0.0.4")
