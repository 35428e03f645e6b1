"""difs.broker: the model repository changes while the service runs."""

from difs.actor_messages import Evicted, EvictVariant, Execute, Loaded, LoadFailed, LoadVariant
from difs.broker.effects import Effect
from difs.broker.events import RepositoryChanged
from difs.messages import Adapter, AdapterInfo, Error, Plan, Result, VariantInfo, VariantList, Variants
from tests.builders import (
    House,
    adapter,
    ended,
    executes,
    finished,
    is_over,
    only,
    resident,
    served,
    told,
    variant,
)


def change(
    house: House,
    *names: str,
    outdated: tuple[str, ...] = (),
    adapters: tuple[AdapterInfo, ...] = (),
) -> list[Effect]:
    """Let the repository have just the variants `names`."""
    infos: dict[str, VariantInfo] = {name: variant(name) for name in names}
    known = {info.name: info for info in adapters}
    return house.handle(RepositoryChanged(infos, known, frozenset(outdated)))


def test_a_new_variant_is_listed_and_serves() -> None:
    house = served()
    change(house, "tiny", "new")
    names = [info.name for info in only(house.ask(Variants()), VariantList).variants]
    assert names == ["tiny", "new"]
    effects = house.ask("r1", variant="new")
    assert only(effects, LoadVariant).variant == "new"
    assert only(effects, Execute).variant == "new"


def test_a_new_adapter_is_known() -> None:
    house = served()
    assert only(house.ask("r1", adapters=(Adapter("ink"),)), Error).code == "unknown_name"
    change(house, "tiny", adapters=(adapter("ink"),))
    assert executes(house.ask("r2", adapters=(Adapter("ink"),))) == ["r2"]


def test_what_is_queued_for_a_variant_that_is_gone_ends_with_a_clear_error() -> None:
    house = served(variants=[variant("tiny"), variant("wide")], credits=1)
    house.ask("r1", variant="tiny")
    house.ask("r2", variant="wide")
    (error,) = told(change(house, "tiny", outdated=("wide",)), Error)
    assert (error.request_id, error.code) == ("r2", "unknown_name")
    assert "wide" in error.message


def test_what_is_queued_and_not_pinned_is_planned_anew() -> None:
    house = served(variants=[variant("tiny"), variant("wide")], credits=1)
    house.ask("r1", variant="tiny")
    house.ask("r2")
    plans = [r.plan for r in house.state.books.requests.values() if r.message.request_id == "r2"]
    assert isinstance(plans[0], Plan)
    planned = plans[0].variant
    other = {"tiny": "wide", "wide": "tiny"}[planned]
    assert not told(change(house, other, outdated=(planned,)), Error)
    (request,) = [r for r in house.state.books.requests.values() if r.message.request_id == "r2"]
    assert request.plan is not None
    assert request.plan.variant == other


def test_what_is_queued_for_an_adapter_that_is_gone_ends() -> None:
    house = served(adapters=[adapter("ink")], credits=1)
    house.ask("r1")
    house.ask("r2", adapters=(Adapter("ink"),))
    (error,) = told(change(house, "tiny"), Error)
    assert (error.request_id, error.code) == ("r2", "unknown_name")


def test_what_runs_goes_on_and_then_its_variant_leaves() -> None:
    house = served()
    order = only(house.ask("r1"), Execute)
    assert not told(change(house, "other", outdated=("tiny",)), EvictVariant)
    effects = house.tell(finished(order))
    assert only(effects, Result).request_id == "r1"
    assert only(effects, EvictVariant).variant == "tiny"
    assert is_over(house)


def test_an_idle_resident_that_is_gone_leaves_at_once() -> None:
    house = served()
    effects = change(house, "other", outdated=("tiny",))
    assert only(effects, EvictVariant).variant == "tiny"
    house.tell(Evicted("tiny"))
    assert not told(house.wait(1.0), EvictVariant), "only once"


def test_a_parked_variant_that_is_gone_is_dropped_too() -> None:
    house = served(variants=[variant("tiny"), variant("wide")])
    house.tell(Evicted("wide", resident("wide")))
    effects = change(house, "tiny", outdated=("wide",))
    assert only(effects, EvictVariant).variant == "wide"


def test_a_variant_made_of_other_weights_is_loaded_anew_before_it_serves() -> None:
    house = served()
    order = only(house.ask("r1"), Execute)
    assert not told(change(house, "tiny", outdated=("tiny",)), EvictVariant)
    assert not executes(house.ask("r2")), "not with the weights of before"
    effects = house.tell(finished(order))
    orders = [type(m) for m in told(effects, EvictVariant | LoadVariant | Execute)]  # type: ignore[arg-type]
    assert orders == [EvictVariant, LoadVariant, Execute]
    house.tell(Evicted("tiny"))
    house.tell(Loaded(resident("tiny")))
    assert not told(house.wait(1.0), EvictVariant)


def test_a_load_of_what_was_is_awaited_and_then_leaves() -> None:
    house = served(variants=[variant("tiny"), variant("wide")])
    order = only(house.ask("r1", variant="wide"), Execute)
    assert not told(change(house, "tiny", "wide", outdated=("wide",)), EvictVariant)
    assert not told(house.tell(Loaded(resident("wide"))), EvictVariant), "r1 runs with it"
    assert only(house.tell(ended(order)), EvictVariant).variant == "wide"


def test_a_load_of_what_was_that_fails_leaves_nothing_behind() -> None:
    house = served(variants=[variant("tiny"), variant("wide")])
    order = only(house.ask("r1", variant="wide"), Execute)
    change(house, "tiny", "wide", outdated=("wide",))
    house.tell(LoadFailed("wide", "its file is gone"))
    house.tell(ended(order, "engine_failed"))
    assert is_over(house)
    assert only(house.ask("r2", variant="wide"), LoadVariant).variant == "wide"
    house.tell(Loaded(resident("wide")))
    assert not told(house.wait(1.0), EvictVariant)


def test_a_change_without_consequences_tells_nobody() -> None:
    house = served()
    house.ask("r1")
    assert change(house, "tiny", "more") == []
