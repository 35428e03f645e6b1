"""Pictures from a running service: right pixels by every way, and memory that is given back."""

import asyncio
import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import aclosing
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
import pytest
from numpy.typing import NDArray

from difs import AsyncClient, Client, Result
from difs.client import previews
from difs.client.requests import Wishes
from difs.errors import (
    Cancelled,
    DifsError,
    IdConflict,
    InvalidRequest,
    LeaseLost,
    NotFound,
    UnknownName,
    Unsupported,
)
from difs.messages import MAX_SEED, Accepted, DeviceStatus, Progress
from tests.process.service import SIDE, Calls, Service, big, picture, script, settings, until

pytestmark = pytest.mark.process

DEVICES = 2


def slow(**wishes: Unpack[Wishes]) -> Wishes:
    """Return wishes for a picture that takes two seconds."""
    return big(steps=40, **wishes)  # type: ignore[misc]


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with Service(["--device", f"simulated:{DEVICES}", *settings(script())]) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """Yield the service with nothing open; nothing may be open afterwards either."""
    until(running.is_idle, 20, "an idle service before the test")
    yield running
    gc.collect()
    until(running.is_idle, 20, "an idle service after the test")


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.address) as client:
        yield client


# ---- the same pixels by every way -----------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["shm", "inline"])
@pytest.mark.parametrize("form", ["raw", "png", "jpeg", "webp"])
def test_every_way_delivers_the_same_pixels(
    client: Client, delivery: Literal["shm", "inline"], form: Literal["raw", "png", "jpeg", "webp"]
) -> None:
    with client.generate("a red apple", seed=11, delivery=delivery, format=form) as result:
        result.verify()
        [pixels] = result.images
        wanted = picture("a red apple", 11)
        assert pixels.shape == wanted.shape
        assert pixels.dtype == np.uint8
        if form in ("raw", "png"):
            assert np.array_equal(pixels, wanted)
        else:
            off = np.abs(pixels.astype(int) - wanted.astype(int)).mean()
            assert off < 8, "lossy, but the same picture"
        assert result.seeds == [11]


@pytest.mark.parametrize("form", ["jpeg", "webp", "png"])
def test_files_are_the_same_bytes_inline_and_by_shared_memory(
    client: Client, form: Literal["jpeg", "webp", "png"]
) -> None:
    files = []
    for delivery in ("shm", "inline"):
        wishes: Wishes = {"seed": 3, "format": form, "metadata": False}
        with client.generate("two pears", **wishes, delivery=delivery) as result:  # type: ignore[misc]
            files.append(result.data())
    assert files[0] == files[1]


def test_an_inline_result_keeps_no_slot(client: Client, service: Service) -> None:
    result = client.generate("inline", seed=1, n=4, delivery="inline")
    assert service.slots_used() == 0
    assert [np.array_equal(p, picture("inline", 1 + i)) for i, p in enumerate(result.images)] == [
        True
    ] * 4


@pytest.mark.parametrize("delivery", ["shm", "inline"])
def test_image_i_equals_the_single_image_with_seed_plus_i(
    client: Client, delivery: Literal["shm", "inline"]
) -> None:
    with client.generate("many", seed=40, n=5, delivery=delivery) as many:
        assert many.seeds == [40, 41, 42, 43, 44]
        for i, pixels in enumerate(many.images):
            with client.generate("many", seed=40 + i, delivery=delivery) as single:
                assert np.array_equal(pixels, single.images[0])
        assert len({pixels.tobytes() for pixels in many.images}) == 5


def test_seeds_go_round_at_their_limit(client: Client) -> None:
    with client.generate("round", seed=MAX_SEED, n=2) as result:
        assert result.seeds == [MAX_SEED, 0]
        assert np.array_equal(result.images[1], picture("round", 0))


def test_a_seed_that_is_not_given_is_told_and_repeats_the_picture(client: Client) -> None:
    with client.generate("unseeded") as first, client.generate("unseeded") as second:
        assert first.seeds != second.seeds
        with client.generate("unseeded", seed=first.seeds[0]) as again:
            assert np.array_equal(again.images[0], first.images[0])


def test_saved_files_hold_the_pixels(client: Client, tmp_path: Path) -> None:
    from difs import pictures

    with client.generate("to disk", seed=5, n=2) as result:
        paths = result.save(tmp_path / "new" / "x.png")
    assert [path.name for path in paths] == ["x-5.png", "x-6.png"]
    for path, seed in zip(paths, (5, 6), strict=True):
        assert np.array_equal(pictures.decode(path.read_bytes()), picture("to disk", seed))


# ---- events ---------------------------------------------------------------------------------------


def test_progress_counts_up_for_each_image_on_its_own(client: Client) -> None:
    seen: list[tuple[int, int, int]] = []
    with client.generate(
        "steps", n=2, steps=6, on_progress=lambda p: seen.append((p.image, p.step, p.steps))
    ):
        pass
    for image in range(2):
        of_this = [(step, steps) for i, step, steps in seen if i == image]
        assert of_this == [(step, 6) for step in range(1, 7)]
    assert len(seen) == 12


def test_the_images_of_a_request_advance_together(client: Client) -> None:
    seen: list[int] = []
    with client.generate(
        "side by side", **big(n=3, steps=4), on_progress=lambda p: seen.append(p.step)
    ) as result:
        assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4], "no image is a step ahead of another"
        assert result.timings.shared_by == pytest.approx(3)


def test_a_stream_is_accepted_then_progress_then_the_result(client: Client) -> None:
    events = list(client.stream("stream", steps=4))
    assert [type(event) for event in events] == [Accepted, *[Progress] * 4, Result]
    accepted, result = events[0], events[-1]
    assert isinstance(accepted, Accepted)
    assert isinstance(result, Result)
    assert accepted.plan == result.plan
    assert accepted.request_id == result.request_id
    result.release()


def test_without_progress_a_stream_has_none(client: Client) -> None:
    events = list(client.stream("quiet", progress=False))
    assert [type(event) for event in events] == [Accepted, Result]


@pytest.mark.parametrize("progress", [True, False])
def test_previews_come_every_few_steps_but_not_after_the_last(client: Client, progress: bool) -> None:
    """And they are asked for by themselves: without `progress` only the steps with a preview are told."""
    events = list(client.stream("seen", seed=4, n=2, steps=6, progress=progress, preview_every=2))
    steps = [event for event in events if isinstance(event, Progress)]
    shown = [event for event in steps if event.preview is not None]
    assert sorted((event.image, event.step) for event in shown) == [(0, 2), (0, 4), (1, 2), (1, 4)]
    assert len(steps) == (12 if progress else 4)
    for event in shown:
        pixels = previews.pixels(event)
        assert pixels is not None
        assert np.array_equal(pixels, picture("seen", 4 + event.image)[::8, ::8])
    assert isinstance(events[-1], Result)


def test_no_preview_comes_unasked(client: Client) -> None:
    events = [event for event in client.stream("unseen", steps=6) if isinstance(event, Progress)]
    assert [event.preview for event in events] == [None] * 6


# ---- sharing --------------------------------------------------------------------------------------


def test_a_lone_image_is_bitwise(client: Client) -> None:
    with client.generate("alone", **big(steps=3)) as result:
        assert (result.seed_contract, result.seed_bound) == ("bitwise", 0.0)
        assert result.timings.shared_by == 1.0


def test_requests_at_the_same_time_share_steps_and_say_so(client: Client, calls: Calls) -> None:
    jobs = [calls.submit(client.generate, "together", **big(seed=i, steps=10 + i)) for i in range(8)]
    shared = 0
    for seed, job in enumerate(jobs):
        with job.result(20) as result:
            shared += _says_whether_it_shared(result)
            assert result.timings.shared_by <= 8
            assert np.array_equal(result.images[0], picture("together", seed, SIDE))
    assert shared >= len(jobs) - DEVICES


def _says_whether_it_shared(result: Result) -> bool:
    """Return whether a picture shared calls, which its contract must say.

    The first on a device need not: others join only where it is still done when it was told to be.
    """
    is_shared = result.timings.shared_by > 1
    assert result.seed_contract == ("same-noise" if is_shared else "bitwise")
    return is_shared


def test_a_deterministic_request_shares_nothing_among_others_that_do(
    client: Client, calls: Calls
) -> None:
    others = [calls.submit(client.generate, "others", **big(seed=i, steps=20)) for i in range(6)]
    with client.generate("exact", **big(seed=9, n=2, steps=5, deterministic=True)) as result:
        assert (result.seed_contract, result.seed_bound) == ("bitwise", 0.0)
        assert result.timings.shared_by == 1.0
        for i, pixels in enumerate(result.images):
            assert np.array_equal(pixels, picture("exact", 9 + i, SIDE))
    shared = 0
    for job in others:
        with job.result(20) as result:
            shared += _says_whether_it_shared(result)
    assert shared >= len(others) - DEVICES


# ---- questions ------------------------------------------------------------------------------------


def test_explain_says_what_generate_does_and_does_nothing(client: Client, service: Service) -> None:
    before = service.status().counts
    found = client.explain("explained", steps=7, n=2, guidance_scale=1.0)
    assert service.status().counts == before
    assert found.refusal is None
    assert found.plan is not None
    with client.generate("explained", steps=7, n=2, guidance_scale=1.0) as result:
        assert result.plan == found.plan
        assert result.plan.steps == 7


def test_explain_gives_the_refusal_of_generate(client: Client) -> None:
    found = client.explain("refused", variant="no-such-thing")
    assert found.plan is None
    assert found.refusal is not None
    assert (found.refusal.code, found.refusal.field) == ("unknown_name", "overrides.variant")
    with pytest.raises(UnknownName, match="no-such-thing"):
        client.generate("refused", variant="no-such-thing")


def test_variants_tell_where_they_are_resident(client: Client) -> None:
    [info] = [v for v in client.variants() if v.name == "emoji-base"]
    assert info.resident_on == ("simulated-0", "simulated-1")
    assert info.steps_min <= info.steps_default <= info.steps_max
    assert info.native_sizes[0] == (64, 64)


def test_status_counts_what_was_done(client: Client, service: Service) -> None:
    before = service.status()
    with client.generate("counted", n=3) as result:
        during = service.status()
        assert during.clients == 1
        assert service.slots_used() == 3
    after = service.status()
    assert [d.device for d in after.devices] == ["simulated-0", "simulated-1"]
    assert all(d.state == "ready" and d.slots_total == 49 for d in after.devices)
    assert after.counts["finished"] == before.counts.get("finished", 0) + 1
    assert after.counts["accepted"] == before.counts.get("accepted", 0) + 1
    assert after.epoch == before.epoch == client.ping().epoch
    assert after.uptime_s >= before.uptime_s
    assert result.attempts == 1


def test_a_variant_is_evicted_and_loaded_again(client: Client) -> None:
    def residents() -> tuple[str, ...]:
        [info] = [v for v in client.variants() if v.name == "emoji-base"]
        return info.resident_on

    assert "evicted" in client.evict("emoji-base", "simulated-0")
    assert residents() == ("simulated-1",)
    with client.generate("elsewhere") as result:
        assert result.plan.device == "simulated-1"
    client.load("emoji-base", "simulated-0")
    until(lambda: residents() == ("simulated-0", "simulated-1"), 5, "the variant's return")
    client.evict("emoji-base")
    assert residents() == ()
    with client.generate("loaded at need", seed=3) as result:
        assert np.array_equal(result.images[0], picture("loaded at need", 3))
    client.load("emoji-base")
    until(lambda: residents() == ("simulated-0", "simulated-1"), 5, "the variant's return")
    with pytest.raises(UnknownName):
        client.load("no-such")


def test_what_is_evicted_is_parked_until_it_returns(client: Client) -> None:
    def first() -> DeviceStatus:
        return client.status().devices[0]

    client.evict("emoji-base", "simulated-0")
    until(lambda: "emoji-base" in first().parked, 5, "the parking")
    assert "emoji-base" not in first().residents
    client.load("emoji-base", "simulated-0")
    until(lambda: "emoji-base" in first().residents, 5, "the variant's return")
    assert "emoji-base" not in (*first().parked, *first().loading)


def test_a_memory_mode_is_switched_while_requests_run(client: Client, calls: Calls) -> None:
    def modes() -> list[str | None]:
        return [device.memory_modes.get("emoji-base") for device in client.status().devices]

    assert modes() == ["full", "full"]
    jobs = [calls.submit(client.generate, "at work", **slow(seed=seed)) for seed in range(4)]
    until(lambda: client.status().running == 4, 5, "requests at work")
    client.set_mode("emoji-base", "sliced", "simulated-0")
    until(lambda: modes() == ["sliced", "full"], 5, "the switch on one device")
    client.set_mode("emoji-base", "tiled")
    until(lambda: modes() == ["tiled", "tiled"], 5, "the switch on both")
    for seed, job in enumerate(jobs):
        with job.result(30) as result:
            assert np.array_equal(result.images[0], picture("at work", seed, SIDE))
            assert result.attempts == 1
    with client.generate("afterwards") as result:
        assert result.plan.memory_mode == "tiled"
    client.set_mode("emoji-base", "full")
    until(lambda: modes() == ["full", "full"], 5, "the switch back")


def test_a_mode_or_a_variant_that_is_not_there_is_refused(client: Client) -> None:
    with pytest.raises(UnknownName, match="no-such"):
        client.set_mode("no-such", "full")
    with pytest.raises(UnknownName, match="cuda-7"):
        client.set_mode("emoji-base", "full", "cuda-7")
    with pytest.raises(InvalidRequest, match="sequential_offload") as caught:
        client.set_mode("emoji-base", "fast")  # type: ignore[arg-type]
    assert caught.value.field == "memory_mode"
    with pytest.raises(Unsupported, match="it has: full, sliced, tiled"):
        client.set_mode("emoji-base", "group_offload")
    client.evict("emoji-base", "simulated-1")
    with pytest.raises(NotFound, match="not loaded on simulated-1"):
        client.set_mode("emoji-base", "tiled", "simulated-1")
    client.load("emoji-base", "simulated-1")
    until(lambda: "emoji-base" in client.status().devices[1].residents, 5, "the variant's return")


def test_an_async_client_has_the_same_questions(service: Service) -> None:
    async def ask() -> None:
        async with AsyncClient(service.address) as client:
            with Client(service.address) as other:
                assert await client.adapters() == other.adapters()
                assert await client.variants() == other.variants()
            assert await client.set_mode("emoji-base", "full")

    asyncio.run(ask())


def test_ping_says_ready(client: Client) -> None:
    pong = client.ping()
    assert pong.ready
    assert pong.protocol == 1


# ---- arrays on shared memory ----------------------------------------------------------------------


def mapping_of(array: NDArray[np.uint8]) -> tuple[str, str]:
    """Return access rights and file of the mapping that an array's bytes lie in."""
    at = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_, name = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in span.split("-"))
        if first <= at and at + array.nbytes <= last:
            return rights, name
    raise AssertionError("the array lies in no mapping")


def test_arrays_are_read_only_and_lie_in_the_segment(client: Client, service: Service) -> None:
    with client.generate("mapped", seed=9) as result:
        [pixels] = result.images
        rights, file = mapping_of(pixels)
        assert rights == "r--s", "shared, and not writable"
        assert file.startswith(f"/dev/shm/difs-{os.getuid()}/{service.pid}.")
        assert not pixels.flags.owndata
        assert not pixels.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            pixels[0, 0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            pixels.flags.writeable = True
        assert np.shares_memory(pixels, result.images[0])
        assert np.array_equal(pixels, picture("mapped", 9))
        del pixels


def test_the_slot_comes_back_on_release(client: Client, service: Service) -> None:
    result = client.generate("released", n=2)
    assert service.slots_used() == 2
    result.release()
    until(lambda: service.slots_used() == 0, 3, "the slots' return")
    result.release()  # again does no harm
    with pytest.raises(LeaseLost):
        _ = result.images
    with pytest.raises(LeaseLost):
        result.data()


def test_the_slot_comes_back_at_the_end_of_with(client: Client, service: Service) -> None:
    with client.generate("with") as result:
        assert service.slots_used() == 1
    until(lambda: service.slots_used() == 0, 3, "the slot's return")
    with pytest.raises(LeaseLost):
        result.pil()


def test_the_slot_comes_back_with_the_last_array(client: Client, service: Service) -> None:
    result = client.generate("collected", seed=21)
    [pixels] = result.images
    corner = pixels[:8, :8]
    del result, pixels
    gc.collect()
    with client.generate("another"):  # the release would have gone ahead of this
        assert service.slots_used() == 2, "a view keeps its slot"
        assert np.array_equal(corner, picture("collected", 21)[:8, :8])
    del corner
    gc.collect()
    until(lambda: service.slots_used() == 0, 3, "the slot's return")


def test_a_result_that_nobody_looks_at_gives_its_slots_back(client: Client, service: Service) -> None:
    client.generate("dropped", n=3)
    gc.collect()
    until(lambda: service.slots_used() == 0, 3, "the slots' return")


def test_one_image_of_many_keeps_its_own_slot_only(client: Client, service: Service) -> None:
    images = client.generate("several", seed=70, n=4).images
    kept = images[2]
    del images
    gc.collect()
    until(lambda: service.slots_used() == 1, 3, "the other slots' return")
    assert np.array_equal(kept, picture("several", 72))
    del kept


def test_a_closed_client_gives_everything_back(service: Service) -> None:
    with Client(service.address) as client:
        held = [client.generate("held", n=8, seed=i) for i in range(5)]
        held += [client.generate("held", width=SIDE, height=SIDE, steps=1) for _ in range(3)]
        assert service.slots_used() == 43
    until(lambda: service.slots_used() == 0, 3, "the slots' return")
    del held


# ---- many at once ---------------------------------------------------------------------------------


def test_twenty_requests_of_an_async_client_at_once(service: Service) -> None:
    async def paint() -> list[bool]:
        async with AsyncClient(service.address) as client:

            async def one(seed: int) -> bool:
                with await client.generate(f"number {seed}", seed=seed) as result:
                    return np.array_equal(result.images[0], picture(f"number {seed}", seed))

            return await asyncio.gather(*(one(seed) for seed in range(20)))

    assert asyncio.run(paint()) == [True] * 20


def test_one_client_used_from_eight_threads(client: Client, calls: Calls) -> None:
    def paint(first: int) -> list[bool]:
        right = []
        for seed in range(first, first + 5):
            with client.generate("threads", seed=seed) as result:
                right.append(np.array_equal(result.images[0], picture("threads", seed)))
        return right

    jobs = [calls.submit(paint, 100 * thread) for thread in range(8)]
    assert [job.result(20) for job in jobs] == [[True] * 5] * 8


def test_both_devices_work_at_once(client: Client, calls: Calls) -> None:
    jobs = [calls.submit(client.generate, "spread", **big(seed=i, steps=10)) for i in range(4)]
    results = [job.result(20) for job in jobs]
    assert {result.plan.device for result in results} == {"simulated-0", "simulated-1"}


# ---- cancelling -----------------------------------------------------------------------------------


def wait_for_running(service: Service, requests: int = 1) -> None:
    until(lambda: service.status().running == requests, 5, f"{requests} requests at work")


def is_queue_of(service: Service, wanted: int) -> bool:
    """Whether so many are open and some wait: how many depends on how far each device has come."""
    report = service.status()
    return report.queued >= 1 and report.queued + report.running == wanted


def wait_for_cancel(service: Service, before: int, requests: int = 1) -> None:
    """Wait until the service has cancelled so many more, and works no more."""
    # or more: what an earlier test cancelled may be counted only now
    until(lambda: service.count("cancelled") >= before + requests, 10, "the cancel in the service")
    until(service.is_idle, 10, "slots and credits back after a cancel")


def test_cancelling_a_task_cancels_the_request(service: Service) -> None:
    before = service.count("cancelled")

    async def give_up() -> None:
        async with AsyncClient(service.address) as client:
            task = asyncio.create_task(client.generate("cancelled", **slow()))
            await asyncio.to_thread(wait_for_running, service)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_for_cancel, service, before)

    asyncio.run(give_up())


def test_a_timeout_around_generate_cancels_the_request(service: Service) -> None:
    before = service.count("cancelled")

    async def give_up() -> None:
        async with AsyncClient(service.address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await client.generate("too slow", **slow())
            await asyncio.to_thread(wait_for_cancel, service, before)

    asyncio.run(give_up())


def test_leaving_an_async_stream_early_cancels_the_request(service: Service) -> None:
    before = service.count("cancelled")

    async def give_up() -> None:
        async with AsyncClient(service.address) as client:
            async with aclosing(client.stream("left", **slow())) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        break
            await asyncio.to_thread(wait_for_cancel, service, before)

    asyncio.run(give_up())


def test_leaving_a_stream_early_cancels_the_request(client: Client, service: Service) -> None:
    before = service.count("cancelled")
    for event in client.stream("left", **slow()):
        if isinstance(event, Progress):
            break
    gc.collect()
    wait_for_cancel(service, before)


def test_queued_requests_are_cancelled_too(service: Service) -> None:
    before = service.count("cancelled")

    async def give_up() -> None:
        async with AsyncClient(service.address) as client:
            at_work = sum(device.credits for device in service.status().devices)
            wanted = at_work + 6
            # none may end, and all are let in, however much the tests before asked for
            long = big(steps=150, timeout_s=900.0)
            asked = [client.generate(f"q{i}", **long) for i in range(wanted)]
            tasks = [asyncio.create_task(call) for call in asked]
            await asyncio.to_thread(until, lambda: is_queue_of(service, wanted), 10, "a queue")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(wait_for_cancel, service, before, wanted)

    asyncio.run(give_up())


def test_closing_an_async_client_ends_its_open_calls(service: Service) -> None:
    before = service.count("cancelled")

    async def close() -> None:
        client = AsyncClient(service.address)
        task = asyncio.create_task(client.generate("open", **slow()))
        await asyncio.to_thread(wait_for_running, service)
        await client.aclose()
        done, _ = await asyncio.wait([task], timeout=5)
        try:
            assert done, "the call goes on for ever"
            assert task.cancelled() or isinstance(task.exception(), DifsError)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(close())
    wait_for_cancel(service, before)


def test_closing_a_client_ends_the_calls_of_other_threads(service: Service, calls: Calls) -> None:
    before = service.count("cancelled")
    client = Client(service.address)
    job = calls.submit(client.generate, "open", **slow())
    wait_for_running(service)
    client.close()
    wait_for_cancel(service, before)
    until(job.done, 5, "the end of the call")
    assert isinstance(job.exception(), (DifsError, CancelledError))


# ---- ids ------------------------------------------------------------------------------------------


def test_an_open_id_with_other_content_is_refused(client: Client, service: Service, calls: Calls) -> None:
    with Client(service.address) as other:
        job = calls.submit(client.generate, "one thing", **slow(request_id="mine"))
        wait_for_running(service)
        with pytest.raises(IdConflict):
            other.generate("another thing", **slow(request_id="mine"))
        job.result(20).release()


def test_a_deadline_ends_the_work_within_a_step(client: Client, service: Service) -> None:
    started = time.monotonic()
    with pytest.raises(DifsError) as caught:
        client.generate("late", **slow(timeout_s=0.5, retries=0, n=8))
    assert caught.value.code in ("expired", "infeasible")
    assert time.monotonic() - started < 10
    until(service.is_idle, 3, "an end of the work")
    assert not isinstance(caught.value, Cancelled)
