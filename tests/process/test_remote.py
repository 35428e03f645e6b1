"""The door for other machines on real sockets: keys, strangers, revocation, what clients there may do."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from msgspec.structs import replace

from difs import Client
from difs.broker import gate, selftest
from difs.broker.remote import RemoteDoor
from difs.config import Network
from difs.errors import ConfigError, Denied, DifsError, Unavailable, Unsupported
from difs.keys import KeyRing, pair, write_key_file
from tests.process.conftest import Start
from tests.process.network import Elsewhere
from tests.process.service import Calls, Service, big, difs, picture, script, settings, until

pytestmark = pytest.mark.process

TWO = ("--device", "simulated:2")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


# ---- the door alone ------------------------------------------------------------------------------


@contextlib.contextmanager
def open_door(elsewhere: Elsewhere, door: RemoteDoor | None = None) -> Iterator[RemoteDoor]:
    """Open a door in this process, as the broker does."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        found = door or RemoteDoor(Network(listen=elsewhere.address), elsewhere.ring)
        found.open(context, context.socket(zmq.ROUTER))
        yield found
    finally:
        context.destroy(linger=0)


def test_the_broker_knocks_at_its_own_door_and_finds_it_safe(elsewhere: Elsewhere) -> None:
    elsewhere.key("anna")
    with open_door(elsewhere):
        pass
    (row,) = elsewhere.ring.rows()
    assert row.last == "", "the test's own knocks are nobody's visits"


@pytest.mark.parametrize("security", ["lets everybody in", "lets nobody in", "forgot CURVE"])
def test_a_door_that_lets_a_wrong_key_in_is_not_opened(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:
    def judge(question: list[bytes], *_: Any, **__: Any) -> gate.Verdict:
        status = b"400" if security == "lets nobody in" else b"200"
        return gate.Verdict([b"1.0", question[1], status, b"", b"x", b""])

    def forget(self: Any, name: str, value: Any) -> None:
        if name != "curve_server":
            zmq.Socket.__setattr__(self, name, value)

    monkeypatch.setattr(selftest, "PATIENCE_S", 0.5)
    door = RemoteDoor(Network(listen=elsewhere.address), elsewhere.ring)
    if security == "forgot CURVE":
        careless = type("Careless", (zmq.Socket,), {"__setattr__": forget})
        router = careless(context := zmq.Context(), zmq.ROUTER)
    else:
        monkeypatch.setattr(gate, "judge", judge)
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
    words = {
        "lets everybody in": "a key that is not allowed comes in",
        "lets nobody in": "an allowed key is refused",
        "forgot CURVE": "an allowed key is refused",
    }
    try:
        with pytest.raises(ConfigError, match=words[security]):
            door.open(context, router)
    finally:
        router.close(linger=0)
        context.destroy(linger=0)


def test_strangers_do_not_come_in_and_nothing_of_theirs_is_read(elsewhere: Elsewhere) -> None:
    """A wrong key, no key, the wrong service's key: no message leaves libzmq."""
    known = elsewhere.ring.new("anna")
    context = zmq.Context()
    with open_door(elsewhere) as door:
        wrong, other = pair(), pair()
        for server, own in ((known.server, wrong), (None, None), (other.public, known)):
            socket = context.socket(zmq.DEALER)
            if own is not None and server is not None:
                socket.curve_serverkey = server.encode()
                socket.curve_publickey, socket.curve_secretkey = own.public.encode(), own.secret.encode()
            socket.connect(elsewhere.address)
            socket.send(b"let me in")
            for _ in range(20):
                door.answer()
                assert not door.socket.poll(5)
            socket.close(linger=0)
    context.destroy(linger=0)


def test_a_list_that_cannot_be_read_lets_nobody_in(elsewhere: Elsewhere) -> None:
    known = elsewhere.ring.new("anna")
    context = zmq.Context()
    with open_door(elsewhere) as door:
        assert selftest.gets_in(context, elsewhere.address, known.server, known, door.answer)  # type: ignore[arg-type]
        bad = elsewhere.ring.folder / "allowed" / "bad.json"
        bad.write_text("{")
        bad.chmod(0o600)
        (event,) = door.news()
        assert event.names == {"anna"}
        assert not selftest.gets_in(context, elsewhere.address, known.server, known, door.answer)  # type: ignore[arg-type]
        bad.unlink()
        assert door.news() == []
        assert selftest.gets_in(context, elsewhere.address, known.server, known, door.answer)  # type: ignore[arg-type]
    context.destroy(linger=0)


def test_an_address_that_is_not_there_and_one_that_is_taken_are_told_apart(elsewhere: Elsewhere) -> None:
    nowhere = RemoteDoor(Network(listen="tcp://192.0.2.1:7311"), elsewhere.ring)  # RFC 5737: nobody's
    with pytest.raises(ConfigError, match="Cannot assign"), open_door(elsewhere, nowhere):
        pass
    second = RemoteDoor(Network(listen=elsewhere.address), elsewhere.ring)
    with open_door(elsewhere), pytest.raises(Unavailable, match="in use"), open_door(elsewhere, second):
        pass


# ---- a whole service -----------------------------------------------------------------------------


def test_keys_open_the_door_until_they_are_revoked(
    elsewhere: Elsewhere, start: Start, calls: Calls, tmp_path: Path
) -> None:
    """In one service: pictures, rights, wrong keys, a new key, and revocation while it runs."""
    anna, boss = elsewhere.key("anna"), elsewhere.key("boss", is_admin=True)
    service = start(*TWO, *settings(script(step_s=0.2), *elsewhere.settings))
    with Client(key=anna) as client:
        assert client.ping().ready
        with client.generate("red apple", seed=5, steps=4, width=64, height=64) as result:
            assert (result.images[0] == picture("red apple", 5)).all()
        with pytest.raises(Unsupported, match="shared memory is for local clients"):
            client.generate("red apple", delivery="shm")
        with pytest.raises(Denied, match="--admin"):
            client.evict("emoji-base")
        with Client(key=boss) as admin:
            assert "load" in admin.load("emoji-base")

        _the_command_line_comes_too(anna, tmp_path / "apple.png")
        _only_the_clients_socket_is_open(service, elsewhere.address)
        _stranger_is_told_so(elsewhere, tmp_path)
        late = elsewhere.key("late")  # a running service takes it at once
        with Client(key=late) as newcomer:
            assert newcomer.ping().ready

        running = calls.submit(client.generate, "slow", **big(steps=100))
        until(lambda: service.status().running, 10, "its start")
        elsewhere.ring.revoke("anna")
        with pytest.raises(DifsError):
            running.result(30)
        until(lambda: service.status().running == 0, 5, "the end of what a revoked key had running")
        with pytest.raises(Denied):
            client.ping()  # the old connection
        until(lambda: "cut 1 connections" in service.log_text(), 5, "its cut")
    with Client(key=anna) as client, pytest.raises(Denied):
        client.ping()  # a new one
    rows = {row.name: row for row in elsewhere.ring.rows()}
    assert set(rows) == {"boss", "late"}
    assert rows["boss"].last


def _stranger_is_told_so(elsewhere: Elsewhere, folder: Path) -> None:
    stranger = KeyRing(folder / "other")
    stranger.make()
    forged = stranger.new("anna", address=elsewhere.address)
    path = folder / "forged.key"
    write_key_file(path, replace(forged, server=elsewhere.ring.server().public))
    with Client(key=path) as client, pytest.raises(Denied, match="does not accept this key"):
        client.generate("red apple")


def _the_command_line_comes_too(key: Path, out: Path) -> None:
    made = difs("--key", str(key), "generate", "red apple", "--steps", "2", "--out", str(out), "--json")
    assert made.returncode == 0, made.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def _only_the_clients_socket_is_open(service: Service, address: str) -> None:
    """On TCP there is one socket, and it is the clients'."""
    assert [f"tcp://{c.laddr.ip}:{c.laddr.port}" for c in _listening(service)] == [address]


def _listening(service: Service) -> list[Any]:
    pids = [service.pid, *service.children().values()]
    found = [c for pid in pids for c in psutil.Process(pid).net_connections("inet")]
    return [c for c in found if c.status == "LISTEN"]


def test_clients_reach_no_actors_socket_and_only_their_user_reaches_any(start: Start) -> None:
    """By default both sockets are files in a folder of mode 0700, and nothing is open to the network."""
    service = start(*TWO)
    home = service.home.path
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    sockets = [path for path in home.iterdir() if path.is_socket()]
    assert {path.name for path in sockets} == {"clients.sock", "actors.sock"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in sockets)
    assert service.home.actors.startswith("ipc://")
    assert _listening(service) == []


def test_a_door_without_keys_is_for_programs_of_this_machine_and_no_administrators(
    elsewhere: Elsewhere, start: Start
) -> None:
    start(*TWO, *settings(script(step_s=0.01), *elsewhere.settings, 'network.security="none"'))
    with Client(elsewhere.address) as client:
        with client.generate("red apple", seed=5, steps=2, width=64, height=64) as result:
            assert (result.images[0] == picture("red apple", 5)).all()
        with pytest.raises(Denied):
            client.evict("emoji-base")
        with pytest.raises(Unsupported):
            client.generate("red apple", delivery="shm")


def test_keys_that_others_may_read_stop_the_start(elsewhere: Elsewhere) -> None:
    elsewhere.ring.server()
    (elsewhere.ring.folder / "server.json").chmod(0o644)
    found = difs(
        "serve", "--run-dir", str(elsewhere.folder / "run"), *TWO, *settings(*elsewhere.settings)
    )
    assert found.returncode == os.EX_CONFIG
    assert "chmod 600" in found.stderr
    assert "Traceback" not in found.stderr
