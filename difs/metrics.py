"""The metrics process: `python -m difs.metrics RUN_DIR PARENT_PID`; numbers for Prometheus over HTTP.

A process of its own and a client of the broker like any other, so that whoever scrapes can never hold
the broker up: however often it is asked, it asks the broker once a second at most. Loopback only.

    /metrics   the families of `difs.broker.measures`
    /livez     200 while the broker answers
    /readyz    200 while a device is ready and nothing drains
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Generic, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from difs import config, logs, processes
from difs.client import Client
from difs.clock import Clock, MonotonicClock
from difs.errors import DifsError
from difs.messages import Family
from difs.rundir import RunDir

log = logging.getLogger("difs.metrics")

ADDRESS = "127.0.0.1"
REST_S = 1.0
"""The broker is asked at most once in so many seconds."""
PATIENCE_S = 5.0
"""A peer that sends nothing for so long is cut off."""

T = TypeVar("T")
Answer = tuple[str, bytes]
"""Status and body."""


class Remembered(Generic[T]):
    """What the broker last said; safe to use from several threads."""

    def __init__(self, ask: Callable[[], T], clock: Clock) -> None:
        """`ask` asks the broker."""
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._found: T | DifsError

    def get(self) -> T:
        """Return it, at most REST_S old; raises DifsError where the broker does not answer."""
        with self._lock:
            if self._clock.now() - self._asked_at >= REST_S:
                try:
                    self._found = self._ask()
                except DifsError as error:
                    self._found = error
                self._asked_at = self._clock.now()
            if isinstance(self._found, DifsError):
                raise self._found
            return self._found


Families = Remembered[tuple[Family, ...]]
Readiness = Remembered[bool]


def exposed(families: Iterable[Family]) -> Iterator[Any]:
    """Yield families as prometheus_client has them."""
    from prometheus_client import core  # noqa: PLC0415 -- an optional extra

    makers = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    for family in families:
        names = sorted({name for sample in family.samples for name in sample.labels})
        made: Any = makers[family.kind](family.name, family.help, labels=names)
        for sample in family.samples:
            labels = [sample.labels.get(name, "") for name in names]
            if family.kind == "histogram":
                ends = [*sample.buckets, (float("inf"), sample.count)]
                buckets = [(_bound(bound), count) for bound, count in ends]
                made.add_metric(labels, buckets=buckets, sum_value=sample.value)
            else:
                made.add_metric(labels, sample.value)
        yield made


def _bound(bound: float) -> str:
    """Return a bucket's bound as Prometheus writes it."""
    return "+Inf" if bound == float("inf") else str(float(bound))


class Collector:
    """What prometheus_client asks for the numbers (its Collector protocol)."""

    def __init__(self, families: Iterable[Family]) -> None:
        """Tell these."""
        self._families = families

    def collect(self) -> Iterator[Any]:
        """Yield all families."""
        return exposed(self._families)


def text(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(families))
    said: bytes = generate_latest(registry)
    return said


def answer(path: str, families: Families, readiness: Readiness) -> Answer:
    """Return the status and the body for a path."""
    try:
        if path == "/metrics":
            return "200 OK", text(families.get())
        if path == "/livez":
            families.get()
            return "200 OK", b"live\n"
        if path == "/readyz":
            ready = readiness.get()
            return ("200 OK", b"ready\n") if ready else ("503 Service Unavailable", b"not ready\n")
    except DifsError as error:
        return "503 Service Unavailable", f"{error.code}\n".encode()
    return "404 Not Found", b"there is /metrics, /livez and /readyz\n"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Bind; unlike the library's, it asks no name server for our own name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let go of a peer that misbehaves; it is nobody's business."""
        log.debug("a peer was cut off", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's name
        """Keep scrapes out of the log."""


def serve(port: int, families: Families, readiness: Readiness) -> _Server:
    """Bind and return the server; raises OSError where the port is taken."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        status, body = answer(environ["PATH_INFO"], families, readiness)
        start_response(status, [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
        return [body]

    return make_server(ADDRESS, port, app, _Server, _Handler)


def main(run_dir: str, parent_pid: str) -> int:
    """Serve until ended; returns the exit status."""
    processes.die_with_parent(int(parent_pid))
    processes.set_name("difs-metrics")
    home = RunDir(Path(run_dir))
    settings: config.Config = home.read_facts()[0]
    logs.to_stderr("metrics", settings.service.log_level, settings.service.log_format)
    with Client(home.clients) as client:
        clock = MonotonicClock()
        families = Remembered(client.metrics, clock)
        readiness = Remembered(lambda: client.ping().ready, clock)
        try:
            server = serve(settings.metrics.port, families, readiness)
        except OSError as error:
            log.error("metrics.port: cannot listen on %d: %s", settings.metrics.port, error.strerror)
            return os.EX_CONFIG
        log.info("numbers are at http://%s:%d/metrics", ADDRESS, settings.metrics.port)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
