"""What operators ask: numbers, stories and the quarantine. One function a message."""

from difs.broker import admission, measures
from difs.broker.books import Books
from difs.broker.effects import TellClient
from difs.messages import (
    MAX_HAPPENINGS,
    BrokerMessage,
    Case,
    ClearQuarantine,
    Done,
    Metrics,
    MetricsReport,
    Quarantine,
    QuarantineList,
    Story,
    StoryReport,
)


def metrics(books: Books, route: bytes, message: Metrics, now: float) -> None:
    """Tell every number."""
    _tell(books, route, MetricsReport(books.epoch, measures.measure(books, now)))


def story(books: Books, route: bytes, message: Story, now: float) -> None:
    """Tell what happened to a request, or what happened last."""
    if message.request_id is None:
        found = books.chronicle.last(MAX_HAPPENINGS)
    else:
        found = tuple(books.story(message.request_id)[-MAX_HAPPENINGS:])
        if not found:
            words = "no open request has this id, nor one of those that ended last"
            refused = admission.refusal("not_found", words, field="request_id")
            _tell(books, route, refused)
            return
    _tell(books, route, StoryReport(books.epoch, found))


def quarantine(books: Books, route: bytes, message: Quarantine, now: float) -> None:
    """List the contents in quarantine."""
    cases = tuple(
        Case(case.digest, case.request_id, case.deaths, case.reason, case.until - now)
        for case in books.quarantine.cases(now)
    )
    _tell(books, route, QuarantineList(cases))


def clear_quarantine(books: Books, route: bytes, message: ClearQuarantine, now: float) -> None:
    """Set one content free, or all."""
    count = books.quarantine.clear(message.digest)
    if message.digest is not None and not count:
        words = f"{message.digest} is not in quarantine; `difs quarantine list` tells what is"
        _tell(books, route, admission.refusal("not_found", words, field="digest"))
        return
    books.chronicle.note(now, "quarantine cleared", detail=message.digest or "all")
    _tell(books, route, Done(f"{count} set free"))


def _tell(books: Books, route: bytes, message: BrokerMessage) -> None:
    books.effects.append(TellClient(route, message))
