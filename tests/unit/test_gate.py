"""difs.broker.gate: who may come in, and as whom. No sockets."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs.broker import gate
from difs.broker.events import Peer
from difs.key_files import Listed

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ANNA = Listed("anna", "a" * 40, "2026-01-01T00:00:00+00:00")
BOSS = Listed("boss", "b" * 40, "2026-01-01T00:00:00+00:00", is_admin=True)
ALLOWED = {KEY.hex(): ANNA}


def question(*brought: bytes, mechanism: bytes = b"CURVE", **changes: bytes) -> list[bytes]:
    version, domain = changes.get("version", b"1.0"), changes.get("domain", b"difs")
    return [version, b"17", domain, b"10.0.0.9", b"", mechanism, *brought]


def status(asked: list[bytes], *, needs_key: bool = True) -> bytes:
    return gate.judge(asked, ALLOWED, needs_key=needs_key).reply[2]


def test_an_allowed_key_comes_in_under_its_own_name() -> None:
    verdict = gate.judge(question(KEY), ALLOWED, needs_key=True)
    assert verdict.reply == [b"1.0", b"17", b"200", b"OK", KEY.hex().encode(), b""]
    assert verdict.listed == ANNA
    assert gate.peer_of(KEY.hex(), ALLOWED, needs_key=True) == Peer(
        "anna", is_local=False, is_admin=False
    )


def test_a_key_that_is_not_listed_stays_out() -> None:
    verdict = gate.judge(question(OTHER), ALLOWED, needs_key=True)
    assert verdict.reply[2] == b"400"
    assert verdict.listed is None
    assert b"anna" not in b"".join(verdict.reply)


@pytest.mark.parametrize(
    "asked",
    [
        question(mechanism=b"NULL"),
        question(b"anna", b"password", mechanism=b"PLAIN"),
        question(KEY, mechanism=b"NULL"),
        question(KEY, KEY),
        question(),
        question(b""),
        question(KEY.hex().encode()),
    ],
)
def test_other_mechanisms_and_odd_credentials_stay_out(asked: list[bytes]) -> None:
    assert status(asked) == b"400"


@pytest.mark.parametrize(
    "asked", [question(KEY, version=b"2.0"), question(KEY, domain=b"*"), question(KEY)[:5], [b"1.0"], []]
)
def test_a_question_of_another_kind_is_not_answered_with_yes(asked: list[bytes]) -> None:
    assert status(asked) == b"500"


def test_where_no_key_is_needed_nobody_is_an_administrator() -> None:
    verdict = gate.judge(question(mechanism=b"NULL"), {}, needs_key=False)
    assert verdict.reply[2] == b"200"
    assert status(question(KEY), needs_key=False) == b"400"
    assert gate.peer_of(verdict.reply[4].decode(), {}, needs_key=False) == Peer("", False, False)


@pytest.mark.parametrize("needs_key", [True, False])
@pytest.mark.parametrize("user", [None, "", "anna", OTHER.hex(), KEY, 5])
def test_a_message_without_a_known_sender_is_nobodys(user: Any, needs_key: bool) -> None:
    assert gate.peer_of(user, ALLOWED, needs_key=needs_key) is None


def test_a_message_of_nobody_is_refused_where_keys_are_needed() -> None:
    assert gate.peer_of(gate.NOBODY, ALLOWED, needs_key=True) is None


def test_an_administrators_key_says_so() -> None:
    peer = gate.peer_of(KEY.hex(), {KEY.hex(): BOSS}, needs_key=True)
    assert peer == Peer("boss", is_local=False, is_admin=True)


def test_a_new_key_under_an_old_name_is_another_key() -> None:
    assert gate.revoked({KEY.hex(): ANNA}, {OTHER.hex(): ANNA}) == {"anna"}
    assert gate.revoked({KEY.hex(): ANNA}, {KEY.hex(): ANNA, OTHER.hex(): BOSS}) == frozenset()


@settings(max_examples=300)
@given(asked=st.lists(st.binary(max_size=40) | st.sampled_from(question(KEY)), max_size=9))
def test_whatever_is_asked_there_is_an_answer_and_yes_only_to_a_listed_key(asked: list[bytes]) -> None:
    verdict = gate.judge(asked, ALLOWED, needs_key=True)
    assert len(verdict.reply) == 6
    assert (verdict.reply[2] == b"200") == (asked[5:] == [b"CURVE", KEY] and verdict.listed is ANNA)
