"""Mosec with the same pipeline and its dynamic batching.

python -m bench.peers.mosec_server PORT MODEL SIZE WAIT_S     the server

One worker process behind Mosec's HTTP server in Rust; one stage, so that pixels pass from one to the
other once. The worker is made without arguments: it finds the model's folder in the environment.
"""

import os
import sys
from pathlib import Path
from typing import Any

from mosec import Server, Worker

from bench.load import Ask
from bench.peers import fate, pipeline

MODEL = "BENCH_MOSEC_MODEL"
PATIENCE_S = 600
LEAST_WAIT_MS = 1
"""Zero would be taken as `not said`, which means ten."""


class Painter(Worker):  # type: ignore[misc]  # mosec is not known to mypy here
    """What the worker process runs."""

    def __init__(self) -> None:
        """Load the model."""
        super().__init__()
        self._pipe = pipeline.load(Path(os.environ[MODEL]))

    def forward(self, data: list[dict[str, Any]]) -> list[bytes]:
        """Return the pixels of a batch."""
        painted = pipeline.paint(self._pipe, [Ask(**body) for body in data])
        return [pixels.tobytes() for pixels in painted]

    def serialize(self, data: bytes) -> bytes:
        """Send bytes as they are."""
        return data


def main(port: str, model: str, max_size: str, wait_s: str) -> None:
    """Serve until SIGTERM."""
    fate.share_with_parent()
    os.environ |= {
        MODEL: model,
        "MOSEC_PORT": port,
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_TIMEOUT": str(PATIENCE_S * 1000),
        "MOSEC_LOG_LEVEL": "error",
    }
    server = Server()
    server.append_worker(
        Painter,
        num=1,
        max_batch_size=int(max_size),
        max_wait_time=max(LEAST_WAIT_MS, round(float(wait_s) * 1e3)),
        timeout=PATIENCE_S,
        route="/predict",
    )
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
