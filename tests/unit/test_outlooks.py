"""What the broker foresees of an actor: shared calls, its turns, and what came of earlier predictions."""

from typing import Any

import pytest

from difs.actor_messages import Costs, Counted, Execute, Leaving, Pulse, RowCost
from difs.broker import outlooks
from difs.broker.records import LEEWAY, NO_OUTLOOK
from difs.foresight import MOST
from difs.messages import Accepted, Explain, Explanation
from difs.places import CROWDED
from difs.policy.lateness import ENOUGH
from tests.builders import House, finished, generate, only, reading, resident, served, stepped, told

SHARING = Costs(64 * 64, 0.01, (RowCost(1, 0.01), RowCost(2, 0.012), RowCost(4, 0.016)), 0.02, 1.0)


def sharing(**options: Any) -> House:
    house = served(now=100.0, credits=4, **options)
    for actor in house.state.books.ready:
        actor.residents = {"tiny": resident("tiny", costs=SHARING)}
    return house


def predicted_s(house: House, name: str, **wishes: Any) -> float:
    (accepted,) = told(house.ask(name, guidance_scale=1.0, **wishes), Accepted)
    assert accepted.plan is not None
    return accepted.plan.prediction.total_s


def test_who_rides_along_is_not_told_to_wait_for_all_others() -> None:
    house = sharing()
    alone_s = predicted_s(house, "a")
    assert alone_s == pytest.approx(0.01 + 20 * 0.01 + 0.02)
    assert alone_s < predicted_s(house, "b", latency_s=0.4) < 1.5 * alone_s, "their calls are shared"


def test_who_can_wait_is_not_told_that_another_is_later_for_it() -> None:
    house = sharing()
    alone_s = predicted_s(house, "a")
    spare_s = LEEWAY * alone_s - 0.01  # the newcomer's encoding comes before
    shared = int(spare_s / 0.002)
    first_s, rest_s = alone_s + 0.01 + shared * 0.002, (20 - shared) * 0.01 + 0.02
    assert 0 < shared < 20
    assert predicted_s(house, "b", latency_s=1.0) == pytest.approx(first_s + rest_s)


def test_who_rides_along_is_due_when_it_was_told_not_in_its_turn_behind_all() -> None:
    house = sharing()
    house.ask("a", guidance_scale=1.0)
    effects = house.ask("b", guidance_scale=1.0, latency_s=0.4)
    plan = only(effects, Accepted).plan
    assert plan is not None
    assert only(effects, Execute).due == pytest.approx(house.now + plan.prediction.total_s)


def test_an_actor_is_told_who_is_in_haste() -> None:
    house = sharing()
    house.ask("a", guidance_scale=1.0)
    assert not only(house.ask("b", guidance_scale=1.0, latency_s=1.0), Execute).is_in_haste
    assert only(house.ask("c", guidance_scale=1.0, latency_s=0.4), Execute).is_in_haste


def test_an_actor_is_told_what_its_request_was_told_and_some_leeway() -> None:
    house = sharing()
    effects = house.ask("a", guidance_scale=1.0)
    plan = only(effects, Accepted).plan
    assert plan is not None
    told_at = house.now + (1 + LEEWAY) * plan.prediction.total_s
    assert only(effects, Execute).told == pytest.approx(told_at)
    assert only(house.ask("b", guidance_scale=1.0, best_effort=True), Execute).told == 0.0


def test_what_is_planned_anew_is_told_anew() -> None:
    house = sharing()
    house.ask("a", guidance_scale=1.0)
    house.now += 5.0
    house.tell(Leaving())
    effects = house.join(route=b"new", incarnation="new")
    plan = told(effects, Accepted)[-1].plan
    assert plan is not None
    told_at = house.now + (1 + LEEWAY) * plan.prediction.total_s
    assert only(effects, Execute).told == pytest.approx(told_at)


def test_steps_are_known_by_their_count_and_a_heartbeat_begins_nothing_anew() -> None:
    house = sharing()
    first = only(house.ask("a", guidance_scale=1.0), Execute)
    begun = house.now
    house.now = begun + 0.115
    house.tell(Counted(((first.attempt, 10),)))
    (actor,) = house.state.books.ready
    ends = outlooks.of(actor, house.now).ends
    assert ends == pytest.approx(house.now + 10 * 0.01 + 0.02)
    house.now += 0.005
    house.tell(Pulse(actor.incarnation, 77, reading()))
    actor.outlook = NO_OUTLOOK
    assert outlooks.of(actor, house.now).ends == pytest.approx(ends)


def test_a_turn_is_after_all_that_was_here() -> None:
    house = sharing()
    first = only(house.ask("a", guidance_scale=1.0), Execute)
    second = only(house.ask("b", guidance_scale=1.0), Execute)
    assert first.due < second.due < first.due + 0.23, "it shares the last calls of that"


def test_an_outlook_is_remembered_until_something_comes_or_goes() -> None:
    house = sharing()
    first = only(house.ask("a", guidance_scale=1.0), Execute)
    (actor,) = house.state.books.ready
    found = outlooks.of(actor, house.now)
    house.now += 0.01
    house.tell(stepped(first))
    assert outlooks.of(actor, house.now) is found, "a step was foreseen"
    house.tell(finished(first))
    assert outlooks.of(actor, house.now).ends == house.now, "nothing is left"


def test_behind_the_first_tasks_stands_the_sum_of_all_others_seconds() -> None:
    house = sharing()
    (actor,) = house.state.books.ready
    for i in range(MOST):
        house.ask(f"r{i}", guidance_scale=1.0)
    before = outlooks.of(actor, house.now)
    later = 3
    for i in range(later):
        house.ask(f"later {i}", guidance_scale=1.0)
    work_s = sum(r.work_s for r in list(actor.queue)[-later:])
    after = outlooks.of(actor, house.now)
    assert after.stretches == before.stretches
    assert after.ends == pytest.approx(before.ends + CROWDED * work_s)


def test_of_what_is_late_the_call_under_way_is_waited_for_whenever_one_asks() -> None:
    house = sharing()
    first = only(house.ask("a", guidance_scale=1.0), Execute)
    late = only(
        house.ask("b", guidance_scale=1.0, width=128, height=128, steps=20, latency_s=0.9), Execute
    )
    (actor,) = house.state.books.ready
    assert actor.attempts[late.attempt].request.told == "late"
    house.tell(finished(first))
    house.tell(stepped(late))
    for _ in range(4):
        house.now += 0.03
        found = outlooks.of(actor, house.now)
        assert house.now <= found.firm <= house.now + 0.04 + 1e-9, "a call of four times the pixels"
        assert found.ends > house.now + 0.5


def test_what_is_remembered_is_what_would_be_found_anew() -> None:
    house = sharing()
    (actor,) = house.state.books.ready
    for i in range(3 * MOST):
        house.ask(f"r{i}", guidance_scale=1.0, priority=i % 2, best_effort=i % 5 == 0)
        remembered = outlooks.of(actor, house.now)
        actor.outlook = NO_OUTLOOK
        found = outlooks.of(actor, house.now)
        assert remembered.stretches == found.stretches
        assert remembered.ends == pytest.approx(found.ends)


def test_what_later_arrivals_do_is_learned() -> None:
    house = sharing()
    first_s = predicted_s(house, "first")
    house = sharing()
    for i in range(ENOUGH):
        execute = only(house.ask(f"r{i}", guidance_scale=1.0), Execute)
        house.now += 1.2 * 0.23
        house.tell(finished(execute, shared_by=1.5))
    assert predicted_s(house, "last") == pytest.approx(1.2 * first_s)


def test_what_a_picture_takes_beyond_its_units_is_learned_from_those_that_were_alone() -> None:
    house = sharing()
    execute = only(house.ask("a", guidance_scale=1.0), Execute)
    house.now += 0.23 + 0.05
    house.tell(finished(execute))  # its units took 0.23 s
    assert predicted_s(house, "short", steps=5) == pytest.approx(0.08 + 0.05)


def test_what_is_explained_is_what_is_done() -> None:
    house = sharing()
    house.ask("a", guidance_scale=1.0)
    plan = only(house.ask(Explain(generate("b", guidance_scale=1.0))), Explanation).plan
    assert plan is not None
    assert plan.prediction.total_s == pytest.approx(predicted_s(house, "b"))


def test_a_stated_latency_goes_before_patient_work_and_both_are_kept() -> None:
    house = sharing(policy="modelless")
    patient = only(
        house.ask("patient", variant="tiny", steps=20, guidance_scale=1.0, n=4, latency_s=9.0), Execute
    )
    (told_,) = told(
        house.ask("hasty", variant="tiny", steps=2, deterministic=True, latency_s=0.1), Accepted
    )
    assert told_.plan is not None
    assert told_.plan.keeps_latency
    assert "before what can wait" in told_.plan.reason
    hasty = house.state.books.requests["hasty"]
    assert hasty.goes_ahead
    assert hasty.due < patient.due


def test_nobody_goes_before_who_was_told_when_it_comes_and_stated_nothing() -> None:
    house = sharing(policy="modelless")
    house.ask("first", variant="tiny", steps=20, guidance_scale=1.0, n=4)
    (told_,) = told(
        house.ask("hasty", variant="tiny", steps=2, deterministic=True, latency_s=0.1), Accepted
    )
    assert told_.plan is not None
    assert not told_.plan.keeps_latency
    assert not house.state.books.requests["hasty"].goes_ahead


def test_what_will_be_late_lets_all_go_first_that_can_be_in_time() -> None:
    house = sharing(policy="modelless", max_outstanding=100)
    (actor,) = house.state.books.ready
    for i in range(40):
        house.ask(f"r{i}", variant="tiny", steps=20, deterministic=True, latency_s=3.0)
    requests = house.state.books.requests
    kept = [r for r in requests.values() if r.told == "promised"]
    late = [r for r in requests.values() if r.told == "late"]
    assert len(kept) + len(late) == 40
    assert kept and late, "there is more than three seconds' work"
    assert min(r.turn for r in late) == pytest.approx(house.now + 60.0), "half of its timeout"
    outlook = outlooks.of(actor, house.now)
    assert outlook.firm < house.now + 3.0 < outlook.ends
    house.ask("patient", variant="tiny", steps=20, deterministic=True, latency_s=9.0)
    patient = requests["patient"]
    assert patient.told == "promised"
    assert max(r.turn for r in kept) < patient.turn < min(r.turn for r in late)


def test_what_can_never_be_in_time_is_not_late_for_others_sake() -> None:
    house = sharing(policy="modelless")
    house.ask("a", variant="tiny", steps=20, latency_s=0.01)
    request = house.state.books.requests["a"]
    assert request.plan is not None
    assert request.plan.keeps_latency is False
    assert request.told == "foretold"
    assert request.turn < house.now + 1.0


def test_a_schedule_is_believed_unless_loads_or_others_go_before() -> None:
    house = sharing()
    (actor,) = house.state.books.ready
    assert outlooks.believed(actor, house.now, is_best_effort=False) is outlooks.of(actor, house.now)
    assert outlooks.believed(actor, house.now, is_best_effort=True) is None, "it gives way"
    for i in range(4):
        house.ask(f"r{i}")
    assert outlooks.believed(actor, house.now, is_best_effort=False), "full, but nothing loads"
    actor.load_s = {"wide": 1.0}
    assert outlooks.believed(actor, house.now, is_best_effort=False) is None


def test_what_is_told_for_later_arrivals_is_no_part_of_what_was_foreseen() -> None:
    house = sharing()
    (actor,) = house.state.books.ready
    for _ in range(ENOUGH):
        actor.lateness.saw(20, 1.0, 1.3)
    house.ask("a", guidance_scale=1.0)
    request = house.state.books.requests["a"]
    assert request.plan is not None
    told_of = request.plan.prediction
    assert told_of.total_s == pytest.approx(1.3 * 0.23)
    assert told_of.later_s == pytest.approx(0.3 * 0.23)
    assert request.foreseen_s == pytest.approx(0.23)
