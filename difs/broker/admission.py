"""The door: what is refused before it costs anything. Pure checks; each returns a refusal or None."""

from difs.broker.books import Books
from difs.broker.events import Peer
from difs.broker.records import Client
from difs.errors import BY_CODE, without_paths
from difs.messages import (
    DEFAULT_PRIORITY,
    MAX_PIXEL_STEPS,
    ClientMessage,
    Error,
    Explain,
    Generate,
    Plan,
)
from difs.policy.base import Reject
from difs.shm import layout

CHANNELS = 3


def refusal(
    code: str,
    message: str,
    *,
    request_id: str | None = None,
    field: str | None = None,
    limit: str | None = None,
    retry_after_s: float | None = None,
) -> Error:
    """Return an `error` message whose retryability is that of its code; it tells no paths."""
    return Error(
        code=code,
        message=without_paths(message),
        retryable=BY_CODE[code].retryable,
        request_id=request_id,
        field=field,
        limit=limit,
        retry_after_s=retry_after_s,
    )


def from_reject(reject: Reject, request_id: str) -> Error:
    """Return the `error` message of a policy's refusal."""
    code = reject.code if reject.code in BY_CODE else "internal"
    return refusal(
        code,
        reject.reason,
        request_id=request_id,
        field=reject.field,
        limit=reject.limit,
        retry_after_s=reject.retry_after_s,
    )


def check_peer(peer: Peer, message: ClientMessage) -> Error | None:
    """Refuse wishes that this peer may not have, whatever they are for."""
    asked = message.request if isinstance(message, Explain) else message
    return _check_wishes(peer, asked) if isinstance(asked, Generate) else None


def _check_wishes(peer: Peer, asked: Generate) -> Error | None:
    name = asked.request_id
    if asked.delivery.mode == "shm" and not peer.is_local:
        words = "delivery.mode: shared memory is for local clients; ask for inline"
        return refusal("unsupported", words, request_id=name, field="delivery.mode")
    if asked.requirements.priority > DEFAULT_PRIORITY and not peer.is_admin:
        return refusal(  # priorities are strict: whoever may raise his own needs no share
            "denied",
            f"requirements.priority: above {DEFAULT_PRIORITY} is for local programs and admins' keys",
            request_id=name,
            field="requirements.priority",
            limit=f"<= {DEFAULT_PRIORITY}",
        )
    return None


def check_entry(books: Books, client: Client, message: Generate, now: float) -> Error | None:
    """Refuse what the service takes from nobody now, not from this client, or in this content."""
    if books.draining_until is not None:
        words = "the service is shutting down"
        return refusal("draining", words, request_id=message.request_id, retry_after_s=5.0)
    return check_quarantine(books, message, now) or _check_capacity(books, client, message)


def check_quarantine(books: Books, message: Generate, now: float) -> Error | None:
    """Refuse a content that ended too many actors, until its time is over."""
    case = books.quarantine.find(message, now)
    if case is None:
        return None
    words = (
        f"this content ended {case.deaths} actors and is in quarantine for {case.until - now:.0f} s more;"
        f" `difs quarantine clear {case.digest}` ends that"
    )
    return refusal("quarantined", words, request_id=message.request_id, retry_after_s=case.until - now)


def _check_capacity(books: Books, client: Client, message: Generate) -> Error | None:
    """Refuse what this client, or the whole queue, has no room for."""
    name = message.request_id
    outstanding = books.outstanding(client)
    if outstanding >= books.rules.max_outstanding:
        return refusal(
            "too_many_outstanding",
            f"{outstanding} requests of this client are open",
            request_id=name,
            limit=f"<= {books.rules.max_outstanding}",
            retry_after_s=_soonest(books),
        )
    if len(books.clients) > books.rules.max_clients and not client.open:
        return refusal(
            "overloaded",
            f"{len(books.clients)} clients have open requests",
            request_id=name,
            limit=f"<= {books.rules.max_clients} clients",
            retry_after_s=_soonest(books),
        )
    if books.queued >= books.rules.max_queued:
        return refusal(
            "overloaded",
            f"{books.queued} requests are queued",
            request_id=name,
            limit=f"<= {books.rules.max_queued}",
            retry_after_s=_soonest(books),
        )
    return None


def _soonest(books: Books) -> float:
    return max(0.1, min((a.backlog_s for a in books.ready), default=1.0))


def check_plan(books: Books, message: Generate, plan: Plan) -> Error | None:
    """Refuse a plan that can never run: too much work, no slots for it, or no time."""
    name = message.request_id
    work = plan.width * plan.height * plan.steps * message.n
    if work > MAX_PIXEL_STEPS:
        return refusal(
            "invalid_request",
            f"steps: width x height x steps x n is {work}",
            request_id=name,
            field="overrides.steps",
            limit=f"<= {MAX_PIXEL_STEPS}",
        )
    nbytes = slot_bytes(message, plan)
    if not books.pools[plan.device].could_ever_hold(message.n, nbytes):
        return refusal(
            "invalid_request",
            f"n: shared memory has no {message.n} slots of {nbytes} bytes for"
            f" {plan.width}x{plan.height}; ask for less, or raise shm.slots",
            request_id=name,
            field="n",
        )
    predicted = plan.prediction
    if predicted.source == "measured" and predicted.total_s > message.timeout_s:
        own_s = predicted.total_s - predicted.queue_s
        if own_s > message.timeout_s:
            return refusal(
                "infeasible",
                f"timeout_s: {own_s:.1f} s predicted at {plan.steps} steps",
                request_id=name,
                field="timeout_s",
                limit=f">= {own_s:.1f}",
            )
        return refusal(
            "overloaded",
            f"{predicted.total_s:.1f} s predicted, timeout_s is {message.timeout_s:g}",
            request_id=name,
            field="timeout_s",
            retry_after_s=predicted.total_s - message.timeout_s,
        )
    return None


def slot_bytes(message: Generate, plan: Plan) -> int:
    """Return the bytes to lease for each image of a planned request."""
    encoded = message.delivery.format != "raw"
    return layout.needed_bytes(plan.height, plan.width, CHANNELS, encoded=encoded)
