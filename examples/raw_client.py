"""A DIFS client with nothing of DIFS in it, written from docs/PROTOCOL.md.

python examples/raw_client.py ADDRESS "red apple" out.png
"""

import mmap
import struct
import sys
import uuid
import zlib
from pathlib import Path
from typing import Any

import msgpack
import zmq


def read_slot(image: dict[str, Any]) -> bytes:
    """Copy the pixels out of shared memory; the slot must hold our generation before and after."""
    with open(image["segment"], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        start = image["offset"]
        before = memory[start : start + 16]
        pixels = memory[start + 64 : start + 64 + image["nbytes"]]
        ours = struct.pack("<8sQ", b"DIFSIMG1", image["generation"])
        if not before == memory[start : start + 16] == ours or zlib.crc32(pixels) != image["crc32"]:
            sys.exit("the image was overwritten: its lease ran out")
    return pixels


def png(pixels: bytes, width: int, height: int) -> bytes:
    rows = (b"\0" + pixels[i : i + 3 * width] for i in range(0, len(pixels), 3 * width))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def main(address: str, prompt: str, path: str) -> None:
    delivery = {"mode": "shm", "format": "raw"}
    request = {"type": "generate", "request_id": uuid.uuid4().hex, "prompt": prompt, "delivery": delivery}
    answer: dict[str, Any] = {"type": "none yet"}
    with zmq.Context() as context, context.socket(zmq.DEALER) as broker:
        broker.setsockopt(zmq.LINGER, 500)
        broker.connect(address)
        broker.send_multipart([b"DIFS1", msgpack.packb(request)])
        while answer["type"] not in ("result", "error"):
            if not broker.poll(5000):  # a broker at work sends beats, so silence means loss
                sys.exit(f"no service answers at {address}")
            answer = msgpack.unpackb(broker.recv_multipart()[1])
        if answer["type"] == "error":
            sys.exit(f"{answer['code']}: {answer['message']}")
        image = answer["images"][0]
        Path(path).write_bytes(png(read_slot(image), image["width"], image["height"]))
        broker.send_multipart([b"DIFS1", msgpack.packb({"type": "release", "leases": [image["lease"]]})])


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
