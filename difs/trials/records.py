"""The lines of a trial's file: frozen values, told apart by their `type`. No files here."""

from typing import Any

import msgspec
from msgspec import Struct

from difs.errors import BY_CODE, BrokerLost, CapacityError, DifsError, RequestError
from difs.messages import StatusReport
from difs.trials.workload import Workload

FORMAT = 1
UNFINISHED = "unfinished"
"""The code of a request that was open when the trial was interrupted: nobody knows how it would end."""
PHASES = ("late", "queue", "encode", "steps", "decode", "between", "hand-over")


class Header(Struct, frozen=True, tag="trial"):
    """The first line: what was asked of whom, and all that a reader must know to judge the figures."""

    format: int
    began: str
    """Date and time, UTC."""
    command: str
    workload: Workload
    digest: str
    """Of what is asked and when; see `workload.digest`."""
    requests: int
    """That count."""
    window_s: float
    """Seconds in which they are due."""
    generator: dict[str, Any]
    """The machine that asked, and its packages."""
    service: StatusReport
    """As it was when the trial began."""
    settings: dict[str, Any] | None = None
    """The service's, where it runs on the same machine; no paths and no keys."""


class Request(Struct, frozen=True, omit_defaults=True, tag="request"):
    """One request and what came of it. Moments in seconds from the first that counts."""

    number: int
    """Negative: warm-up."""
    kind: int
    due_s: float
    """When it was meant to be sent: its latency counts from here."""
    sent_s: float
    ended_s: float
    """When its pictures were in the client's hands and their checksums compared; or when it failed."""
    code: str = ""
    """Why there are no pictures; empty: there are."""
    why: str = ""
    accepted: bool = False
    predicted_s: float | None = None
    """Its total, as first told; None: it was never planned."""
    promised: bool | None = None
    """Whether its latency was accepted as one that is kept; None: it stated none."""
    variant: str = ""
    steps: int = 0
    device: str = ""
    memory_mode: str = ""
    quality: float | None = None
    """Expected of what was painted, at last; None: not known for its variant."""
    attempts: int = 0
    queue_s: float = 0.0
    """Waited at the broker. This and the next five: as the service measured them."""
    encode_s: float = 0.0
    steps_s: float = 0.0
    decode_s: float = 0.0
    deliver_s: float = 0.0
    total_s: float = 0.0
    shared_by: float = 1.0

    @property
    def is_counted(self) -> bool:
        """Whether it is told of: neither warm-up nor cut off."""
        return self.number >= 0 and self.code != UNFINISHED

    @property
    def is_delivered(self) -> bool:
        """Whether it got its pictures."""
        return not self.code

    @property
    def is_refused(self) -> bool:
        """Whether the service said at once that it would not serve it."""
        kind = BY_CODE.get(self.code, DifsError)
        answered = issubclass(kind, (RequestError, CapacityError)) and kind is not BrokerLost
        return answered and not self.accepted

    @property
    def latency_s(self) -> float:
        """Return the seconds from when it was due until its end."""
        return self.ended_s - self.due_s

    def phases(self) -> dict[str, float]:
        """Return the parts of a delivered request's latency, which they add up to.

        `late`: the generator's own fault. `between`: on the device while others had their turn, and
        messages on their way. `hand-over`: from the last decoded image to pictures in the client's hands.
        """
        named = self.queue_s + self.encode_s + self.steps_s + self.decode_s + self.deliver_s
        seconds = (
            self.sent_s - self.due_s,
            self.queue_s,
            self.encode_s,
            self.steps_s,
            self.decode_s,
            self.total_s - named,
            self.deliver_s + (self.ended_s - self.sent_s - self.total_s),
        )
        return dict(zip(PHASES, seconds, strict=True))


class Seen(Struct, frozen=True, omit_defaults=True):
    """A device at one moment."""

    device: str
    residents: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    running: int = 0
    queued: int = 0
    total_bytes: int = 0
    """Of memory; 0: there was no reading."""
    own_bytes: int = 0
    other_bytes: int = 0
    utilisation: float | None = None


class Look(Struct, frozen=True, omit_defaults=True, tag="look"):
    """The service at one moment; `open` is how many requests of the trial had not ended."""

    at_s: float
    open: int
    queued: int
    running: int
    devices: tuple[Seen, ...]


class End(Struct, frozen=True, omit_defaults=True, tag="end"):
    """The last line."""

    at_s: float
    cpu_s: float
    """That the generator's process used, from the first request on."""
    interrupted: bool = False
    missed_looks: int = 0
    """How often the service was asked for its state and did not tell."""


Line = Header | Request | Look | End


def look_of(report: StatusReport, at_s: float, open_requests: int) -> Look:
    """Return what is kept of a status report."""
    seen = []
    for device in report.devices:
        reading = device.reading
        total = own = other = 0
        if reading is not None:
            total, own = reading.memory_total_bytes, reading.memory_own_bytes
            other = max(0, total - reading.memory_free_bytes - own)
        seen.append(
            Seen(
                device.device,
                device.residents,
                device.loading,
                device.parked,
                device.running,
                device.queued,
                total,
                own,
                other,
                None if reading is None else reading.utilisation,
            )
        )
    return Look(round(at_s, 3), open_requests, report.queued, report.running, tuple(seen))


class Trial(Struct, frozen=True):
    """A whole trial."""

    name: str
    header: Header
    requests: tuple[Request, ...]
    """In the order in which they were due."""
    looks: tuple[Look, ...]
    end: End | None
    """None: it was killed."""

    @property
    def counted(self) -> list[Request]:
        """Return the requests that are told of."""
        return [request for request in self.requests if request.is_counted]

    @property
    def window_s(self) -> float:
        """Return the seconds in which requests were due; less than asked for where it was cut off.

        Rates are of what ended in these: what is worked off afterwards says nothing of a rate.
        """
        if self.end is not None and not self.end.interrupted:
            return self.header.window_s
        last_s = max((r.ended_s for r in self.requests if r.number >= 0), default=0.0)
        return min(self.header.window_s, last_s if self.end is None else max(0.0, self.end.at_s))

    @property
    def span_s(self) -> float:
        """Return the seconds from the first moment that counts until the last end."""
        return max([self.window_s, *(r.ended_s for r in self.requests if r.number >= 0)])


def assemble(name: str, lines: "list[Line]") -> Trial | None:
    """Return the trial that lines tell of, the header first; None without one."""
    if not lines or not isinstance(lines[0], Header):
        return None
    requests = [line for line in lines if isinstance(line, Request)]
    ends = [line for line in lines if isinstance(line, End)]
    return Trial(
        name,
        lines[0],
        tuple(sorted(requests, key=lambda request: request.number)),
        tuple(line for line in lines if isinstance(line, Look)),
        ends[-1] if ends else None,
    )


encode = msgspec.json.Encoder().encode
decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
