"""Ray Serve with the same pipeline and `@serve.batch`.

python -m bench.peers.ray_server PORT MODEL SIZE WAIT_S     the server

One replica with all cores. The pipeline runs in a thread, so that the replica's event loop can gather
the next batch meanwhile.
"""

import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.load import Ask
from bench.peers import fate, pipeline
from difs import processes

OBJECT_STORE_BYTES = 200 << 20
MAX_ONGOING = 1000


class Painter:
    """What a replica runs."""

    def __init__(self, model: str, max_size: int, wait_s: float) -> None:
        """Load the model, in the thread that will paint: torch's thread count belongs to a thread."""
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._pipe = self._worker.submit(pipeline.load, Path(model)).result()
        self._set(max_size, wait_s)

    def _set(self, max_size: int, wait_s: float) -> None:
        knobs: Any = self._paint
        knobs.set_max_batch_size(max_size)
        knobs.set_batch_wait_timeout_s(wait_s)

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        body = await request.json()
        if "prompt" not in body:
            self._set(body["max_size"], body["wait_s"])
            return Response(b"")
        pixels: Any = await self._paint(Ask(**body))
        return Response(pixels, media_type="application/octet-stream")

    @serve.batch  # type: ignore[untyped-decorator]  # ray is not typed
    async def _paint(self, asks: list[Ask]) -> list[bytes]:
        loop = asyncio.get_running_loop()
        painted = await loop.run_in_executor(self._worker, pipeline.paint, self._pipe, asks)
        return [pixels.tobytes() for pixels in painted]


def main(port: str, model: str, max_size: str, wait_s: str) -> None:
    """Serve until SIGTERM."""
    fate.share_with_parent()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    cores = processes.cores()
    ray.init(
        num_cpus=cores + 1,  # the replica gets all cores; the proxy and controller ask for none
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    deployment = serve.deployment(
        Painter,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": cores},
    )
    serve.run(deployment.bind(model, int(max_size), float(wait_s)), route_prefix="/predict")
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
