"""The gate before all routes: performs what `difs.doors.guard` decides, and marks every answer."""

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from difs.doors import guard
from difs.doors.answers import Refused
from difs.doors.replies import tell

LOGIN = 'Basic realm="difs", charset="UTF-8"'
"""What makes a browser ask for the token."""


class Gate:
    """ASGI middleware: nobody gets past it whom `guard.judge` refuses."""

    def __init__(self, app: ASGIApp, rules: Callable[[], guard.Rules]) -> None:
        """`rules` are asked for with every request: tokens come and go."""
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        found = guard.judge(self._rules(), scope["method"], scope["path"], headers)
        if isinstance(found, Refused):
            answer = tell(scope["path"], found)
            if found.status == 401:
                answer.headers["www-authenticate"] = LOGIN
            await answer(scope, receive, _marked(send))
            return
        scope["difs_caller"] = found
        await self._app(scope, receive, _marked(send))


def _marked(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in guard.SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return marked
