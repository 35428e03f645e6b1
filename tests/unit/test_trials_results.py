"""A trial's file: every line comes back as it was, and what was cut off costs only itself."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.errors import ConfigError, InvalidRequest
from difs.trials import results
from difs.trials.records import PHASES, UNFINISHED, Line, Request, decoder, encode
from difs.trials.results import Keeper
from tests.trials import delivered, looks, lost, trial

SECONDS = st.floats(0, 1000)
REQUESTS = st.builds(
    Request,
    number=st.integers(-100, 1000),
    kind=st.integers(0, 9),
    due_s=SECONDS,
    sent_s=SECONDS,
    ended_s=SECONDS,
    code=st.sampled_from(["", "expired", UNFINISHED]),
    predicted_s=st.none() | SECONDS,
    promised=st.none() | st.booleans(),
    queue_s=SECONDS,
    encode_s=SECONDS,
    steps_s=SECONDS,
    decode_s=SECONDS,
    deliver_s=SECONDS,
    total_s=SECONDS,
)


@settings(max_examples=100)
@given(REQUESTS)
def test_a_line_comes_back_as_it_was(request: Request) -> None:
    assert decoder.decode(encode(request)) == request


@settings(max_examples=100)
@given(REQUESTS)
def test_the_phases_add_up_to_the_latency(request: Request) -> None:
    assert sum(request.phases().values()) == pytest.approx(request.latency_s, abs=1e-6)
    assert tuple(request.phases()) == PHASES


def test_a_refusal_is_told_from_a_failure() -> None:
    assert lost(1, "overloaded").is_refused
    assert lost(1, "infeasible").is_refused
    assert not lost(1, "broker_lost").is_refused, "nobody answered"
    assert not lost(1, "expired", accepted=True).is_refused
    assert not lost(1, "unexpected").is_refused
    assert not delivered(1, 0.2).is_refused


def test_a_trial_is_read_as_it_was_kept(tmp_path: Path) -> None:
    made = trial([delivered(0, 0.3), lost(1, "overloaded")])
    path = tmp_path / "new" / "by-hand.jsonl"
    with Keeper(path) as keeper:
        assert made.end is not None
        lines: list[Line] = [made.header, *reversed(made.requests), *looks(), made.end]
        for line in lines:
            keeper.keep(line)
    assert results.read(path) == keeper.trial() == made


def test_a_trial_that_was_killed_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    made, path = trial([delivered(0, 0.3)]), tmp_path / "by-hand.jsonl"
    lines = b"\n".join(encode(line) for line in (made.header, made.requests[0], made.requests[0]))
    path.write_bytes(lines[:-20])
    found = results.read(path)
    assert found.requests == made.requests
    assert found.end is None


def test_nothing_is_written_over_and_nothing_empty_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Keeper(path):
        assert path.exists()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(InvalidRequest, match="is there already"):
        Keeper(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin"),
        ("{}\n", "line 1"),
        ('{"type":"end","at_s":1,"cpu_s":1}\n', "does not begin"),
        ('{"type":"trial","format":1}\n', "line 1"),
        ("\x00\n", "line 1"),
        ("[" * 100_000 + "\n", "line 1"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        results.read(path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.jsonl"
    header = msgspec.structs.replace(trial([]).header, format=99)
    path.write_bytes(encode(header) + b"\n")
    with pytest.raises(ConfigError, match="format 99"):
        results.read(path)


def test_a_request_of_no_kind_is_refused(tmp_path: Path) -> None:
    path, made = tmp_path / "strange.jsonl", trial([delivered(0, 0.3, kind=3)])
    path.write_bytes(b"\n".join(encode(line) for line in (made.header, *made.requests)) + b"\n")
    with pytest.raises(ConfigError, match="request 0 is of a kind"):
        results.read(path)
