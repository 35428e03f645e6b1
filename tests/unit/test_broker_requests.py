"""difs.broker: a request lives from its acceptance to one end, and its images until they are released."""

import pytest

from difs.actor_messages import (
    Abort,
    Execute,
    Leaving,
    Sealed,
)
from difs.broker.effects import Payload, TellClient
from difs.broker.events import ClientLost
from difs.messages import (
    MAX_SEED,
    Accepted,
    Cancel,
    Error,
    Ping,
    Preview,
    Progress,
    Release,
    Result,
)
from difs.shm.layout import HEADER_BYTES
from tests import builders
from tests.builders import (
    CLIENT,
    KIB,
    OTHER_CLIENT,
    POOL_OF_4,
    House,
    ended,
    executes,
    finished,
    free_slots,
    is_over,
    only,
    served,
    stepped,
    told,
)

# ---- the life of a request ----------------------------------------------------------------------


def test_a_request_is_accepted_and_dispatched_at_once_when_an_actor_is_free() -> None:
    effects = served().ask("a", n=2, seed=5, prompt="apple")
    accepted, execute = only(effects, Accepted, CLIENT), only(effects, Execute, b"cpu-0")
    assert (accepted.request_id, accepted.epoch, accepted.attempt) == ("a", builders.EPOCH, 1)
    assert accepted.plan is not None
    assert (accepted.plan.device, accepted.plan.variant, accepted.plan.steps) == ("cpu-0", "tiny", 20)
    assert (execute.prompt, execute.seeds, execute.width, execute.deadline) == (
        "apple",
        (5, 6),
        64,
        120.0,
    )
    assert len(execute.slots) == 2
    assert len(effects) == 2


def test_a_finished_request_ends_in_one_result_with_its_images_inline() -> None:
    house = served()
    execute = only(house.ask("a", seed=5, n=2), Execute)
    house.now = 2.0
    (effect,) = house.tell(finished(execute))
    assert isinstance(effect, TellClient)
    result = effect.message
    assert isinstance(result, Result)
    assert [(image.seed, image.frame, image.nbytes, image.crc32) for image in result.images] == [
        (5, 0, 12, 34),
        (6, 1, 12, 34),
    ]
    places = tuple(Payload("cpu-0", slot.offset + HEADER_BYTES, 12) for slot in execute.slots)
    assert effect.payloads == places
    assert (result.attempt, result.timings.total_s, result.timings.queue_s) == (1, 2.0, 0.0)
    assert is_over(house)


def test_images_in_shared_memory_are_held_until_released() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm", n=2), Execute)
    (effect,) = house.tell(finished(execute))
    assert isinstance(effect, TellClient)
    assert effect.payloads == ()
    images = only([effect], Result).images
    for image, slot in zip(images, execute.slots, strict=True):
        assert (image.offset, image.generation) == (slot.offset, slot.generation)
        assert image.segment == "/segments/cpu-0"
    assert free_slots(house) == POOL_OF_4 - 2
    leases = [image.lease for image in images if isinstance(image.lease, int)]
    assert house.ask(Release(tuple(leases))) == []
    assert is_over(house)


def test_leases_are_released_by_their_owner_alone() -> None:
    house = served()
    result = only(house.tell(finished(only(house.ask("a", mode="shm"), Execute))), Result)
    lease = result.images[0].lease
    assert isinstance(lease, int)
    house.ask(Release((lease, lease + 1)), OTHER_CLIENT)
    assert free_slots(house) == POOL_OF_4 - 1
    house.ask(Release((lease, lease)))
    assert is_over(house)


def test_seeds_wrap_around_at_64_bits() -> None:
    execute = only(served().ask("a", n=2, seed=MAX_SEED), Execute)
    assert execute.seeds == (MAX_SEED, 0)


def test_requests_without_a_seed_get_different_ones_and_keep_them_in_the_next_attempt() -> None:
    house = served()
    first, second = only(house.ask("a"), Execute), only(house.ask("b"), Execute)
    assert first.seeds != second.seeds
    house.tell(Leaving())
    house.join(route=b"new", incarnation="new", credits=1)
    again = only(house.join("cpu-0", route=b"newer", incarnation="newer", credits=1), Execute)
    assert (again.request_id, again.seeds) == ("a", first.seeds)


def test_progress_is_told_to_those_who_asked_for_it() -> None:
    house = served()
    silent, loud = only(house.ask("a"), Execute), only(house.ask("b", progress=True), Execute)
    assert house.tell(stepped(silent)) == []
    assert house.tell(stepped(loud, 3)) == [TellClient(CLIENT, Progress("b", 0, 3, 20))]


def test_a_preview_is_told_to_those_who_asked_for_previews() -> None:
    house = served(credits=4)
    picture = Preview(1, 2, b"rgbrgb")
    deaf = only(house.ask("deaf"), Execute)
    steps = only(house.ask("steps", progress=True), Execute)
    pictures = only(house.ask("pictures", preview_every=2), Execute)
    both = only(house.ask("both", preview_every=2, progress=True), Execute)
    assert house.tell(stepped(deaf, 2, preview=picture)) == []
    assert only(house.tell(stepped(steps, 2, preview=picture)), Progress).preview is None
    assert house.tell(stepped(pictures, 1)) == [], "steps without a picture were not asked for"
    assert only(house.tell(stepped(pictures, 2, preview=picture)), Progress).preview == picture
    assert only(house.tell(stepped(both, 1)), Progress).preview is None
    found = only(house.tell(stepped(both, 2, image=0, preview=picture)), Progress, CLIENT)
    assert found == Progress("both", 0, 2, 20, picture)


def test_a_cancelled_request_shows_no_more_pictures() -> None:
    house = served()
    execute = only(house.ask("a", preview_every=1), Execute)
    house.ask(Cancel("a"))
    assert house.tell(stepped(execute, preview=Preview(1, 1, b"rgb"))) == []


def test_a_result_says_how_it_was_computed() -> None:
    house = served()
    report = finished(
        only(house.ask("a"), Execute),
        seed_contract="same-noise",
        seed_bound=0.004,
        shared_by=3.5,
        notes=("tiled decoding",),
    )
    result = only(house.tell(report), Result)
    assert (result.seed_contract, result.seed_bound, result.timings.shared_by) == (
        "same-noise",
        0.004,
        3.5,
    )
    assert result.notes == ("tiled decoding",)


def test_metadata_goes_to_image_files_only_and_only_where_it_is_wanted() -> None:
    house = served(credits=3)
    assert only(house.ask("a", format="raw"), Execute).metadata == ""
    assert only(house.ask("b", format="png", metadata=False), Execute).metadata == ""
    assert '"variant":"tiny"' in only(house.ask("c", format="png"), Execute).metadata


def test_the_story_of_a_request_is_kept_after_its_end() -> None:
    house = served()
    house.tell(finished(only(house.ask("a"), Execute)))
    assert [one.what for one in house.state.story("a")] == [
        "accepted",
        "dispatched",
        "finished",
    ]
    house.ask("b")
    assert [one.what for one in house.state.story("b")] == ["accepted", "dispatched"]
    assert house.state.story("never heard of") == []


# ---- failure ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told_code"),
    [("engine_failed", "engine_failed"), ("out_of_memory", "out_of_memory"), ("nonsense", "internal")],
)
def test_a_failed_attempt_fails_its_request_with_a_known_code(code: str, told_code: str) -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    error = only(house.tell(ended(execute, code)), Error, CLIENT)
    assert (error.code, error.request_id) == (told_code, "a")
    assert is_over(house)


@pytest.mark.parametrize(
    "images",
    [(), (Sealed(1, 12, 0),), (Sealed(0, 64 * KIB + 1, 0),), (Sealed(0, 0, 0),), (Sealed(0, 1, 0),) * 2],
    ids=["none", "foreign slot", "too large", "empty", "too many"],
)
def test_a_report_about_other_slots_fails_the_request_and_frees_them(images: tuple[Sealed, ...]) -> None:
    house = served()
    execute = only(house.ask("a"), Execute)
    assert execute.slots[0].index == 0
    error = only(house.tell(finished(execute, images=images)), Error, CLIENT)
    assert error.code == "internal"
    assert is_over(house)


# ---- cancel, client gone ------------------------------------------------------------------------


def test_a_queued_request_is_cancelled_at_once() -> None:
    house = served(credits=1)
    running = only(house.ask("running"), Execute)
    house.ask("waits")
    effects = house.ask(Cancel("waits"))
    assert [type(message) for message in told(effects, object)] == [Error]
    assert only(effects, Error, CLIENT).code == "cancelled"
    assert executes(house.tell(finished(running))) == []


def test_a_running_request_is_cancelled_and_its_actor_told_to_stop() -> None:
    house = served(credits=1)
    execute = only(house.ask("a"), Execute)
    effects = house.ask(Cancel("a"))
    assert only(effects, Abort).attempt == execute.attempt
    assert only(effects, Error, CLIENT).code == "cancelled"
    assert executes(house.ask("b")) == [], "the credit is free when the actor says so"
    assert executes(house.tell(ended(execute))) == ["b"]


def test_a_result_that_crosses_a_cancel_frees_its_slots() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm"), Execute)
    house.ask(Cancel("a"))
    assert house.tell(finished(execute)) == []
    assert is_over(house)


@pytest.mark.parametrize(("name", "route"), [("a", OTHER_CLIENT), ("b", CLIENT)])
def test_only_its_client_may_cancel_a_request(name: str, route: bytes) -> None:
    house = served()
    house.ask("a")
    error = only(house.ask(Cancel(name), route), Error, route)
    assert (error.code, error.request_id) == ("not_found", name)
    assert "a" in house.state.books.requests


def test_everything_of_a_client_that_is_gone_is_taken_back() -> None:
    house = served(credits=1)
    house.tell(finished(only(house.ask("done", mode="shm"), Execute)))
    running = only(house.ask("running"), Execute)
    house.ask("queued")
    house.ask("another's", OTHER_CLIENT)
    effects = house.handle(ClientLost(CLIENT))
    assert only(effects, Abort).attempt == running.attempt
    assert executes(house.tell(ended(running))) == ["another's"]
    assert set(house.state.books.clients) == {OTHER_CLIENT}
    assert free_slots(house) == POOL_OF_4 - 1


def test_the_loss_of_an_unknown_client_is_nothing() -> None:
    assert served().handle(ClientLost(b"nobody")) == []


# ---- leases -------------------------------------------------------------------------------------


def held(**rules: float) -> House:
    """Return a house in which a client holds a slot."""
    house = served(**rules)
    house.tell(finished(only(house.ask("a", mode="shm"), Execute)))
    assert free_slots(house) == POOL_OF_4 - 1
    return house


def test_a_lease_ends_when_its_client_is_silent_for_too_long() -> None:
    house = held(lease=10.0)
    house.wait(9.9)
    assert free_slots(house) == POOL_OF_4 - 1
    house.wait(0.6)
    assert is_over(house)
    assert house.state.books.counts["leases_timed_out"] == 1


def test_a_ping_renews_the_leases_of_its_client_alone() -> None:
    house = held(lease=10.0)
    house.wait(6.0)
    house.ask(Ping(), OTHER_CLIENT)
    house.ask(Ping())
    house.wait(6.0)
    assert free_slots(house) == POOL_OF_4 - 1
    house.ask(Ping(), OTHER_CLIENT)
    house.wait(4.1)
    assert is_over(house)


def test_a_lease_outlives_its_actor() -> None:
    house = held()
    house.tell(Leaving())
    house.join(route=b"new", incarnation="new")
    assert free_slots(house) == POOL_OF_4 - 1


# ---- the same request again ---------------------------------------------------------------------


def test_a_repeated_request_joins_the_open_one() -> None:
    house = served()
    execute = only(house.ask("a", seed=1), Execute)
    effects = house.ask("a", seed=1)
    assert executes(effects) == []
    assert only(effects, Accepted, CLIENT).attempt == 1
    assert len(told(house.tell(finished(execute)), Result, CLIENT)) == 1
    assert is_over(house)


def test_a_repeated_request_moves_to_the_connection_it_came_from() -> None:
    house = served()
    execute = only(house.ask("a", mode="shm"), Execute)
    assert only(house.ask("a", OTHER_CLIENT, mode="shm"), Accepted, OTHER_CLIENT)
    house.handle(ClientLost(CLIENT))
    assert only(house.tell(finished(execute)), Result, OTHER_CLIENT)
    house.handle(ClientLost(OTHER_CLIENT))
    assert is_over(house)


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    house = served()
    execute = only(house.ask("a", seed=1), Execute)
    error = only(house.ask("a", OTHER_CLIENT, seed=2), Error, OTHER_CLIENT)
    assert (error.code, error.request_id, error.field) == ("id_conflict", "a", "request_id")
    assert told(house.tell(finished(execute)), Result, CLIENT)


def test_an_id_is_free_again_after_the_end() -> None:
    house = served()
    house.tell(finished(only(house.ask("a", seed=1), Execute)))
    assert executes(house.ask("a", seed=2)) == ["a"]
