"""OpenAI's routes: `difs.doors.openai` translates, here it is performed."""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from difs.doors import openai
from difs.doors.answers import refused
from difs.doors.orders import Order, Outcome
from difs.doors.replies import event, json
from difs.doors.service import Service, body_of, caller_of, unless_gone
from difs.errors import DifsError, InternalError, NotFound, Unsupported
from difs.messages import Accepted, Progress

Events = AsyncGenerator[Accepted | Progress | Outcome, None]
EVENT_STREAM = "text/event-stream"


class OpenAiDoor:
    """`/v1`: images, models."""

    def __init__(self, service: Service) -> None:
        """Serve from `service`."""
        self._service = service

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.not_here, methods=["POST"]),
            Route("/v1/images/variations", self.not_here, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model}", self.model, methods=["GET"]),
        ]

    async def generations(self, request: Request) -> Response:
        """Make pictures; answers when they are done, or streams."""
        body, caller = await body_of(request), caller_of(request)
        asked = openai.read(body)
        is_goal = asked.model is None or asked.model in openai.INTENTS
        variants = frozenset() if is_goal else await self._service.variant_names(caller)
        order = openai.order(asked, body, variants)
        # the client tries again by itself, and is told when
        order = replace(order, wishes={**order.wishes, "retries": 0})
        if asked.stream:
            return await self._stream(request, asked, order)
        outcome = await unless_gone(request, self._service.make(caller, order))
        return json(openai.reply(asked, outcome, int(time.time())))

    async def _stream(self, request: Request, asked: openai.ImagesAsk, order: Order) -> Response:
        """Answer with events; what is refused at once is refused with a status, not with an event."""
        caller, partials = caller_of(request), asked.partial_images or 0
        if partials:
            plan = (await self._service.explain(caller, order)).plan
            every = openai.preview_every(plan.steps, partials) if plan is not None else 0
            order = replace(order, wishes={**order.wishes, "preview_every": every})
        events = self._service.events(caller, order)
        await unless_gone(request, anext(events))
        return StreamingResponse(self._events(asked, events, partials), media_type=EVENT_STREAM)

    async def _events(
        self, asked: openai.ImagesAsk, events: Events, partials: int
    ) -> AsyncIterator[bytes]:
        shown = 0
        try:
            async with contextlib.aclosing(events):
                async for came in events:
                    if isinstance(came, Outcome):
                        for i in range(len(came.pictures)):
                            tree = openai.completed(asked, came, i, int(time.time()))
                            yield event(tree, tree["type"])
                    elif isinstance(came, Progress) and came.image == 0 and shown < partials:
                        text = await self._service.preview(came.preview)
                        if came.preview is not None and text is not None:
                            size = (came.preview.height, came.preview.width)
                            tree = openai.partial(asked, text, shown, size, int(time.time()))
                            shown += 1
                            yield event(tree, tree["type"])
        except DifsError as error:
            yield event(openai.error(refused(error)), "error")
        except Exception:
            yield event(openai.error(refused(InternalError("a bug"))), "error")
            raise

    async def not_here(self, request: Request) -> Response:
        """Refuse what needs a picture to begin with."""
        raise Unsupported("only pictures from text are made here: use /v1/images/generations")

    async def models(self, request: Request) -> Response:
        """List goals and variants."""
        return json(openai.models(await self._service.client(caller_of(request)).variants()))

    async def model(self, request: Request) -> Response:
        """Tell of one."""
        variants = await self._service.client(caller_of(request)).variants()
        wanted = request.path_params["model"]
        for model in openai.models(variants)["data"]:
            if model["id"] == wanted:
                return json(model)
        raise NotFound(f"no model {wanted[:64]!r}; /v1/models lists them", field="model")
