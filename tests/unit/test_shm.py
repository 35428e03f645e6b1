"""difs.shm: layout, pool, segment, reader, reaper."""

import errno
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from difs.actor_messages import Slot
from difs.errors import ConfigError, InternalError, LeaseLost, RemoteProtocolError
from difs.messages import MAX_PROMPT_BYTES
from difs.pictures import Facts, encode
from difs.shm import layout, reaper, segment
from difs.shm.layout import HEADER_BYTES, PAGE_BYTES, Header
from difs.shm.pool import SlotPool
from difs.shm.reader import SegmentReader, matches
from difs.shm.segment import SegmentWriter

CLASSES = st.lists(st.tuples(st.integers(1, 100_000), st.integers(0, 6)), max_size=5)

# ---- layout -------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(classes=CLASSES)
def test_slots_lie_on_pages_one_behind_the_other_within_the_segment(
    classes: list[tuple[int, int]],
) -> None:
    plan = layout.plan(classes)
    end = PAGE_BYTES
    for index, slot in enumerate(plan.slots):
        assert slot.index == index
        assert slot.offset % PAGE_BYTES == 0
        assert slot.offset >= end, "overlaps the slot before it, or the segment's own header"
        end = slot.offset + HEADER_BYTES + slot.capacity_bytes
    assert end <= plan.total_bytes < end + PAGE_BYTES
    assert plan.total_bytes % PAGE_BYTES == 0
    capacities = [slot.capacity_bytes for slot in plan.slots]
    assert capacities == sorted(size for size, count in classes for _ in range(count))


@given(
    header=st.builds(
        Header,
        generation=st.integers(0, 2**64 - 1),
        nbytes=st.integers(0, 2**64 - 1),
        crc32=st.integers(0, 2**32 - 1),
        height=st.integers(0, 2**32 - 1),
        width=st.integers(0, 2**32 - 1),
        channels=st.integers(0, 2**32 - 1),
    )
)
@settings(max_examples=100)
def test_a_slot_header_comes_back_as_it_was_packed(header: Header) -> None:
    packed = layout.pack(header)
    assert len(packed) <= HEADER_BYTES
    assert layout.unpack(packed + bytes(HEADER_BYTES - len(packed))) == header


def test_what_no_actor_sealed_is_no_header() -> None:
    assert layout.unpack(bytes(HEADER_BYTES)) is None
    assert layout.unpack(b"DIFSIMG2" + bytes(HEADER_BYTES - 8)) is None


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 1024), (1024, 64), (512, 512)])
def test_the_worst_image_file_fits_what_is_leased_for_it(form: str, height: int, width: int) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8).tobytes()
    text = "\u20ac" * (MAX_PROMPT_BYTES // 3)
    facts = Facts(text, text, 150, "dpmpp_2m_karras", 50.0, 2**64 - 1, "v" * 64, '"' + "p" * 4000 + '"')
    needed = layout.needed_bytes(height, width, 3, encoded=True)
    assert len(encode(noise, (height, width), form, facts)) <= needed


def test_raw_pixels_need_their_own_size() -> None:
    assert layout.needed_bytes(64, 128, 3, encoded=False) == 64 * 128 * 3


# ---- pool ---------------------------------------------------------------------------------------


def test_the_smallest_slots_that_fit_are_leased() -> None:
    pool = SlotPool(layout.plan([(300, 1), (100, 2), (200, 1)]), 0)
    leased = pool.lease(2, 101)
    assert leased is not None
    assert [slot.nbytes for slot in leased] == [200, 300]
    assert pool.lease(1, 101) is None
    assert pool.free == 2


def test_not_enough_slots_means_that_none_is_taken() -> None:
    pool = SlotPool(layout.plan([(100, 2)]), 0)
    assert pool.lease(3, 10) is None
    assert pool.lease(1, 101) is None
    assert (pool.free, pool.in_use()) == (2, frozenset())


@pytest.mark.parametrize(
    ("n", "nbytes", "could"),
    [(1, 300, True), (1, 301, False), (2, 150, True), (3, 150, False), (4, 1, True)],
)
def test_a_pool_knows_what_it_can_never_hold(n: int, nbytes: int, could: bool) -> None:
    pool = SlotPool(layout.plan([(300, 1), (100, 2), (200, 1)]), 0)
    pool.lease(4, 1)
    assert pool.could_ever_hold(n, nbytes) is could


def test_slots_are_sealed_and_given_back_once() -> None:
    pool = SlotPool(layout.plan([(100, 1)]), 0)
    with pytest.raises(ValueError, match="free already"):
        pool.give_back(0)
    with pytest.raises(ValueError, match="not leased"):
        pool.seal(0)
    assert pool.lease(1, 1)
    pool.seal(0)
    with pytest.raises(ValueError, match="not leased"):
        pool.seal(0)
    pool.give_back(0)
    assert pool.free == 1


class PoolMachine(RuleBasedStateMachine):
    """Leases, seals and returns in any order, against a set of what is in hand."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = layout.plan([(100, 3), (200, 2), (400, 1)])
        self.pool = SlotPool(self.plan, 1 << 32)
        self.leased: dict[int, bool] = {}
        self.generation = 1 << 32

    @rule(n=st.integers(1, 4), nbytes=st.sampled_from([1, 100, 101, 200, 399, 401]))
    def lease(self, n: int, nbytes: int) -> None:
        fitting = [
            s for s in self.plan.slots if s.capacity_bytes >= nbytes and s.index not in self.leased
        ]
        slots = self.pool.lease(n, nbytes)
        assert (slots is None) == (len(fitting) < n)
        for slot in slots or ():
            assert slot.index not in self.leased
            assert slot.nbytes >= nbytes
            assert (slot.offset, slot.nbytes) == (
                self.plan.slots[slot.index].offset,
                self.plan.slots[slot.index].capacity_bytes,
            )
            assert slot.generation > self.generation, "generations only grow"
            self.generation = slot.generation
            self.leased[slot.index] = False

    @precondition(lambda self: not all(self.leased.values()))
    @rule()
    def seal(self) -> None:
        index = next(i for i, is_sealed in self.leased.items() if not is_sealed)
        self.pool.seal(index)
        self.leased[index] = True

    @precondition(lambda self: self.leased)
    @rule(pick=st.integers(0, 5))
    def give_back(self, pick: int) -> None:
        index = list(self.leased)[pick % len(self.leased)]
        self.pool.give_back(index)
        del self.leased[index]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.pool.in_use() == set(self.leased)
        assert self.pool.free + len(self.leased) == self.pool.total == 6


def test_a_pool_never_loses_a_slot_nor_leases_one_twice() -> None:
    run_state_machine_as_test(
        PoolMachine, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )


# ---- segment and reader -------------------------------------------------------------------------

PLAN = layout.plan([(4096, 3)])
PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def slot(index: int = 0, generation: int = 5) -> Slot:
    """Return a lease of a slot of PLAN."""
    place = PLAN.slots[index]
    return Slot(index, place.offset, place.capacity_bytes, generation)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a new segment."""
    return segment.create(tmp_path, PLAN)


def test_a_segment_is_private_whole_and_marked(path: Path, tmp_path: Path) -> None:
    info = path.stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_size == PLAN.total_bytes
    assert info.st_blocks * 512 >= PLAN.total_bytes, "allocated now, so that no write can fail later"
    assert path.read_bytes()[:8] == layout.SEGMENT_MAGIC
    assert len(path.name) == 32
    assert path != segment.create(tmp_path, PLAN)


def test_what_is_written_is_what_is_read(path: Path) -> None:
    with SegmentWriter(path) as writer:
        sealed = writer.write_pixels(slot(), PIXELS)
    reader = SegmentReader(path)
    data = reader.image(slot().offset, sealed.nbytes, generation=5)
    assert data.readonly
    assert bytes(data) == PIXELS.tobytes()
    assert (sealed.index, sealed.nbytes) == (0, PIXELS.nbytes)
    assert matches(data, sealed.crc32)
    assert sealed.crc32 == zlib.crc32(PIXELS.tobytes())
    assert reader.header(slot().offset) == Header(5, PIXELS.nbytes, sealed.crc32, 16, 16, 3)


def test_pixels_that_do_not_lie_in_order_are_written_in_order(path: Path) -> None:
    mirrored = np.broadcast_to(PIXELS[:, ::-1], PIXELS.shape)
    with SegmentWriter(path) as writer:
        sealed = writer.write_pixels(slot(), mirrored)
    assert bytes(SegmentReader(path).image(slot().offset, sealed.nbytes, 5)) == mirrored.tobytes()


def test_images_do_not_touch_each_other(path: Path) -> None:
    full = [np.full((4096,), i, np.uint8) for i in range(3)]
    with SegmentWriter(path) as writer:
        for i in (1, 0, 2, 1):
            writer.write(slot(i), full[i].data, (1, 4096, 1))
    reader = SegmentReader(path)
    for i in range(3):
        assert bytes(reader.image(slot(i).offset, 4096, 5)) == full[i].tobytes()


def test_an_image_that_does_not_fit_is_refused_and_nothing_written(path: Path) -> None:
    before = path.read_bytes()
    with SegmentWriter(path) as writer, pytest.raises(InternalError, match="do not fit"):
        writer.write(slot(), memoryview(bytes(4097)), (1, 4097, 1))
    assert path.read_bytes() == before


def test_a_reader_notices_that_a_slot_was_used_again(path: Path) -> None:
    reader = SegmentReader(path)
    with SegmentWriter(path) as writer:
        writer.write_pixels(slot(generation=5), PIXELS)
        reader.check(slot().offset, 5)
        writer.write_pixels(slot(generation=6), PIXELS)
    for lost in (lambda: reader.check(slot().offset, 5), lambda: reader.image(slot().offset, 10, 5)):
        with pytest.raises(LeaseLost):
            lost()
    assert reader.image(slot().offset, PIXELS.nbytes, 6)


def test_an_image_that_is_half_written_is_nobodys(path: Path) -> None:
    """The mark goes first and comes last: a crash in between leaves no whole image."""
    reader = SegmentReader(path)
    with SegmentWriter(path) as writer:
        writer.write_pixels(slot(generation=5), PIXELS)
        with pytest.raises(ValueError, match="shape|byte|size|assignment"):
            writer.write(slot(generation=6), memoryview(PIXELS), PIXELS.shape)  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        reader.check(slot().offset, 5)
    with pytest.raises(LeaseLost):
        reader.check(slot().offset, 6)


def test_spoiled_pixels_do_not_match_their_crc(path: Path) -> None:
    with SegmentWriter(path) as writer:
        sealed = writer.write_pixels(slot(), PIXELS)
    with path.open("r+b") as file:
        file.seek(slot().offset + HEADER_BYTES + 100)
        file.write(b"\xff")
    data = SegmentReader(path).image(slot().offset, sealed.nbytes, 5)
    assert not matches(data, sealed.crc32)


@pytest.mark.parametrize("offset", [-1, PLAN.total_bytes, PLAN.total_bytes - HEADER_BYTES + 1, 2**63])
def test_offsets_outside_of_the_segment_are_refused(path: Path, offset: int) -> None:
    with pytest.raises(RemoteProtocolError):
        SegmentReader(path).header(offset)


@pytest.mark.parametrize(("start", "nbytes"), [(-1, 5), (0, -1), (0, PLAN.total_bytes + 1), (2**62, 1)])
def test_bytes_outside_of_the_segment_are_refused(path: Path, start: int, nbytes: int) -> None:
    with pytest.raises(RemoteProtocolError):
        SegmentReader(path).bytes_at(start, nbytes)


@pytest.mark.parametrize("kind", ["missing", "empty", "other", "folder", "link"])
def test_what_is_no_segment_is_refused(kind: str, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    match kind:
        case "empty":
            other.write_bytes(b"")
        case "other":
            other.write_bytes(b"root:x:0:0" * 1000)
        case "folder":
            other.mkdir()
        case "link":
            other.symlink_to(path)
    with pytest.raises(RemoteProtocolError):
        SegmentReader(other)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM, errno.EFBIG])
def test_a_segment_that_does_not_fit_is_a_configuration_error_and_leaves_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, start: int, nbytes: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(ConfigError, match=f"shm.slots need {PLAN.total_bytes} bytes"):
        segment.create(tmp_path, PLAN)
    assert list(tmp_path.iterdir()) == []


def test_another_failure_of_the_system_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, start: int, nbytes: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="broken disk"):
        segment.create(tmp_path, PLAN)
    assert list(tmp_path.iterdir()) == []


# ---- homes and the reaper -----------------------------------------------------------------------


def test_a_home_is_private_and_names_its_owner(tmp_path: Path) -> None:
    home = segment.make_home(tmp_path)
    assert home.parent == tmp_path / f"difs-{os.getuid()}"
    assert home.name.startswith(f"{reaper.process_tag(os.getpid())}.")
    for folder in (home, home.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_root_that_is_not_ours_alone_is_refused(kind: str, tmp_path: Path) -> None:
    root = tmp_path / f"difs-{os.getuid()}"
    match kind:
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            root.symlink_to(tmp_path / "elsewhere")
        case "file":
            root.write_bytes(b"")
        case _:
            root.mkdir()
            root.chmod(0o755)
    with pytest.raises(ConfigError):
        reaper.owners_root(tmp_path)


def test_a_shared_memory_folder_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shm\.dir"):
        reaper.owners_root(tmp_path / "missing")


def dead_pid() -> int:
    """Return the number of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def test_a_process_has_a_tag_while_it_lives() -> None:
    tag = reaper.process_tag(os.getpid())
    assert tag is not None
    assert tag.startswith(f"{os.getpid()}.")
    assert reaper.process_tag(os.getpid()) == tag
    assert reaper.process_tag(dead_pid()) is None
    assert reaper.process_tag(10**12) is None


def test_only_what_dead_owners_left_is_removed(tmp_path: Path) -> None:
    mine = segment.make_home(tmp_path)
    segment.create(mine, PLAN)
    root, own = mine.parent, os.getpid()
    (tmp_path / "elsewhere").mkdir()
    stays = {mine, root / "notes", root / "x.1.2", root / f"{10**12}.9.link"}
    (root / "notes").mkdir()
    (root / "x.1.2").mkdir()
    (root / f"{10**12}.9.link").symlink_to(tmp_path / "elsewhere")
    goes = {root / f"{dead_pid()}.5.aa", root / f"{own}.1.bb", root / f"{10**12}.7.cc"}
    for home in goes:
        home.mkdir()
        (home / "segment").write_bytes(b"x")
    assert set(reaper.reap(tmp_path)) == goes
    assert set(root.iterdir()) == stays
    assert reaper.reap(tmp_path) == []
    assert (tmp_path / "elsewhere").is_dir()
