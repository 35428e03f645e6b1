"""The peers that serve HTTP from a process of their own: JSON in, bare pixels out, connections kept.

Their servers stand in modules of their own, which alone import the frameworks.
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.load import Ask, Pixels
from bench.peers.base import Batching, BatchingSystem, square
from tests.process.service import free_port

START_S = 300.0
STOP_S = 20.0
POLL_S = 0.05
TRY_ASK = Ask("red apple", 0, 1, 1.0)
PLAIN = {"Accept-Encoding": "identity"}
"""On one machine, compressing costs and saves nothing; LitServe would by itself."""
WARM_UP = 24
"""Asks after a restart: BentoML's dispatcher learns from the first 14."""


class HttpPeer(BatchingSystem):
    """Starts `python -m MODULE PORT MODEL SIZE WAIT_S` and talks to it."""

    module: str

    def __init__(self, model: Path) -> None:
        """See System.__init__."""
        super().__init__(model)
        self._session: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """See System.start; raises RuntimeError with the server's last words."""
        await self.start_and_paint(TRY_ASK)

    async def start_and_paint(self, ask: Ask) -> Pixels:
        """See System.start_and_paint: each server says otherwise that it is not ready yet."""
        import aiohttp

        port = free_port()
        self._front = f"tcp://127.0.0.1:{port}"
        self._url = f"http://127.0.0.1:{port}/predict"
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the server
        knobs = [str(self.batching.max_size), str(self.batching.wait_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, str(port), str(self.model), *knobs],
            stdout=self._words,
            stderr=self._words,
            start_new_session=True,
        )
        self._session = aiohttp.ClientSession(
            headers=PLAIN,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return await self._until_it_paints(ask)

    async def _until_it_paints(self, ask: Ask) -> Pixels:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                return await self.paint(ask)
            except Exception as error:  # refused, not routed yet, loading: each server says it otherwise
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._words.seek(0)
                    words = self._words.read().decode("utf-8", "replace")[-2000:]
                    raise RuntimeError(f"{self.name} does not start: {error}\n{words}") from error
            await asyncio.sleep(POLL_S)

    async def _post(self, body: dict[str, Any]) -> bytes:
        async with self._session.post(self._url, json=body) as response:
            data: bytes = await response.read()
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {data[:200]!r}")
            return data

    async def paint(self, ask: Ask) -> Pixels:
        """See System.paint."""
        return square(await self._bytes_of(ask))

    async def _bytes_of(self, ask: Ask) -> bytes:
        return await self._post(asdict(ask))

    @property
    def root(self) -> int:
        """See System.root."""
        assert self._process is not None
        return self._process.pid

    @property
    def front(self) -> str:
        """See System.front."""
        return self._front

    async def approach(self, front: str) -> None:
        """See System.approach."""
        self._url = f"{front.replace('tcp:', 'http:')}/predict"

    async def tune(self, batching: Batching) -> None:
        """See BatchingSystem.tune."""
        self.batching = batching
        await self._post({"max_size": batching.max_size, "wait_s": batching.wait_s})

    async def stop(self) -> None:
        """See System.stop."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            _kill_group(self._process.pid)
            self._process.wait()
            self._process = None


def _kill_group(leader: int) -> None:
    """End what a server left behind: its workers share its process group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


class LitServe(HttpPeer):
    """Its server stands in `bench.peers.litserve_server`."""

    name = "LitServe"
    needs = ("litserve", "aiohttp")
    package = "litserve"
    module = "bench.peers.litserve_server"
    advice = (
        "max_batch_size and batch_timeout by trial on the own load (lightning.ai/docs/litserve/features/"
        "batching); one worker: a second would share its two cores"
    )


class RayServe(HttpPeer):
    """Its server stands in `bench.peers.ray_server`."""

    name = "Ray Serve"
    needs = ("ray", "starlette", "aiohttp")
    package = "ray"
    module = "bench.peers.ray_server"
    advice = (
        "max_batch_size and batch_wait_timeout_s by trial, threads of torch set by hand (docs.ray.io: "
        "serve/advanced-guides/dyn-req-batch and performance); max_ongoing_requests raised to 1000"
    )


class RestartingPeer(HttpPeer):
    """One whose knobs are given at its start."""

    async def tune(self, batching: Batching) -> None:
        """See BatchingSystem.tune."""
        self.batching = batching
        if self._process is not None:
            await self.stop()
            await self.start()
            await asyncio.gather(*(self.paint(TRY_ASK) for _ in range(WARM_UP)))


class Mosec(RestartingPeer):
    """Its server stands in `bench.peers.mosec_server`."""

    name = "Mosec"
    needs = ("mosec", "aiohttp")
    package = "mosec"
    module = "bench.peers.mosec_server"
    advice = (
        "max_batch_size and max_wait_time of append_worker by trial (mosecorg.github.io/mosec/reference/"
        "interface); timeouts raised from 3 s, for a full queue takes longer"
    )


class BentoMl(RestartingPeer):
    """Its server stands in `bench.peers.bentoml_server`."""

    name = "BentoML"
    needs = ("bentoml", "aiohttp")
    package = "bentoml"
    module = "bench.peers.bentoml_server"
    waits_s = (0.0,)
    advice = (
        "max_batch_size by trial; the wait is adaptive, max_latency_ms a limit beyond which requests are "
        "refused and put out of reach (docs.bentoml.com/en/latest/get-started/adaptive-batching)"
    )

    async def _bytes_of(self, ask: Ask) -> bytes:
        (text,) = json.loads(await self._post({"asks": [asdict(ask)]}))
        return base64.b64decode(text)
