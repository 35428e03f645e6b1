"""difs.doors.jobs and difs.doors.native: what is known of a request, for how long, and to whom."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.client import requests
from difs.doors import jobs, native
from difs.doors.answers import refused
from difs.doors.jobs import Job, Jobs, State
from difs.doors.orders import Outcome, Picture
from difs.errors import Cancelled, IdConflict, InvalidRequest, NotFound, Overloaded
from difs.messages import Accepted, Preview, Progress
from tests import builders

ACCEPTED = Accepted("r1", 1, 1, builders.plan())


def outcome(nbytes: int = 4) -> Outcome:
    """Return an outcome with a picture of so many bytes."""
    picture = Picture(bytes(nbytes), "", "png", 5, 64, 64, "")
    timings = builders.result().timings
    return Outcome("r1", (picture,), builders.plan(), timings, "bitwise", 0.0, 1, ())


def job(request_id: str = "r1", caller: str = "", n: int = 1) -> Job:
    """Return a job that began at 0."""
    return Job(caller, request_id, n, 0.0)


def test_a_job_goes_from_queued_to_done() -> None:
    one = job()
    assert one.state is State.QUEUED
    one.heard(ACCEPTED, 1.0)
    assert one.left_s(1.1) == pytest.approx(0.13)
    one.heard(Progress("r1", 0, 5, 20, Preview(1, 1, b"rgb")), 1.2)
    assert (one.state, one.share(), one.step) == (State.RUNNING, 0.25, 5)
    one.done(outcome(), 2.0)
    assert (one.state, one.left_s(2.0), one.preview) == (State.DONE, None, None)


def test_a_cancelled_job_is_not_a_failed_one() -> None:
    one, other = job(), job()
    one.failed(refused(Cancelled("gone")), 1.0)
    other.failed(refused(Overloaded("full")), 1.0)
    assert (one.state, other.state) == (State.CANCELLED, State.FAILED)


def test_every_event_is_news() -> None:
    one, versions = job(), [0]
    for event in (ACCEPTED, Progress("r1", 0, 1, 20), Progress("r1", 0, 2, 20)):
        one.heard(event, 0.0)
        versions.append(one.version)
    one.done(outcome(), 1.0)
    assert [*versions, one.version] == [0, 1, 2, 3, 4]


# ---- the book -------------------------------------------------------------------------------------


def test_nobody_sees_the_job_of_another_caller() -> None:
    book = Jobs()
    book.add(job(caller="ann"))
    assert book.find("ann", "r1").caller == "ann"
    with pytest.raises(NotFound):
        book.find("bob", "r1")
    book.add(job(caller="bob"))
    with pytest.raises(IdConflict):
        book.add(job(caller="bob"))


def test_ended_jobs_are_dropped_after_a_while_and_open_ones_are_not() -> None:
    book, ended, open_ = Jobs(), job("ended"), job("open")
    book.add(ended)
    book.add(open_)
    ended.done(outcome(), 1.0)
    book.sweep(1.0 + jobs.KEPT_S)
    assert list(book) == [ended, open_]
    book.sweep(1.1 + jobs.KEPT_S)
    assert list(book) == [open_]


@settings(max_examples=60)
@given(st.lists(st.integers(1, jobs.KEPT_BYTES // 3), min_size=1, max_size=12))
def test_pictures_kept_are_bounded_and_the_newest_stay(sizes: list[int]) -> None:
    book, made = Jobs(), []
    for i, size in enumerate(sizes):
        one = job(f"r{i}")
        book.add(one)
        one.state, one.ended_at, one.outcome = State.DONE, float(i), _Heavy(size)  # type: ignore[assignment]
        made.append(one)
    book.sweep(float(len(sizes)))
    kept = list(book)
    assert sum(one.nbytes() for one in kept) <= jobs.KEPT_BYTES
    assert kept == made[len(made) - len(kept) :]
    assert len(kept) == len(made) or sum(m.nbytes() for m in made[-len(kept) - 1 :]) > jobs.KEPT_BYTES


class _Heavy:
    """An outcome whose picture only says how large it is."""

    def __init__(self, nbytes: int) -> None:
        self.pictures = (self,)
        self.data, self.base64 = range(nbytes), ""


# ---- the translation ------------------------------------------------------------------------------


def test_a_body_is_the_protocols_generate() -> None:
    tree: dict[str, Any] = {
        "prompt": "red apple",
        "request_id": "mine",
        "width": 64,
        "height": 80,
        "requirements": {"latency_s": 2.0, "quality": "high"},
        "overrides": {"variant": "tiny", "adapters": [{"name": "ink", "weight": 0.5}]},
        "delivery": {"format": "webp", "compression": 60, "preview_every": 3, "metadata": False},
    }
    body = json.dumps(tree).encode()
    made = native.order(native.read(body), body)
    asked = requests.build(made.prompt, made.wishes, progress=True)
    assert asked.request_id == "mine"
    assert (asked.width, asked.height) == (64, 80)
    assert (asked.requirements.latency_s, asked.requirements.quality) == (2.0, "high")
    assert asked.overrides.adapters[0].weight == 0.5
    assert (asked.delivery.preview_every, asked.delivery.metadata) == (3, False)
    assert (made.form, made.compression) == ("webp", 60)


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({"prompt": "x", "requirements": {"latency_s": -1}}, "requirements.latency_s"),
        ({"prompt": "x", "request_id": "../../etc"}, "request_id"),
        ({"prompt": "x", "delivery": {"format": "raw"}}, "delivery.format"),
        ({"prompt": "x", "overrides": {"adapters": [{"name": "A/B"}]}}, "overrides.adapters[0].name"),
        ({}, "prompt"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(tree: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        native.read(json.dumps(tree).encode())
    assert caught.value.field == field


def test_a_view_tells_where_the_pictures_are() -> None:
    one = job()
    one.heard(ACCEPTED, 0.5)
    assert native.view(one, 0.6)["predicted_left_s"] == pytest.approx(0.13)
    one.done(outcome(), 2.0)
    shown = native.view(one, 9.0)
    assert (shown["state"], shown["elapsed_s"]) == ("done", 2.0)
    assert shown["result"]["images"][0]["url"] == "/difs/v1/requests/r1/images/0"
