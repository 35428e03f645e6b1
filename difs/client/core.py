"""The client's half of the protocol: which answer belongs to which call, retries, signs of life.

Sans-IO: messages in, effects out, time and chance passed in. `AsyncClient` performs the effects.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from difs.errors import (
    BY_CODE,
    BrokerLost,
    Cancelled,
    Denied,
    DifsError,
    Expired,
    IdConflict,
    InternalError,
    TooSlow,
)
from difs.messages import (
    Accepted,
    Beat,
    BrokerMessage,
    Cancel,
    ClientMessage,
    Done,
    Error,
    Explain,
    Explanation,
    Generate,
    Metrics,
    MetricsReport,
    Ping,
    Pong,
    Progress,
    Quarantine,
    QuarantineList,
    Release,
    Result,
    Status,
    StatusReport,
    Story,
    StoryReport,
    VariantList,
    Variants,
)

SILENCE_S = 3.0
"""A broker that owes us an answer and says nothing for so long is taken for lost."""
GRACE_S = 2.0
"""Beyond `timeout_s`, the client itself ends the call."""
RETRY_BASE_S, RETRY_CAP_S = 0.25, 8.0
MAX_RELEASED_AT_ONCE = 64


class Send(Struct, frozen=True):
    """Send a message to the broker."""

    message: ClientMessage


class Deliver(Struct, frozen=True):
    """Give an event to the caller of a request; after a Result or an error none follows."""

    request_id: str
    event: Accepted | Progress | Result | DifsError


class Reply(Struct, frozen=True):
    """Give the answer of a question to its asker."""

    ticket: int
    answer: BrokerMessage | DifsError


Effect = Send | Deliver | Reply


class _Stage(Enum):
    OPEN = "open"
    RESTING = "resting"


@dataclass(slots=True)
class _Call:
    message: Generate
    give_up_at: float
    retries_left: int
    sent_at: float
    epoch: int | None = None
    """Of the broker that accepted it; None before."""
    stage: _Stage = _Stage.OPEN
    retry_at: float = 0.0
    tries: int = 0


ANSWERS: dict[type, type] = {
    Status: StatusReport,
    Variants: VariantList,
    Ping: Pong,
    Explain: Explanation,
    Metrics: MetricsReport,
    Story: StoryReport,
    Quarantine: QuarantineList,
}
"""What answers each question; admin messages are answered by Done."""


class ClientCore:
    """All open calls and questions of one connection."""

    def __init__(self, now: float) -> None:
        """Start with nothing open."""
        self._calls: dict[str, _Call] = {}
        self._questions: deque[tuple[int, type, float]] = deque()
        self._leases: set[int] = set()
        self._lease_s = 30.0
        self._ping_at = 0.0
        self._heard_at = now
        self._cut_at: float | None = None
        """When the line was lost that is to be connected again; None: it stands."""
        self._tickets = 0
        self._is_shut_out = False

    # ---- the caller -----------------------------------------------------------------------------

    def generate(self, message: Generate, now: float, retries: int) -> list[Effect]:
        """Open a call; `retries` counts what may be tried again after a retryable error.

        Raises IdConflict when a call with this id is open already.
        """
        if message.request_id in self._calls:
            raise IdConflict("a call with this request_id is open", field="request_id")
        if self._is_shut_out:
            return [Deliver(message.request_id, _shut_out())]
        give_up_at = now + message.timeout_s + GRACE_S
        self._calls[message.request_id] = _Call(message, give_up_at, retries, now)
        return [Send(message)]

    def cancel(self, request_id: str) -> list[Effect]:
        """Give a call up; nothing more is delivered for it."""
        return [Send(Cancel(request_id))] if self._calls.pop(request_id, None) else []

    def ask(self, message: ClientMessage, now: float) -> tuple[int, list[Effect]]:
        """Ask a question; returns the ticket that its Reply will name."""
        self._tickets += 1
        if self._is_shut_out:
            return self._tickets, [Reply(self._tickets, _shut_out())]
        self._questions.append((self._tickets, ANSWERS.get(type(message), Done), now))
        return self._tickets, [Send(message)]

    def release(self, leases: list[int]) -> list[Effect]:
        """Give leases back."""
        held = [lease for lease in leases if lease in self._leases]
        self._leases.difference_update(held)
        return [
            Send(Release(tuple(held[i : i + MAX_RELEASED_AT_ONCE])))
            for i in range(0, len(held), MAX_RELEASED_AT_ONCE)
        ]

    def close(self) -> list[Effect]:
        """End everything that is open, as cancelled."""
        error = Cancelled("the client was closed")
        effects: list[Effect] = [Reply(ticket, error) for ticket, _, _ in self._questions]
        self._questions.clear()
        for name in list(self._calls):
            effects += [*self.cancel(name), Deliver(name, error)]
        return effects + self.release(list(self._leases))

    # ---- the broker -----------------------------------------------------------------------------

    def received(self, message: BrokerMessage, now: float, jitter: float) -> list[Effect]:
        """Take a message from the broker; `jitter` in 0..1 spreads retries."""
        self._heard_at = now
        epoch = getattr(message, "epoch", None)
        effects = [] if epoch is None else self._restarted(epoch, now, jitter)
        match message:
            case Accepted() | Progress():
                return effects + self._news(message)
            case Result():
                return effects + self._result(message)
            case Error():
                return self._error(message, now, jitter)
            case Beat():
                return effects
            case _:
                return effects + self._answer(message)

    def _news(self, message: Accepted | Progress) -> list[Effect]:
        call = self._calls.get(message.request_id)
        if call is None:
            return []
        if isinstance(message, Accepted):
            call.epoch = message.epoch
        return [Deliver(message.request_id, message)]

    def _result(self, message: Result) -> list[Effect]:
        found = [image.lease for image in message.images if isinstance(image.lease, int)]
        fresh = [lease for lease in found if lease not in self._leases]  # else somebody looks at them
        self._leases.update(fresh)
        self._lease_s = message.lease_s
        if self._calls.pop(message.request_id, None) is None:
            return self.release(fresh)  # cancelled meanwhile: nobody will look at it
        return [Deliver(message.request_id, message)]

    def _error(self, message: Error, now: float, jitter: float) -> list[Effect]:
        error = to_exception(message)
        if message.request_id is None and isinstance(error, Denied) and not self._questions:
            return self._end_all(error)
        if message.request_id is None and isinstance(error, TooSlow):
            return self._given_up(message, now, jitter)
        if message.request_id is None and self._questions:
            ticket, _, _ = self._questions.popleft()
            return [Reply(ticket, error)]
        if message.request_id is None or message.request_id not in self._calls:
            return []
        return self._failed(message.request_id, error, now, jitter)

    def _given_up(self, message: Error, now: float, jitter: float) -> list[Effect]:
        """Note that the broker dropped all that it owed us: what is open may be tried again."""
        effects: list[Effect] = [Reply(ticket, to_exception(message)) for ticket, _, _ in self._questions]
        self._questions.clear()
        for name in [name for name, call in self._calls.items() if call.stage is _Stage.OPEN]:
            error = to_exception(replace(message, request_id=name))
            effects += self._failed(name, error, now, jitter)
        return effects

    def shut_out(self) -> list[Effect]:
        """Note that the service does not accept our key, and will not: end everything, now and later."""
        self._is_shut_out = True
        return self._end_all(_shut_out())

    def line_lost(self, now: float) -> None:
        """Note that the connection is gone: what was sent over it may never have come."""
        self._cut_at = now

    def line_found(self, now: float) -> list[Effect]:
        """Send again what went over a connection that is gone; the broker has the same id join.

        What was sent since waits in the socket, and goes now. It is no retry: nobody refused anything.
        """
        cut_at, self._cut_at = self._cut_at, None
        effects: list[Effect] = []
        for call in self._calls.values():
            if cut_at is not None and call.stage is _Stage.OPEN and call.sent_at <= cut_at:
                call.sent_at, call.epoch = now, None
                effects.append(Send(call.message))
        return effects

    def _end_all(self, error: DifsError) -> list[Effect]:
        effects: list[Effect] = [Reply(ticket, error) for ticket, _, _ in self._questions]
        effects += [Deliver(name, error) for name in self._calls]
        self._questions.clear()
        self._calls.clear()
        return effects

    def _failed(self, request_id: str, error: DifsError, now: float, jitter: float) -> list[Effect]:
        """Rest and try again, where that may help and there is time; else deliver the error."""
        call = self._calls[request_id]
        seconds = rest_s(call.tries, error, jitter)
        may = error.retryable and call.retries_left > 0 and now + seconds < call.give_up_at - GRACE_S
        wants_to_know = call.message.requirements.on_infeasible == "reject"
        if not may or (wants_to_know and error.code == "overloaded"):
            del self._calls[request_id]
            return [Deliver(request_id, error)]
        call.stage, call.retry_at = _Stage.RESTING, now + seconds
        call.retries_left -= 1
        call.tries += 1
        call.epoch = None
        return []

    def _restarted(self, epoch: int, now: float, jitter: float) -> list[Effect]:
        """Notice that the broker is another than the one that accepted a call."""
        effects: list[Effect] = []
        for name, call in list(self._calls.items()):
            if call.stage is _Stage.OPEN and call.epoch not in (None, epoch):
                error = BrokerLost("the broker was restarted", request_id=name)
                effects += self._failed(name, error, now, jitter)
        return effects

    def _answer(self, message: BrokerMessage) -> list[Effect]:
        for entry in self._questions:
            if entry[1] is type(message):
                self._questions.remove(entry)
                return [Reply(entry[0], message)]
        return []

    # ---- time -----------------------------------------------------------------------------------

    def tick(self, now: float, jitter: float) -> list[Effect]:
        """Retry, give up, and keep leases alive, as time passes."""
        effects: list[Effect] = []
        while self._questions and now >= self._questions[0][2] + SILENCE_S:
            effects.append(Reply(self._questions.popleft()[0], _silent()))
        for name, call in list(self._calls.items()):
            if now >= call.give_up_at:
                del self._calls[name]
                words = f"no answer within timeout_s {call.message.timeout_s:g}"
                effects += [Send(Cancel(name)), Deliver(name, Expired(words, request_id=name))]
            elif call.stage is _Stage.RESTING and now >= call.retry_at:
                call.stage, call.sent_at = _Stage.OPEN, now
                effects.append(Send(call.message))
            elif call.stage is _Stage.OPEN and now >= self._last_sign(call) + SILENCE_S:
                effects += self._failed(name, _silent(), now, jitter)
        if self._leases and now >= self._ping_at:
            self._ping_at = now + self._lease_s / 3
            effects.append(Send(Ping()))
        return effects

    def _last_sign(self, call: _Call) -> float:
        """Return when the broker last showed that it has this call.

        It accepts a call at once: before that, what it says to others' calls proves nothing.
        """
        return call.sent_at if call.epoch is None else max(call.sent_at, self._heard_at)

    def next_wake(self, now: float) -> float | None:
        """Return when `tick` is due at the latest; None when nothing is open."""
        times = [asked_at + SILENCE_S for _, _, asked_at in self._questions]
        for call in self._calls.values():
            resting = call.stage is _Stage.RESTING
            due = call.retry_at if resting else self._last_sign(call) + SILENCE_S
            times.append(min(call.give_up_at, due))
        if self._leases:
            times.append(self._ping_at)
        return max(now, min(times)) if times else None


def _shut_out() -> Denied:
    return Denied("the service does not accept this key, or no longer; see `difs keys list` there")


def _silent() -> BrokerLost:
    return BrokerLost(f"the broker has said nothing for {SILENCE_S:g} s")


def rest_s(tries: int, error: DifsError, jitter: float) -> float:
    """Return the seconds to rest after so many tries and `error`; `jitter` in 0..1 spreads them."""
    seconds: float = min(RETRY_CAP_S, RETRY_BASE_S * 2**tries) * (0.5 + 0.5 * jitter)
    return max(seconds, error.retry_after_s or 0.0)


def to_exception(message: Error) -> DifsError:
    """Return the exception that an `error` message stands for."""
    error = BY_CODE.get(message.code, InternalError)(
        message.message,
        field=message.field,
        limit=message.limit,
        retry_after_s=message.retry_after_s,
        request_id=message.request_id,
    )
    error.retryable = message.retryable  # a newer broker may have codes that we do not know
    return error


def to_message(error: DifsError) -> Error:
    """Return the `error` message that stands for an exception."""
    return Error(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        request_id=error.request_id,
        field=error.field,
        limit=error.limit,
        retry_after_s=error.retry_after_s,
    )
