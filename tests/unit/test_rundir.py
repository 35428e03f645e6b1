"""difs.rundir: a private place, for one service at a time, that a child can read what it needs from."""

import os
import stat
from pathlib import Path

import pytest

from difs import config
from difs.errors import ConfigError, Unavailable
from difs.rundir import MAX_SOCKET_PATH, AlreadyRunning, RunDir


@pytest.fixture
def home(tmp_path: Path) -> RunDir:
    """Return a run directory that was made."""
    home = RunDir(tmp_path / "run")
    home.make()
    return home


def test_the_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    home = RunDir(tmp_path / "not" / "yet" / "there")
    home.make()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    home.make()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_naming_a_directory_touches_nothing(tmp_path: Path) -> None:
    home = RunDir(tmp_path / "run")
    assert not home.is_running()
    home.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
def test_a_directory_that_others_may_enter_is_refused(home: RunDir, mode: int) -> None:
    home.path.chmod(mode)
    with pytest.raises(ConfigError, match=r"service\.run_dir: .* with mode 0700"):
        home.make()
    assert stat.S_IMODE(home.path.stat().st_mode) == mode


def test_a_link_to_a_private_directory_is_refused(home: RunDir, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(home.path)
    with pytest.raises(ConfigError, match=r"service\.run_dir"):
        RunDir(link).make()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"service\.run_dir: cannot make"):
            RunDir(path).make()


def test_the_directory_of_another_user_is_refused(home: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    with pytest.raises(ConfigError, match="a folder of yours"):
        home.make()


def test_a_path_that_no_socket_can_have_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(tmp_path / "clients.sock")) - 1
    if room < 1:
        pytest.skip("the temporary folder's own path is too long")
    RunDir(tmp_path / ("x" * room)).make()
    longer = RunDir(tmp_path / ("y" * (room + 1)))
    with pytest.raises(ConfigError, match=r"108 bytes .* 107 are possible; choose a shorter"):
        longer.make()
    assert not longer.path.exists()


def test_a_socket_path_is_measured_in_bytes(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(tmp_path / "clients.sock")) - 1
    with pytest.raises(ConfigError, match="bytes in a socket's path"):
        RunDir(tmp_path / ("é" * (room // 2 + 1))).make()


def test_sockets_lie_in_the_directory_and_differ(home: RunDir) -> None:
    assert home.clients.startswith(f"ipc://{home.path}/")
    assert home.actors.startswith(f"ipc://{home.path}/")
    assert home.clients != home.actors


# ---- the lock -----------------------------------------------------------------------------------


def test_a_second_service_is_refused_and_told_who_holds_the_directory(home: RunDir) -> None:
    fd = home.take()
    try:
        with pytest.raises(AlreadyRunning) as caught:
            RunDir(home.path).take()
        assert f"process {os.getpid()}" in caught.value.message
        assert home.is_running()
    finally:
        os.close(fd)


def test_the_next_service_may_take_what_the_last_left(home: RunDir) -> None:
    home.lock.write_text("99999999999999")
    os.close(home.take())
    assert not home.is_running()
    fd = home.take()
    try:
        assert home.lock.read_text() == str(os.getpid())
    finally:
        os.close(fd)


def test_looking_does_not_take(home: RunDir) -> None:
    assert not home.is_running()
    assert not home.lock.exists()
    os.close(home.take())
    assert not home.is_running()
    os.close(home.take())


def test_the_lock_is_not_inherited_and_is_private(home: RunDir) -> None:
    fd = home.take()
    try:
        assert not os.get_inheritable(fd)
        assert stat.S_IMODE(home.lock.stat().st_mode) == 0o600
    finally:
        os.close(fd)


# ---- facts --------------------------------------------------------------------------------------


def test_a_child_reads_the_facts_that_were_written(home: RunDir) -> None:
    settings = config.Config(policy=config.PolicyChoice(name="round_robin"))
    home.write_facts(settings, {"cpu-0": "/shm/a", "cpu-1": "/shm/b"})
    assert home.read_facts() == (settings, {"cpu-0": Path("/shm/a"), "cpu-1": Path("/shm/b")})


def test_without_facts_no_service_runs(home: RunDir) -> None:
    with pytest.raises(Unavailable, match="no service runs in"):
        home.read_facts()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"cpu-0": 5}', b"\xff"])
def test_broken_facts_are_no_service(home: RunDir, data: bytes) -> None:
    home.write_facts(config.Config(), {})
    home.segments.write_bytes(data)
    with pytest.raises(Unavailable, match="no service runs in"):
        home.read_facts()


def test_what_a_stopped_service_leaves_is_cleared_but_its_lock_and_log_stay(home: RunDir) -> None:
    os.close(home.take())
    home.log.touch()
    home.write_facts(config.Config(), {})
    for name in ("clients.sock", "actors.sock"):
        (home.path / name).touch()
    home.clear()
    assert sorted(path.name for path in home.path.iterdir()) == ["difs.log", "lock"]
    home.clear()
