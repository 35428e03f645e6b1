"""What the tests of the HTTP doors share: a service with a door, and a client of it."""

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.process.service import SIDE, Service, free_port, processes_of, script, settings, until

SLOW = {"prompt": "red apple", "steps": 60, "size": f"{SIDE}x{SIDE}"}
"""Three seconds."""
SLOW_TXT2IMG = {"prompt": "red apple", "steps": 60, "width": SIDE, "height": SIDE}
SLOW_JOB = {"prompt": "red apple", "width": SIDE, "height": SIDE, "overrides": {"steps": 60}}

CREDITS = 2
"""Requests that its one device is sent at a time."""


class Door:
    """A service with an HTTP door, and a client of it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def post(self, path: str, tree: Any = None, **more: Any) -> httpx2.Response:
        return self.http.post(path, json=tree if tree is not None else {}, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.http.get(path, **more)

    def pid(self) -> int:
        """Return the door's process, 0 where there is none."""
        words = processes_of(self.service.home.path)
        return next((pid for pid, line in words.items() if "difs.doors" in line), 0)


@contextlib.contextmanager
def opened(*more: str) -> Iterator[Door]:
    """Start a service with a door; it ends with the context."""
    port = free_port()
    bounds = settings("broker.max_outstanding=4", f"actors.credits={CREDITS}")
    options = ["--device", "simulated", *settings(script()), *bounds, *more]
    with Service([*options, "--http", f"127.0.0.1:{port}"]) as service:
        door = Door(service, port)
        until(lambda: _answers(door), 20, "the door")
        yield door
        door.http.close()


def _answers(door: Door) -> bool:
    try:
        return door.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def left_idle(door: Door) -> Iterator[Door]:
    """Yield the door with nothing open; nothing may be open afterwards either."""
    yield door
    until(lambda: door.service.is_idle(1), 20, "an idle service after the test")


def pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def shown(text: str) -> NDArray[np.uint8]:
    return pixels(base64.b64decode(text))


def events_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and data of each server-sent event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found
