"""From the books to numbers: a pure function, asked by `metrics`. It changes nothing."""

from collections.abc import Iterable, Iterator, Mapping

from difs.broker.books import Books
from difs.broker.records import Actor
from difs.broker.states import ActorState
from difs.broker.tally import Histogram
from difs.messages import Family, Sample
from difs.version import __version__


def measure(books: Books, now: float) -> tuple[Family, ...]:
    """Return every number that there is; names and units are Prometheus' (base units)."""
    return (*_counters(books), *_histograms(books), *_levels(books, now))


def _counted(name: str, text: str, counts: Mapping[str, int], label: str) -> Family:
    samples = tuple(Sample(count, {label: key}) for key, count in sorted(counts.items()))
    return Family(name, "counter", text, samples)


def _pairs(
    name: str, text: str, counts: Mapping[tuple[str, str], int], labels: tuple[str, str]
) -> Family:
    first, second = labels
    samples = tuple(Sample(n, {first: a, second: b}) for (a, b), n in sorted(counts.items()))
    return Family(name, "counter", text, samples)


def _counters(books: Books) -> Iterator[Family]:
    tally = books.tally
    yield _pairs("difs_requests_total", "Requests that ended.", tally.requests, ("model", "outcome"))
    yield _counted(
        "difs_admission_rejections_total", "Requests not accepted.", tally.rejections, "reason"
    )
    yield _counted("difs_attempts_total", "Dispatches that ended.", tally.attempts, "end")
    yield _pairs(
        "difs_actor_restarts_total", "Ends of actor processes.", tally.exits, ("actor", "reason")
    )
    yield _counted("difs_protocol_errors_total", "Messages that were refused.", tally.misspoken, "kind")


def _histograms(books: Books) -> Iterator[Family]:
    tally = books.tally
    yield _seen("difs_request_duration_seconds", "From arrival to the end.", tally.durations, "outcome")
    yield _seen("difs_step_seconds", "Mean seconds of a request's steps.", tally.steps_s, "model")
    for name, text, one in (
        ("difs_queue_seconds", "From arrival to the first dispatch.", tally.queue_s),
        ("difs_batch_size", "Mean images in a request's calls.", tally.rows),
    ):
        yield Family(name, "histogram", text, (one.sample(),))


def _seen(name: str, text: str, found: Mapping[str, Histogram], label: str) -> Family:
    samples = tuple(one.sample(**{label: key}) for key, one in sorted(found.items()))
    return Family(name, "histogram", text, samples)


def _levels(books: Books, now: float) -> Iterator[Family]:
    yield _gauge(
        "difs_build_info", "Always 1.", [Sample(1, {"version": __version__, "policy": books.policy.name})]
    )
    depths = [Sample(len(actor.queue), {"actor": actor.device}) for actor in _actors(books)]
    waiting = Sample(len(books.waiting), {"actor": "none"})
    yield _gauge("difs_queue_depth", "Requests that wait.", [*depths, waiting])
    yield _gauge("difs_queue_bytes", "Texts of open requests.", [Sample(_text_bytes(books))])
    yield _gauge("difs_clients", "Clients with open requests or leases.", [Sample(len(books.clients))])
    in_quarantine = len(books.quarantine.cases(now))
    yield _gauge("difs_quarantined", "Contents in quarantine.", [Sample(in_quarantine)])
    yield _gauge("difs_actor_state", "1 where an actor is in that state.", _states(books))
    ages = [Sample(now - actor.last_heard, {"actor": actor.device}) for actor in _actors(books)]
    yield _gauge("difs_heartbeat_age_seconds", "Since an actor was heard of.", ages)
    yield _gauge("difs_shm_slots", "Slots of shared memory.", _slots(books))
    yield _gauge("difs_gpu_memory_bytes", "Memory of a device.", _memory(books))


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(name, "gauge", text, tuple(samples))


def _actors(books: Books) -> list[Actor]:
    return sorted(books.actors.values(), key=lambda actor: actor.device)


def _text_bytes(books: Books) -> int:
    texts = (t for r in books.requests.values() for t in (r.message.prompt, r.message.negative_prompt))
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _states(books: Books) -> Iterator[Sample]:
    for device in sorted(books.pools):
        actor = books.by_device.get(device)
        now_in = ActorState.LOST if actor is None else actor.state
        for state in ActorState:
            yield Sample(float(state is now_in), {"actor": device, "state": state.value})


def _slots(books: Books) -> Iterator[Sample]:
    for device, pool in sorted(books.pools.items()):
        held = sum(hold.device == device for hold in books.holds.values())
        leased = pool.total - pool.free - held
        for state, count in (("free", pool.free), ("leased", leased), ("sealed", held)):
            yield Sample(count, {"actor": device, "state": state})


def _memory(books: Books) -> Iterator[Sample]:
    for actor in _actors(books):
        if (found := actor.reading) is not None:
            for kind, nbytes in (
                ("total", found.memory_total_bytes),
                ("used", found.memory_used_bytes),
                ("own", found.memory_own_bytes),
                ("free", found.memory_free_bytes),
            ):
                yield Sample(nbytes, {"actor": actor.device, "kind": kind})
