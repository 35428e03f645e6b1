"""difs.metrics: families as Prometheus reads them, and a broker that is asked seldom."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from difs import metrics
from difs.actor_messages import Execute
from difs.broker.measures import measure
from difs.clock import ManualClock
from difs.errors import BrokerLost
from difs.messages import Family, Sample
from difs.metrics import Remembered, answer
from tests.builders import finished, only, served

prometheus = pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families as parse  # noqa: E402

FAMILIES = (Family("difs_a_total", "counter", "A.", (Sample(3, {"model": 'q"uo\nte'}),)),)


def remembered(*found: Family) -> Remembered[tuple[Family, ...]]:
    return Remembered(lambda: found, ManualClock())


def lost() -> tuple[Family, ...]:
    raise BrokerLost("the broker has said nothing for 3 s")


READY = Remembered(lambda: True, ManualClock())


def test_all_numbers_of_a_broker_are_read_back_by_prometheus() -> None:
    house = served()
    house.tell(finished(only(house.ask("a"), Execute)))
    families = measure(house.state.books, 1.0)
    status, body = answer("/metrics", remembered(*families), READY)
    assert status == "200 OK"
    found = {family.name: family for family in parse(body.decode())}
    assert {name.removesuffix("_total") for name in found} == {
        family.name.removesuffix("_total") for family in families
    }
    (requests,) = found["difs_requests"].samples
    assert (requests.name, requests.labels, requests.value) == (
        "difs_requests_total",
        {"model": "tiny", "outcome": "ok"},
        1.0,
    )
    durations = {s.labels.get("le"): s.value for s in found["difs_request_duration_seconds"].samples}
    assert durations["+Inf"] == 1.0


def test_labels_may_hold_anything() -> None:
    _, body = answer("/metrics", remembered(*FAMILIES), READY)
    (family,) = parse(body.decode())
    assert family.samples[0].labels == {"model": 'q"uo\nte'}


def test_however_often_it_is_asked_it_asks_the_broker_once_a_second() -> None:
    clock, asked = ManualClock(), []

    def ask() -> tuple[Family, ...]:
        asked.append(clock.now())
        return FAMILIES

    families = Remembered(ask, clock)
    for _ in range(50):
        families.get()
        clock.advance(0.1)
    assert len(asked) == 5


@pytest.mark.parametrize("path", ["/metrics", "/livez"])
def test_a_broker_that_does_not_answer_is_503_and_is_not_asked_again_at_once(path: str) -> None:
    clock = ManualClock()
    families = Remembered(lost, clock)
    assert answer(path, families, READY) == ("503 Service Unavailable", b"broker_lost\n")
    families._ask = lambda: FAMILIES
    assert answer(path, families, READY)[0] == "503 Service Unavailable"
    clock.advance(metrics.REST_S)
    assert answer(path, families, READY)[0] == "200 OK"


@pytest.mark.parametrize(("ready", "status"), [(True, "200 OK"), (False, "503 Service Unavailable")])
def test_readiness_is_the_brokers(ready: bool, status: str) -> None:
    readiness = Remembered(lambda: ready, ManualClock())
    assert answer("/readyz", remembered(), readiness)[0] == status
    assert answer("/livez", remembered(), readiness)[0] == "200 OK"


def test_other_paths_are_404() -> None:
    assert answer("/../etc/passwd", remembered(), READY)[0] == "404 Not Found"


@pytest.fixture
def port() -> Iterator[int]:
    server = metrics.serve(0, remembered(*FAMILIES), READY)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_served_on_loopback_only(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"difs_a_total" in reply.read()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    assert metrics.ADDRESS == "127.0.0.1"
