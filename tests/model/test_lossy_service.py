"""The whole service on links that lose, in virtual time: see `tests.model.lossy`.

`python -m tests.model.lossy --seeds 10000 --from 1000` lives more lives.
"""

import logging
from collections.abc import Iterator

import pytest

from tests import builders
from tests.model.lossy.faults import Call, draw
from tests.model.lossy.ledger import Ledger
from tests.model.lossy.world import Studio, World, studio

SEEDS = 1000
REGRESSIONS = (1058, 1519, 1896)
"""Further seeds that once broke a promise: a second copy of a result gave back pictures that somebody
looked at. What a seed means changes with what is drawn, so each such defect has its own test, too.
"""


@pytest.fixture
def made() -> Iterator[Studio]:
    """Return segments; what goes wrong on purpose is not logged."""
    logging.disable()
    with studio() as found:
        yield found
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
def test_lossy_links_lose_no_request(made: Studio) -> None:
    broken = []
    for seed in (*range(SEEDS), *REGRESSIONS):
        plan = draw(seed)
        for problem in World(plan, made).run():
            broken.append(f"{plan}\n  {problem}\n  python -m tests.model.lossy --seeds 1 --from {seed}")
    assert not broken, "\n".join(broken[:10])


def test_a_seed_is_one_life_however_often_it_is_lived(made: Studio) -> None:
    for seed in range(20):
        lives = [World(draw(seed), made) for _ in range(2)]
        for life in lives:
            assert not life.run()
        first, again = ([story(life), life.time.now, life.time.events] for life in lives)
        assert first == again


def story(life: World) -> list[object]:
    """Return how each call ended, and all that the brokers noted."""
    ends = [(name, entry.asked_at, entry.ends) for name, entry in life.ledger.entries.items()]
    return [ends, *(state.news() for state in life.states)]


def test_seeds_try_everything(made: Studio) -> None:
    """What never happens would prove nothing."""
    plans = [draw(seed) for seed in range(200)]
    assert {blow.kind.name for plan in plans for blow in plan.blows} >= {"KILL_BROKER", "STEAL_CALLER"}
    lives = [World(plan, made) for plan in plans[:80]]
    for life in lives:
        life.run()
    links = [link for life in lives for link in life.links]
    assert sum(link.lost for link in links) > 100
    assert sum(link.doubled for link in links) > 100
    ends = {how for life in lives for how in life.ledger.counts}
    assert ends >= {"result", "expired", "actor_lost", "unavailable", "cancelled"}
    counts = [state.books.counts for life in lives for state in life.states]
    for what in ("late_reports", "actors_lost", "clients_lost", "recalled", "leases_timed_out"):
        assert sum(count[what] for count in counts), what


# ---- the ledger ---------------------------------------------------------------------------------


def asked(*names: str, excused: tuple[str, ...] = ()) -> Ledger:
    """Return a ledger with calls that may take 4 s."""
    ledger = Ledger()
    for name in names:
        message = builders.generate(name, timeout_s=4.0)
        ledger.asked("ann", Call(1.0, message, 0, None, 0.0, frozenset(excused)), 1.0)
    return ledger


def test_a_right_picture_and_an_excused_error_break_nothing() -> None:
    ledger = asked("a", "b", "c", "d", excused=("expired",))
    ledger.ended("a", "result", 2.0)
    ledger.ended("b", "expired", 7.0)
    ledger.ended("c", "cancelled", 2.0, is_closing=True)
    ledger.given_up("d")
    assert not ledger.close()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("another's picture", "nothing excuses"),
        ("actor_lost", "nothing excuses"),
        ("cancelled", "nothing excuses"),
        ("lease_lost", "written over"),
    ],
)
def test_another_end_breaks_a_promise(how: str, words: str) -> None:
    ledger = asked("a", excused=("expired",))
    ledger.ended("a", how, 2.0)
    (problem,) = ledger.close()
    assert words in problem


def test_what_never_ends_ends_twice_or_ends_late_breaks_a_promise() -> None:
    ledger = asked("never", "twice", "late", "unwanted")
    ledger.ended("twice", "result", 2.0)
    ledger.ended("twice", "result", 2.0)
    ledger.ended("late", "result", 7.2)
    ledger.given_up("unwanted")
    ledger.ended("unwanted", "result", 2.0)
    problems = ledger.close()
    assert [problem.split()[1] for problem in problems] == ["late", "unwanted", "never", "twice"]


def test_a_dead_caller_is_owed_nothing() -> None:
    ledger = asked("a")
    ledger.wondered("ann", 1)
    ledger.died("ann")
    assert not ledger.close()


def test_a_question_is_answered_once() -> None:
    ledger = asked()
    for ticket, answers in ((1, 0), (2, 1), (3, 2)):
        ledger.wondered("ann", ticket)
        for _ in range(answers):
            ledger.replied("ann", ticket)
    assert [problem.split()[1] for problem in ledger.close()] == ["1", "3"]
