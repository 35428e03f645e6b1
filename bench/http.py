"""What the HTTP door adds to the RPC, and what slow HTTP clients cost those who use the RPC.

    python -m bench.http [--rounds 200] [--slow 500]

A private service with the simulated engine and no step time. In turn, the same 512x512 picture: by the
RPC with its PNG written by the caller, and by `POST /v1/images/generations`. What HTTP adds is the
difference of the medians. Then so many connections that each send half a request: the RPC's median
beside that before. All processes share this machine's cores. The engine's pattern makes a small PNG: what
a photograph's base64 costs is not in the figure.
"""

import argparse
import base64
import http.client
import json
import socket
import statistics
import time

from bench.report import keep, verdict
from difs import Client
from difs.private import PrivateService
from tests.process.service import free_port

SIDE = 512
WARM_UP = 10
ASKED = {"prompt": "red apple", "seed": 1, "steps": 4, "size": f"{SIDE}x{SIDE}"}


def by_rpc(client: Client) -> float:
    """Return the seconds of one picture, its file written."""
    started = time.perf_counter()
    with client.generate("red apple", seed=1, steps=4, width=SIDE, height=SIDE) as result:
        assert result.file(0, "png")
    return time.perf_counter() - started


def by_http(connection: http.client.HTTPConnection) -> float:
    """Return the seconds of one picture, its base64 undone."""
    started = time.perf_counter()
    connection.request("POST", "/v1/images/generations", json.dumps(ASKED).encode())
    answer = json.loads(connection.getresponse().read())
    assert base64.b64decode(answer["data"][0]["b64_json"])
    return time.perf_counter() - started


def measure(rounds: int, slow: int) -> dict[str, float]:
    """Return the figures in milliseconds."""
    port = free_port()
    options = ["--device", "simulated", "--policy", "static", "--http", f"127.0.0.1:{port}"]
    with PrivateService(options) as service, Client(service.address) as client:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        taken: dict[str, list[float]] = {"rpc": [], "http": []}
        for _ in range(rounds + WARM_UP):
            taken["rpc"].append(by_rpc(client))
            taken["http"].append(by_http(connection))
        rpc, door = (statistics.median(taken[name][WARM_UP:]) for name in ("rpc", "http"))
        idle = statistics.median(by_rpc(client) for _ in range(rounds))
        half = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
        raws = [socket.create_connection(("127.0.0.1", port)) for _ in range(slow)]
        for raw in raws:
            raw.sendall(half)
        beside = statistics.median(by_rpc(client) for _ in range(rounds))
        for raw in raws:
            raw.close()
    return {
        "rpc_ms": round(rpc * 1e3, 2),
        "http_ms": round(door * 1e3, 2),
        "http_adds_ms": round((door - rpc) * 1e3, 2),
        "rpc_before_ms": round(idle * 1e3, 2),
        "rpc_beside_slow_ms": round(beside * 1e3, 2),
        "slower_by": round(beside / idle, 3),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--slow", type=int, default=500)
    asked = parser.parse_args()
    figures = measure(asked.rounds, asked.slow)
    for name, value in figures.items():
        print(f"  {name:>20} {value}")
    goals = [
        verdict("HTTP adds to the RPC, ms", figures["http_adds_ms"], 3.0),
        verdict(f"the RPC beside {asked.slow} slow clients, times", figures["slower_by"], 1.2),
    ]
    command = f"python -m bench.http --rounds {asked.rounds} --slow {asked.slow}"
    print(keep("http", command, {**figures, "goals": goals}))


if __name__ == "__main__":
    main()
