"""LitServe with the same pipeline and its request-level dynamic batching.

python -m bench.peers.litserve_server PORT MODEL SIZE WAIT_S     the server

One worker, `max_batch_size` and `batch_timeout` as LitServe's documentation names them; `predict` gets
the whole batch. The worker reads both knobs anew for each batch, so a message may change them.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Response

from bench.load import Ask
from bench.peers import fate, pipeline


class Painter(litserve.LitAPI):  # type: ignore[misc]  # litserve is not typed
    """What LitServe calls."""

    def __init__(self, model: Path, max_size: int, wait_s: float) -> None:
        """Take the knobs."""
        super().__init__(max_batch_size=max_size, batch_timeout=wait_s)
        self._model = model

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self._pipe = pipeline.load(self._model)

    def predict(self, batch: list[dict[str, Any]]) -> list[bytes]:
        """Return the pixels of a batch."""
        asks = [Ask(**body) for body in batch if "prompt" in body]
        painted = iter(pipeline.paint(self._pipe, asks))
        return [next(painted).tobytes() if "prompt" in body else self._tune(body) for body in batch]

    def _tune(self, body: dict[str, Any]) -> bytes:
        self.max_batch_size, self.batch_timeout = body["max_size"], body["wait_s"]
        return b""

    def encode_response(self, output: bytes) -> Response:
        """Send bytes as they are."""
        return Response(output, media_type="application/octet-stream")


def main(port: str, model: str, max_size: str, wait_s: str) -> None:
    """Serve until killed."""
    fate.share_with_parent()
    logging.disable(logging.WARNING)
    server = litserve.LitServer(
        Painter(Path(model), int(max_size), float(wait_s)),
        accelerator="cpu",
        workers_per_device=1,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=int(port), log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
