"""The door for other machines: a ROUTER socket on TCP, and libzmq's questions who may come in.

It performs what `difs.broker.gate` decides, within the broker's one thread: libzmq asks over a socket
like any other, and a connection that waits for the answer costs nobody anything. (pyzmq's own
authenticators are a second thread with a second list, or asyncio.) What a stranger sends is never
decoded: without an allowed key no message of his leaves libzmq.
"""

import logging
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import zmq

from difs import addresses, config, sockets
from difs.broker import gate, selftest
from difs.broker.cutting import Cutter
from difs.broker.events import KeysRevoked, Peer
from difs.errors import ConfigError, Unavailable
from difs.key_files import Listed
from difs.keys import KeyRing, pair, user_id
from difs.sockets import DONTWAIT
from difs.wire import Frame

log = logging.getLogger(__name__)

MARK = b"\0remote:"
"""Routes here begin so; those of the local socket do not: libzmq's own have five bytes, and clients
cannot set one that begins with a zero."""
HANDSHAKE_MS = 5_000
"""A connection that has not shown its key for so long is cut."""
HEARTBEAT_MS, SILENCE_MS = 250, 2_700
"""A peer whose machine is gone is cut, so that its requests end."""
_ZAP = "inproc://zeromq.zap.01"


class RemoteDoor:
    """The socket for clients of other machines, and the list of who may use it."""

    def __init__(self, settings: config.Network, ring: KeyRing) -> None:
        """Read the keys; raises ConfigError. Nothing is opened before `open`."""
        self._listen = addresses.parse(settings.listen)
        self._needs_key = settings.security == "keys"
        self._ring = ring
        self._allowed: Mapping[str, Listed] = MappingProxyType({})
        self._stamp: object = None
        self._revoked: frozenset[str] = frozenset()
        self._cutter = Cutter()
        if self._needs_key:
            ring.make()
            self._pair = ring.server()
            self._stamp, self._allowed = ring.stamp(), ring.allowed()
            if not self._allowed:
                log.warning("no key is allowed yet; make one: difs keys new NAME")

    def open(self, context: "zmq.Context[zmq.Socket[bytes]]", router: "zmq.Socket[bytes]") -> None:
        """Guard `router`, bind it, and prove that strangers stay out.

        Raises ConfigError when one came in or there is no such address, Unavailable when it is taken.
        """
        self.questions = context.socket(zmq.REP)
        self.questions.linger = 0
        self.questions.bind(_ZAP)  # before the router: until it is there, libzmq asks nobody
        self.socket = router
        router.zap_domain = gate.DOMAIN.encode()
        if self._needs_key:
            router.curve_server = True
            router.curve_secretkey = self._pair.secret.encode()
        router.ipv6 = self._listen.is_ipv6
        router.handshake_ivl = HANDSHAKE_MS
        router.heartbeat_ivl, router.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
        try:
            router.bind(self._listen.address)
        except zmq.ZMQError as error:
            words = f"network.listen: {self._listen.address}: {os.strerror(error.errno or 0)}"
            is_taken = error.errno == zmq.EADDRINUSE  # perhaps by what is just ending
            raise (Unavailable if is_taken else ConfigError)(words) from None
        self._prove()
        security = "for allowed keys" if self._needs_key else "for every program of this machine"
        log.info("listening on %s %s", self._listen.address, security)

    def _prove(self) -> None:
        """Try the door as a stranger, without a key, and with a key that is allowed for a moment."""
        if not self._needs_key:
            return
        guest, allowed = pair(), self._allowed
        listed = Listed("self-test", guest.public, "")
        self._allowed = MappingProxyType({**allowed, user_id(guest.public): listed})
        try:
            failed = selftest.failures(self._listen.probe, self._pair.public, guest, self._answer_all)
        finally:
            self._allowed = allowed
        if failed:
            raise ConfigError(f"network: the door is not safe: {'; '.join(failed)}; not listening")

    # ---- questions ------------------------------------------------------------------------------

    def answer(self) -> None:
        """Answer libzmq's questions who may come in, by the list as it is now."""
        if self.questions.poll(0):
            self._reload()
            self._answer_all()

    def _answer_all(self) -> None:
        while True:
            try:
                question = self.questions.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            verdict = gate.judge(question, self._allowed, needs_key=self._needs_key)
            self.questions.send_multipart(verdict.reply)
            if verdict.listed is not None and verdict.listed.created:
                self._ring.note_use(verdict.listed.name)

    def _reload(self) -> None:
        """Read the list if it changed; one that cannot be read lets nobody in."""
        if not self._needs_key:
            return
        before = self._allowed
        try:
            stamp = self._ring.stamp()
            if stamp == self._stamp:
                return
            self._allowed = self._ring.allowed()
            self._stamp = stamp
        except (ConfigError, OSError) as error:
            if self._stamp is not None:
                log.error("the allowed keys cannot be read, nobody comes in: %s", error)
            self._allowed, self._stamp = MappingProxyType({}), None
        self._revoked |= gate.revoked(before, self._allowed)

    def news(self) -> list[KeysRevoked]:
        """Return what became of the list of keys since the last time; cut who spoke without one."""
        if count := self._cutter.cut():
            log.info("cut %d connections whose key is no longer allowed", count)
        self._reload()
        names, self._revoked = self._revoked, frozenset()
        if names:
            log.info("no longer allowed: %s", ", ".join(sorted(names)))
        return [KeysRevoked(names)] if names else []

    # ---- messages -------------------------------------------------------------------------------

    def owns(self, route: bytes) -> bool:
        """Whether a route leads through this door."""
        return route.startswith(MARK)

    def receive(self) -> tuple[bytes, Peer | None, list[bytes]]:
        """Return route, sender and frames of the next message; None: its key is no longer allowed.

        Raises zmq.Again when there is none.
        """
        sender, (route, *frames) = sockets.receive_with_sender(self.socket, DONTWAIT)
        peer = gate.peer_of(sender.user, self._allowed, needs_key=self._needs_key)
        if peer is None:
            self._cutter.mark(sender)
        return MARK + route, peer, frames

    def send(self, route: bytes, frames: list[Frame], *, is_tracked: bool = False) -> Any:
        """Send a message as `sockets.send` does; raises zmq.Again or EHOSTUNREACH as the socket does."""
        whole = [route.removeprefix(MARK), *frames]
        return sockets.send(self.socket, whole, DONTWAIT, is_tracked=is_tracked)
