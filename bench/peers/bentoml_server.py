"""BentoML with the same pipeline and its adaptive batching.

python -m bench.peers.bentoml_server PORT MODEL SIZE WAIT_S     the server

The dispatcher finds the wait itself, by a regression over past batches: WAIT_S is not used. Its
`max_latency_ms` is a limit beyond which it refuses, not a wait, and is put out of reach here. A batchable
API answers with a list, in JSON: pixels go as base64. The knobs are arguments of a decorator, so they
come by the environment to the process that imports this module.
"""

import asyncio
import base64
import os
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml

from bench.load import Ask
from bench.peers import fate, pipeline

MODEL, SIZE = "BENCH_BENTOML_MODEL", "BENCH_BENTOML_SIZE"
PATIENCE_S = 600
DEFAULT_SIZE = 8


@bentoml.service(workers=1, traffic={"timeout": PATIENCE_S})
class Painter:
    """What the worker process runs."""

    def __init__(self) -> None:
        """Load the model, in the thread that will paint: torch's thread count belongs to a thread."""
        fate.share_with_parent()  # BentoML gives its workers sessions of their own
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._pipe = self._worker.submit(pipeline.load, Path(os.environ[MODEL])).result()

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict",
        batchable=True,
        max_batch_size=int(os.environ.get(SIZE, DEFAULT_SIZE)),
        max_latency_ms=PATIENCE_S * 1000,
    )
    async def paint(self, asks: list[dict[str, Any]]) -> list[str]:
        """Return the pixels of a batch."""
        loop = asyncio.get_running_loop()
        wanted = [Ask(**body) for body in asks]
        painted = await loop.run_in_executor(self._worker, pipeline.paint, self._pipe, wanted)
        return [base64.b64encode(pixels.tobytes()).decode("ascii") for pixels in painted]


def main(port: str, model: str, max_size: str, _wait_s: str) -> None:
    """Run `bentoml serve` in this process until SIGTERM."""
    fate.share_with_parent()
    os.environ |= {MODEL: model, SIZE: max_size, "BENTOML_DO_NOT_TRACK": "true"}
    service = "bench.peers.bentoml_server:Painter"
    sys.argv = ["bentoml", "serve", service, "--host", "127.0.0.1", "--port", port, "--quiet"]
    runpy.run_module("bentoml", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
