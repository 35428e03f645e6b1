"""difs.rundir: one service a directory, and the directory is its user's alone."""

import os
import stat
from pathlib import Path

import pytest

from difs import config
from difs.errors import ConfigError, Unavailable
from difs.rundir import MAX_SOCKET_PATH, AlreadyRunning, RunDir


def made(tmp_path: Path) -> RunDir:
    """Return a run directory that exists."""
    home = RunDir(tmp_path / "a" / "run")
    home.make()
    return home


def test_the_directory_is_made_private_with_its_parents(tmp_path: Path) -> None:
    home = made(tmp_path)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    home.make()


def test_the_sockets_lie_in_the_directory(tmp_path: Path) -> None:
    home = RunDir(tmp_path)
    assert home.clients == f"ipc://{tmp_path}/clients.sock"
    assert home.actors == f"ipc://{tmp_path}/actors.sock"
    assert list(tmp_path.iterdir()) == [], "naming touches nothing"


@pytest.mark.parametrize("kind", ["open to others", "link", "file", "below a file"])
def test_a_directory_that_is_not_ours_alone_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    match kind:
        case "open to others":
            path.mkdir()
            path.chmod(0o750)
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "elsewhere")
        case "file":
            path.write_text("")
        case _:
            path.write_text("")
            path = path / "deeper"
    with pytest.raises(ConfigError, match=r"service\.run_dir"):
        RunDir(path).make()


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(tmp_path)) - len("//clients.sock")
    fits, long = tmp_path / ("x" * room), tmp_path / ("y" * (room + 1))
    RunDir(fits).make()
    with pytest.raises(ConfigError, match="shorter"):
        RunDir(long).make()
    assert not long.exists()


def test_a_directory_is_taken_by_one_at_a_time(tmp_path: Path) -> None:
    home = made(tmp_path)
    assert not home.is_running()
    lock = home.take()
    assert home.is_running()
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        RunDir(home.path).take()
    os.close(lock)
    assert not home.is_running()
    os.close(home.take())


def test_a_lock_that_somebody_left_is_no_lock(tmp_path: Path) -> None:
    home = made(tmp_path)
    home.lock.write_text("12345678")
    assert not home.is_running()
    lock = home.take()
    assert home.lock.read_text() == str(os.getpid())
    os.close(lock)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    home = made(tmp_path)
    (tmp_path / "victim").write_text("precious")
    home.lock.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        home.take()
    assert not home.is_running()
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_lock_is_not_inherited_by_children(tmp_path: Path) -> None:
    lock = made(tmp_path).take()
    assert not os.get_inheritable(lock)
    os.close(lock)


def test_facts_come_back_as_they_were_written(tmp_path: Path) -> None:
    home = made(tmp_path)
    settings = config.parse({"policy": {"name": "round_robin"}, "broker": {"lease": "5s"}})
    home.write_facts(settings, {"cpu-0": "/dev/shm/x", "cpu-1": "/dev/shm/y"})
    found, segments = home.read_facts()
    assert found == settings
    assert segments == {"cpu-0": Path("/dev/shm/x"), "cpu-1": Path("/dev/shm/y")}


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b'{"broker": {"max_queued": 0}}'])
def test_without_readable_facts_no_service_runs(data: bytes | None, tmp_path: Path) -> None:
    home = made(tmp_path)
    home.write_facts(config.Config(), {})
    if data is None:
        home.config.unlink()
    else:
        home.config.write_bytes(data)
    with pytest.raises(Unavailable, match="no service runs"):
        home.read_facts()


def test_what_a_stopped_service_leaves_is_cleared_but_lock_and_log(tmp_path: Path) -> None:
    home = made(tmp_path)
    home.write_facts(config.Config(), {})
    for name in ("clients.sock", "actors.sock", "lock", "difs.log"):
        (home.path / name).write_text("")
    home.clear()
    assert {path.name for path in home.path.iterdir()} == {"lock", "difs.log"}
    home.clear()
