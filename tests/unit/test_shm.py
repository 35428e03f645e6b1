"""difs.shm: slots that never overlap, leases that are never given twice, readers that notice reuse."""

import errno
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import pictures
from difs.actor_messages import Slot
from difs.errors import ConfigError, InternalError, LeaseLost, RemoteProtocolError
from difs.messages import MAX_PROMPT_BYTES
from difs.shm import layout, reaper, segment
from difs.shm.layout import HEADER_BYTES, PAGE_BYTES, Header
from difs.shm.pool import SlotPool
from difs.shm.reader import SegmentReader, matches
from difs.shm.writer import SegmentWriter

EXAMPLES = settings(max_examples=100)
CLASSES = st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 5)), max_size=5)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
HEADERS = st.builds(Header, U64, U64, U32, U32, U32, U32)


# ---- layout -------------------------------------------------------------------------------------


@EXAMPLES
@given(CLASSES)
def test_slots_are_aligned_and_disjoint_and_inside_the_segment(classes: list[tuple[int, int]]) -> None:
    plan = layout.plan(classes)
    end = PAGE_BYTES
    for place in plan.slots:
        assert place.offset % PAGE_BYTES == 0
        assert place.offset >= end
        end = place.offset + HEADER_BYTES + place.capacity_bytes
    assert end <= plan.total_bytes
    assert plan.total_bytes % PAGE_BYTES == 0


@EXAMPLES
@given(CLASSES)
def test_every_wanted_slot_is_there_smallest_first(classes: list[tuple[int, int]]) -> None:
    slots = layout.plan(classes).slots
    wanted = sorted(capacity for capacity, count in classes for _ in range(count))
    assert [place.capacity_bytes for place in slots] == wanted
    assert [place.index for place in slots] == list(range(len(slots)))


@EXAMPLES
@given(HEADERS)
def test_a_header_is_read_as_it_was_written(header: Header) -> None:
    packed = layout.pack(header)
    assert len(packed) <= HEADER_BYTES
    assert layout.unpack(packed.ljust(HEADER_BYTES, b"\xff")) == header


@EXAMPLES
@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_garbage_is_no_header(data: bytes) -> None:
    assert (layout.unpack(data) is None) == (not data.startswith(layout.SLOT_MAGIC))


def test_a_header_has_the_bytes_that_the_protocol_says() -> None:
    packed = layout.pack(Header(1, 2, 3, 4, 5, 6))
    assert packed == b"DIFSIMG1" + bytes.fromhex(
        "0100000000000000 0200000000000000 03000000 04000000 05000000 06000000"
    )


@settings(max_examples=25)
@given(
    width=st.integers(4, 24).map(lambda k: 16 * k),
    height=st.integers(4, 24).map(lambda k: 16 * k),
    form=st.sampled_from(["png", "jpeg", "webp"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_file_of_noise_with_the_longest_prompts_fits_what_is_leased_for_it(
    width: int, height: int, form: str, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    facts = pictures.Facts(
        prompt="p" * MAX_PROMPT_BYTES,
        negative_prompt="n" * MAX_PROMPT_BYTES,
        steps=150,
        sampler="dpmpp_2m_karras",
        guidance_scale=7.125,
        seed=2**64 - 1,
        variant="v" * 64,
        plan_json="j" * 2000,
    )
    file = pictures.encode(noise.tobytes(), (height, width), form, facts)
    assert len(file) <= layout.needed_bytes(height, width, 3, encoded=True)


def test_raw_pixels_need_exactly_their_bytes() -> None:
    assert layout.needed_bytes(64, 80, 3, encoded=False) == 64 * 80 * 3


# ---- pool ---------------------------------------------------------------------------------------

SMALL = st.lists(st.tuples(st.sampled_from([100, 200, 400]), st.integers(1, 3)), min_size=1, max_size=3)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.integers(1, 4), st.integers(1, 450)),
        st.tuples(st.sampled_from(["seal", "give_back"]), st.integers(0, 20), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(SMALL, OPERATIONS)
def test_no_slot_is_lost_or_handed_out_twice(
    classes: list[tuple[int, int]], operations: list[tuple[str, int, int]]
) -> None:
    pool = SlotPool(layout.plan(classes), first_generation=10)
    leased: list[Slot] = []
    sealed: list[Slot] = []
    generation = 10
    for what, number, nbytes in operations:
        held = leased + sealed
        if what == "lease":
            fitting = sum(count for capacity, count in classes if capacity >= nbytes)
            fitting -= sum(slot.nbytes >= nbytes for slot in held)
            taken = pool.lease(number, nbytes)
            assert (taken is not None) == (fitting >= number)
            for slot in taken or ():
                assert slot.nbytes >= nbytes
                assert slot.index not in {other.index for other in held}
                assert slot.generation > generation
                generation = slot.generation
                held.append(slot)
            leased += taken or ()
        elif what == "seal" and leased:
            slot = leased.pop(number % len(leased))
            pool.seal(slot.index)
            sealed.append(slot)
        elif what == "give_back" and held:
            slot = held[number % len(held)]
            (leased if slot in leased else sealed).remove(slot)
            pool.give_back(slot.index)
        assert pool.in_use() == {slot.index for slot in leased + sealed}
        assert pool.free + len(leased) + len(sealed) == pool.total == sum(n for _, n in classes)


@EXAMPLES
@given(SMALL, st.integers(1, 12), st.integers(0, 500))
def test_what_could_ever_be_held_is_what_an_empty_pool_leases(
    classes: list[tuple[int, int]], n: int, nbytes: int
) -> None:
    pool = SlotPool(layout.plan(classes), 0)
    assert pool.could_ever_hold(n, nbytes) == (pool.lease(n, nbytes) is not None)


@given(
    st.lists(st.tuples(st.sampled_from([5000, 9000, 20000]), st.integers(1, 3)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 20000)), max_size=4),
    st.integers(1, 6),
    st.integers(1, 25000),
)
def test_a_lease_is_promised_where_so_many_slots_are_free_that_are_large_enough(
    classes: list[tuple[int, int]], taken: list[tuple[int, int]], n: int, nbytes: int
) -> None:
    plan = layout.plan(classes)
    pool = SlotPool(plan, 0)
    for number, size in taken:
        pool.lease(number, size)
    free = [s for s in plan.slots if s.index not in pool.in_use() and s.capacity_bytes >= nbytes]
    assert pool.can_lease(n, nbytes) == (len(free) >= n)


def test_what_could_ever_be_held_does_not_depend_on_what_is_held_now() -> None:
    pool = SlotPool(layout.plan([(100, 2)]), 0)
    assert pool.lease(2, 100) is not None
    assert pool.could_ever_hold(2, 100)
    assert pool.could_ever_hold(1, 100)


def test_the_smallest_slot_that_does_is_taken() -> None:
    pool = SlotPool(layout.plan([(100, 1), (200, 1), (400, 1)]), 0)
    sizes = [slot.nbytes for _ in range(3) for slot in pool.lease(1, 90) or ()]
    assert sizes == [100, 200, 400]


def test_a_lease_that_does_not_fit_takes_nothing() -> None:
    pool = SlotPool(layout.plan([(100, 2)]), 0)
    assert pool.lease(3, 100) is None
    assert (pool.free, pool.in_use()) == (2, frozenset())


def test_a_lease_names_the_place_in_the_layout() -> None:
    plan = layout.plan([(100, 2), (200, 1)])
    for slot in SlotPool(plan, 0).lease(3, 50) or ():
        assert (slot.offset, slot.nbytes) == (
            plan.slots[slot.index].offset,
            plan.slots[slot.index].capacity_bytes,
        )


def test_only_leased_slots_can_be_sealed_and_only_held_ones_given_back() -> None:
    pool = SlotPool(layout.plan([(100, 1)]), 0)
    with pytest.raises(ValueError, match="slot 0 is free"):
        pool.seal(0)
    with pytest.raises(ValueError, match="slot 0 is free already"):
        pool.give_back(0)
    pool.lease(1, 100)
    pool.seal(0)
    with pytest.raises(ValueError, match="slot 0 is sealed"):
        pool.seal(0)
    pool.give_back(0)
    with pytest.raises(ValueError, match="slot 0 is free already"):
        pool.give_back(0)
    assert pool.free == 1


# ---- segment and reader -------------------------------------------------------------------------

PLAN = layout.plan([(100, 2), (12288, 1)])
SLOT = Slot(2, PLAN.slots[2].offset, 12288, 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a new segment."""
    return segment.create(tmp_path, PLAN)


@pytest.fixture
def writer(path: Path) -> Iterator[SegmentWriter]:
    """Return the segment's writer."""
    with SegmentWriter(path) as opened:
        yield opened


def test_a_segment_is_private_and_allocated_whole(path: Path) -> None:
    info = path.stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_size == PLAN.total_bytes
    assert info.st_blocks * 512 >= PLAN.total_bytes


def test_two_segments_have_names_that_cannot_be_guessed(tmp_path: Path) -> None:
    one, other = (segment.create(tmp_path, PLAN) for _ in range(2))
    assert one != other
    assert len(one.name) >= 32


def test_pixels_are_read_as_they_were_written(path: Path, writer: SegmentWriter) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    canvas = writer.canvas(SLOT, (64, 64, 3))
    canvas[...] = pixels
    sealed = writer.seal(SLOT, canvas.nbytes, (64, 64, 3))
    reader = SegmentReader(path)
    data = reader.image(SLOT.offset, sealed.nbytes, SLOT.generation)
    assert bytes(data) == pixels.tobytes()
    assert (sealed.index, sealed.nbytes) == (SLOT.index, 12288)
    assert sealed.crc32 == zlib.crc32(pixels.tobytes())
    assert reader.header(SLOT.offset) == Header(5, 12288, sealed.crc32, 64, 64, 3)
    assert matches(data, sealed.crc32)


def test_nobody_takes_what_is_on_a_canvas_for_a_picture_before_it_is_sealed(
    path: Path, writer: SegmentWriter
) -> None:
    writer.write(SLOT, memoryview(b"z" * 12288), (64, 64, 3))
    writer.canvas(Slot(2, SLOT.offset, 12288, 6), (64, 64, 3))[:32] = 7
    for generation in (5, 6):
        with pytest.raises(LeaseLost):
            SegmentReader(path).image(SLOT.offset, 12288, generation)


def test_a_canvas_must_fit_its_slot(writer: SegmentWriter) -> None:
    with pytest.raises(InternalError, match="12480 bytes do not fit a slot of 12288"):
        writer.canvas(Slot(2, SLOT.offset, 12288, 6), (65, 64, 3))


def test_a_slot_takes_exactly_what_it_can_hold(path: Path, writer: SegmentWriter) -> None:
    small = Slot(0, PLAN.slots[0].offset, 100, 1)
    writer.write(small, memoryview(b"x" * 100), (1, 1, 100))
    with pytest.raises(InternalError, match="101 bytes do not fit a slot of 100"):
        writer.write(small, memoryview(b"y" * 101), (1, 1, 101))
    assert bytes(SegmentReader(path).image(small.offset, 100, 1)) == b"x" * 100


def test_an_image_never_touches_its_neighbours(path: Path, writer: SegmentWriter) -> None:
    before = path.read_bytes()
    writer.write(SLOT, memoryview(b"z" * 12288), (64, 64, 3))
    after = path.read_bytes()
    assert after[: SLOT.offset] == before[: SLOT.offset]
    end = SLOT.offset + HEADER_BYTES + 12288
    assert after[end:] == before[end:]


def test_a_slot_that_was_used_again_is_a_lost_lease(path: Path, writer: SegmentWriter) -> None:
    reader = SegmentReader(path)
    writer.write(SLOT, memoryview(b"a" * 10), (1, 1, 10))
    view = reader.image(SLOT.offset, 10, 5)
    writer.write(Slot(2, SLOT.offset, 12288, 6), memoryview(b"b" * 10), (1, 1, 10))
    with pytest.raises(LeaseLost):
        reader.check(SLOT.offset, 5)
    with pytest.raises(LeaseLost):
        reader.image(SLOT.offset, 10, 5)
    assert bytes(view) == b"b" * 10  # which is why a reader checks after it has copied


def test_a_slot_that_is_being_written_again_is_a_lost_lease(path: Path, writer: SegmentWriter) -> None:
    reader = SegmentReader(path)
    writer.write(SLOT, memoryview(b"a" * 10), (1, 1, 10))
    with path.open("r+b") as file:  # what a writer does first
        file.seek(SLOT.offset)
        file.write(bytes(8))
    assert reader.header(SLOT.offset) is None
    with pytest.raises(LeaseLost):
        reader.check(SLOT.offset, 5)


def test_nothing_is_sealed_in_a_new_segment(path: Path) -> None:
    reader = SegmentReader(path)
    assert [reader.header(place.offset) for place in PLAN.slots] == [None] * 3


def test_a_wild_write_is_found_by_the_checksum(path: Path, writer: SegmentWriter) -> None:
    sealed = writer.write(SLOT, memoryview(b"a" * 100), (1, 1, 100))
    view = SegmentReader(path).image(SLOT.offset, 100, 5)
    assert matches(view, sealed.crc32)
    with path.open("r+b") as file:
        file.seek(SLOT.offset + HEADER_BYTES + 50)
        file.write(b"!")
    assert not matches(view, sealed.crc32)


def test_readers_cannot_write(path: Path) -> None:
    view = SegmentReader(path).bytes_at(0, 10)
    assert view.readonly


@pytest.mark.parametrize(
    "offset", [-1, -(2**70), PLAN.total_bytes, PLAN.total_bytes - HEADER_BYTES + 1, 2**64]
)
def test_an_offset_outside_is_refused(path: Path, offset: int) -> None:
    reader = SegmentReader(path)
    with pytest.raises(RemoteProtocolError, match="outside of the segment"):
        reader.header(offset)
    with pytest.raises(RemoteProtocolError, match="outside of the segment"):
        reader.image(offset, 1, 1)


@pytest.mark.parametrize(
    ("start", "nbytes"),
    [(-1, 1), (0, -1), (10, -5), (0, PLAN.total_bytes + 1), (PLAN.total_bytes, 1), (0, 2**80)],
)
def test_bytes_outside_are_refused(path: Path, start: int, nbytes: int) -> None:
    with pytest.raises(RemoteProtocolError, match="outside of the segment"):
        SegmentReader(path).bytes_at(start, nbytes)


@pytest.mark.parametrize("data", [b"", b"DIFSSEG", b"DIFSSEG2" + bytes(4088), bytes(4096)])
def test_a_file_without_the_magic_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(RemoteProtocolError, match="no image segment"):
        SegmentReader(tmp_path / "file")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError, match="no image segment"):
        SegmentReader(tmp_path)
    with pytest.raises(RemoteProtocolError, match="cannot open"):
        SegmentReader(tmp_path / "absent")


def test_a_path_that_no_system_takes_is_refused() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(RemoteProtocolError):
            SegmentReader(Path(name))


def test_a_link_to_a_segment_is_refused(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(RemoteProtocolError, match="cannot open"):
        SegmentReader(link)
    with pytest.raises(OSError, match="symbolic"):
        SegmentWriter(link)


def test_a_full_tmpfs_is_a_config_error_that_names_what_is_needed_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError) as caught:
        segment.create(tmp_path, PLAN)
    needed, free = map(int, re.findall(r"\b(\d+) (?:bytes|are free)", caught.value.message))
    assert needed == PLAN.total_bytes
    assert free > 0
    assert list(tmp_path.iterdir()) == []


def test_slots_beyond_all_memory_are_a_config_error(tmp_path: Path) -> None:
    more_than_a_file_can_have = layout.plan([(2**53, 4096)])
    with pytest.raises(ConfigError, match="bytes in"):
        segment.create(tmp_path, more_than_a_file_can_have)
    assert list(tmp_path.iterdir()) == []


# ---- reaper -------------------------------------------------------------------------------------


def dead_tag() -> str:
    """Return the tag of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tag = reaper.process_tag(child.pid)
        assert child.stdin is not None
        child.stdin.close()
    assert tag is not None
    return tag


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    tag = reaper.process_tag(os.getpid())
    assert re.fullmatch(rf"{os.getpid()}\.\d+", tag or "")
    assert tag == reaper.process_tag(os.getpid())


def test_who_has_ended_has_no_tag() -> None:
    pid = int(dead_tag().partition(".")[0])
    assert reaper.process_tag(pid) is None
    assert reaper.process_tag(2**40) is None


def test_who_has_ended_and_was_not_waited_for_has_no_tag() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert reaper.process_tag(child.pid) is None
    finally:
        child.communicate()


def test_only_the_folders_of_the_dead_are_removed(tmp_path: Path) -> None:
    mine = segment.make_home(tmp_path)
    segment.create(mine, PLAN)
    root = mine.parent
    dead = root / f"{dead_tag()}.0123456789abcdef"
    earlier = root / f"{os.getpid()}.1.0123456789abcdef"  # one with our number, before us
    for folder in (dead, earlier):
        folder.mkdir()
        (folder / "segment").write_bytes(b"x")
    assert set(reaper.reap(tmp_path)) == {dead, earlier}
    assert list(root.iterdir()) == [mine]
    assert len(list(mine.iterdir())) == 1
    assert reaper.reap(tmp_path) == []


def test_what_is_not_ours_by_its_name_is_left_alone(tmp_path: Path) -> None:
    root = reaper.owners_root(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (root / "notes.txt.x").mkdir()
    (root / "²").mkdir()
    (root / "1.2.abc").symlink_to(tmp_path / "elsewhere")
    assert reaper.reap(tmp_path) == []
    assert (tmp_path / "elsewhere").is_dir()


def test_a_home_is_private_and_bears_its_owners_tag(tmp_path: Path) -> None:
    home, other = segment.make_home(tmp_path), segment.make_home(tmp_path)
    assert home != other
    assert home.parent.name == f"difs-{os.getuid()}"
    assert home.name.startswith(f"{reaper.process_tag(os.getpid())}.")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (home, home.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707, 0o701])
def test_a_root_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    reaper.owners_root(tmp_path).chmod(mode)
    with pytest.raises(ConfigError, match="mode 0700"):
        reaper.reap(tmp_path)
    with pytest.raises(ConfigError, match="mode 0700"):
        segment.make_home(tmp_path)


def test_a_root_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    root = tmp_path / f"difs-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        reaper.owners_root(tmp_path)
    root.unlink()
    root.touch(0o600)
    with pytest.raises(ConfigError):
        reaper.owners_root(tmp_path)


def test_a_root_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shm\.dir: cannot make"):
        reaper.owners_root(tmp_path / "absent")
