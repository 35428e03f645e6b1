"""A1111's routes: `difs.doors.a1111` translates, here it is performed."""

import asyncio
import base64
import binascii
import contextlib
import secrets
import time
from collections import defaultdict
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from difs import pictures
from difs.doors import a1111, a1111_lists
from difs.doors.decode import decode
from difs.doors.guard import Caller
from difs.doors.jobs import Job
from difs.doors.orders import Order, Outcome
from difs.doors.replies import json
from difs.doors.service import Service, body_of, caller_of, unless_gone
from difs.errors import InvalidRequest, Overloaded, Unsupported

PATH = "/sdapi/v1"
PICTURE_BYTES = 24 * 2**20
"""Bytes of the body of `/png-info`, which holds a picture."""
PICTURES_AT_ONCE = 4
"""Bodies of that size that are held at a time."""


class PngInfoAsk(Struct, frozen=True):
    """The body of `POST /png-info`."""

    image: str = ""


class Sitting:
    """One `txt2img` that is open."""

    def __init__(self, job: Job, task: str) -> None:
        """`task` is the name that its client gave it."""
        self.job = job
        self.task = task
        self.is_interrupted = False
        self.making: asyncio.Task[Outcome] | None = None

    def interrupt(self) -> None:
        """Give it up; the pending call answers."""
        self.is_interrupted = True
        if self.making is not None:
            self.making.cancel()

    def shown(self) -> a1111_lists.Shown:
        """Return what `/progress` tells of it."""
        return a1111_lists.Shown(self.job, self.task, self.is_interrupted)


class A1111Door:
    """`/sdapi/v1`."""

    def __init__(self, service: Service) -> None:
        """Serve from `service`."""
        self._service = service
        self._settings: dict[str, a1111.Settings] = defaultdict(a1111.Settings)
        self._sittings: dict[str, list[Sitting]] = defaultdict(list)
        self._reading = asyncio.Semaphore(PICTURES_AT_ONCE)

    def routes(self) -> list[Route]:
        """Return the routes."""
        gets = {
            "progress": self.progress,
            "options": self.options,
            "sd-models": self.models,
            "samplers": self.samplers,
            "schedulers": self.schedulers,
            "loras": self.loras,
            "memory": self.memory,
            "cmd-flags": self.cmd_flags,
            "embeddings": self.embeddings,
            "scripts": self.scripts,
            **dict.fromkeys(a1111_lists.EMPTY_LISTS, self.empty),
        }
        posts = {
            "txt2img": self.txt2img,
            "interrupt": self.interrupt,
            "skip": self.interrupt,
            "options": self.set_options,
            "png-info": self.png_info,
            "refresh-checkpoints": self.nothing_to_do,
            "refresh-loras": self.nothing_to_do,
            "unload-checkpoint": self.unload,
            "reload-checkpoint": self.reload,
            **dict.fromkeys(a1111_lists.NOT_HERE, self.not_here),
        }
        return [
            *(Route(f"{PATH}/{name}", call, methods=["GET"]) for name, call in gets.items()),
            *(Route(f"{PATH}/{name}", call, methods=["POST"]) for name, call in posts.items()),
        ]

    def revoke(self, account: str) -> None:
        """Forget a caller that may come no more."""
        self._settings.pop(account, None)
        self._sittings.pop(account, None)

    # ---- pictures -------------------------------------------------------------------------------

    async def txt2img(self, request: Request) -> Response:
        """Make pictures; answers when they are done, or interrupted."""
        body, caller = await body_of(request), caller_of(request)
        asked = a1111.read(body)
        variants = await self._service.variant_names(caller)
        order = a1111.order(asked, body, self._settings[caller.account], variants)
        now, n = self._service.clock.now(), order.wishes.get("n", 1)
        job = Job(caller.account, secrets.token_hex(12), n, now)
        sitting = Sitting(job, asked.force_task_id or job.request_id)
        self._sittings[caller.account].append(sitting)
        try:
            outcome = await unless_gone(request, self._sit(caller, sitting, order))
        finally:
            if sitting in (open_ := self._sittings[caller.account]):
                open_.remove(sitting)
        if outcome is None:
            return json(a1111.interrupted(body, await self._service.preview(job.preview)))
        stamp = time.strftime("%Y%m%d%H%M%S")
        return json(a1111.reply(asked, body, order, outcome, stamp))

    async def _sit(self, caller: Caller, sitting: Sitting, order: Order) -> Outcome | None:
        """Return what came of it; None when it was interrupted."""
        job, clock = sitting.job, self._service.clock
        work = self._service.make(caller, order, lambda event: job.heard(event, clock.now()))
        sitting.making = asyncio.ensure_future(work)
        try:
            return await sitting.making
        except asyncio.CancelledError:
            if sitting.is_interrupted:
                return None
            sitting.making.cancel()
            await asyncio.gather(sitting.making, return_exceptions=True)
            raise

    async def progress(self, request: Request) -> Response:
        """Tell of the caller's oldest open request."""
        sittings = self._sittings[caller_of(request).account]
        shown = sittings[0].shown() if sittings else None
        skips = request.query_params.get("skip_current_image", "").lower() in ("true", "1")
        preview = shown.job.preview if shown is not None and not skips else None
        image = await self._service.preview(preview)
        return json(a1111_lists.progress(shown, self._service.clock.now(), image))

    async def interrupt(self, request: Request) -> Response:
        """Give up the caller's oldest open request."""
        open_ = [s for s in self._sittings[caller_of(request).account] if not s.is_interrupted]
        if open_:
            open_[0].interrupt()
        return json({})

    # ---- settings -------------------------------------------------------------------------------

    async def options(self, request: Request) -> Response:
        """Tell the caller's options."""
        return json(a1111.options(self._settings[caller_of(request).account]))

    async def set_options(self, request: Request) -> Response:
        """Change the caller's options; a checkpoint must be known."""
        body, caller = await body_of(request), caller_of(request)
        try:
            changes = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, ValueError):
            raise InvalidRequest("the body must be one JSON object") from None
        settings = a1111.settings_after(self._settings[caller.account], changes)
        a1111.check_model(settings, await self._service.variant_names(caller))
        self._settings[caller.account] = settings
        return json({})

    async def unload(self, request: Request) -> Response:
        """Have everything that is idle taken off the devices."""
        client = self._service.administrator(caller_of(request))
        report = await client.status()
        for device in report.devices:
            for name in device.residents:
                with contextlib.suppress(Overloaded):  # it is busy
                    await client.evict(name, device.device)
        return json({})

    async def reload(self, request: Request) -> Response:
        """Have the chosen variant loaded, where one is chosen."""
        caller = caller_of(request)
        client = self._service.administrator(caller)
        name = self._settings[caller.account].sd_model_checkpoint
        if name in await self._service.variant_names(caller):
            await client.load(name)
        return json({})

    # ---- lists ----------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """List goals and variants."""
        return json(a1111_lists.models(await self._service.client(caller_of(request)).variants()))

    async def samplers(self, request: Request) -> Response:
        """List the samplers."""
        return json(a1111_lists.samplers())

    async def schedulers(self, request: Request) -> Response:
        """List the schedules."""
        return json(a1111_lists.schedulers())

    async def loras(self, request: Request) -> Response:
        """List the adapters."""
        return json(a1111_lists.loras(await self._service.client(caller_of(request)).adapters()))

    async def memory(self, request: Request) -> Response:
        """Tell of the memory."""
        return json(a1111_lists.memory(await self._service.client(caller_of(request)).status()))

    async def cmd_flags(self, request: Request) -> Response:
        """Tell how the service was started, as far as that is anybody's business."""
        return json({"api": True})

    async def embeddings(self, request: Request) -> Response:
        """Tell that there are none."""
        return json({"loaded": {}, "skipped": {}})

    async def scripts(self, request: Request) -> Response:
        """Tell that there are none."""
        return json({"txt2img": [], "img2img": []})

    async def empty(self, request: Request) -> Response:
        """Tell that there is nothing of this kind."""
        return json([])

    async def nothing_to_do(self, request: Request) -> Response:
        """Answer at once: the broker notices by itself what is registered."""
        return json({})

    async def not_here(self, request: Request) -> Response:
        """Refuse by name."""
        name = request.url.path.removeprefix(f"{PATH}/")
        raise Unsupported(f"{name}: not supported; only pictures from text are made here (txt2img)")

    async def png_info(self, request: Request) -> Response:
        """Tell what a picture's file says of itself."""
        async with self._reading:
            asked = decode(await body_of(request, PICTURE_BYTES), PngInfoAsk)
            return json(a1111_lists.text_of(await self._service.in_thread(_texts, asked.image)))


def _texts(image: str) -> dict[str, Any]:
    """Return the texts in a PNG given in base64; raises InvalidRequest."""
    try:
        data = base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image)
        return pictures.texts(data)
    except (binascii.Error, ValueError):
        raise InvalidRequest("image: must be a PNG file in base64", field="image") from None
