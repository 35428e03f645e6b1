"""Starting a service: what is refused in words, and what is private."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from difs import Client
from difs.private import PrivateService
from difs.rundir import MAX_SOCKET_PATH
from tests.process.conftest import Start
from tests.process.service import (
    Service,
    assert_one_line,
    difs,
    end_all,
    picture,
    processes_of,
    segments_of,
    settings,
    sockets_in,
    until,
)

pytestmark = pytest.mark.process

ONE = ("--device", "simulated:1")


def refused(home: Path, *options: str, status: int = 78) -> str:
    """Return the one line with which `difs serve` refuses to start."""
    ended = difs("serve", "--run-dir", str(home), *ONE, *options)
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert_one_line(ended.stderr)
    assert not processes_of(home)
    return ended.stderr


# ---- the run directory ----------------------------------------------------------------------------


def test_the_run_directory_is_private_and_holds_the_sockets(start: Start) -> None:
    service = start(*ONE)
    home = service.home.path
    assert home.stat().st_mode & 0o777 == 0o700
    assert sorted(sockets_in(home)) == ["actors.sock", "clients.sock"]
    for path in home.iterdir():
        assert path.stat().st_uid == os.getuid()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_run_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    home = tmp_path / "run"
    home.mkdir()
    home.chmod(mode)
    assert "0700" in refused(home)
    assert list(home.iterdir()) == []


def test_a_run_directory_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    home = tmp_path / "link"
    home.symlink_to(tmp_path / "real")
    assert "must be a folder of yours" in refused(home)


def test_a_run_directory_that_is_a_file_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(tmp_path / "file")
    assert str(tmp_path / "file" / "sub") in refused(tmp_path / "file" / "sub")


def test_a_run_directory_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("x" * MAX_SOCKET_PATH)
    assert str(MAX_SOCKET_PATH) in refused(home)
    assert not home.exists()


def test_a_second_start_is_refused_and_the_first_goes_on(start: Start) -> None:
    service = start(*ONE)
    before = service.children()
    line = refused_second(service)
    assert str(service.home.path) in line
    assert f"process {service.pid}" in line
    assert service.children() == before
    with service.client.generate("unharmed", seed=1) as result:
        assert np.array_equal(result.images[0], picture("unharmed", 1))


def refused_second(service: Service) -> str:
    ended = difs("serve", "--run-dir", str(service.home.path), *ONE)
    assert ended.returncode == 73, ended.stderr
    assert_one_line(ended.stderr)
    return ended.stderr


def test_of_many_starts_at_once_one_serves(tmp_path: Path) -> None:
    home = tmp_path / "run"
    command = [sys.executable, "-m", "difs", "serve", "--run-dir", str(home), *ONE]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    try:
        until(lambda: sum(p.poll() is None for p in started) == 1, 30, "an end of all but one")
        [winner] = [p for p in started if p.poll() is None]
        assert winner.stdout is not None
        assert winner.stdout.readline().startswith("DIFS is ready on simulated-0")
        for loser in started:
            if loser is not winner:
                assert loser.returncode == 73
                assert_one_line(loser.communicate()[1])
        with Client(f"ipc://{home / 'clients.sock'}") as client:
            assert client.ping().ready
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(60) == 0
    finally:
        for process in started:
            process.kill()
            process.communicate()
        end_all(home)


def test_what_a_dead_service_left_in_the_run_directory_does_no_harm(start: Start) -> None:
    first = start(*ONE)
    home, pid = first.home.path, first.pid
    for victim in (pid, *first.children().values()):
        os.kill(victim, signal.SIGKILL)
    first.end(5)
    until(lambda: not processes_of(home), 3, "the end of all")
    assert sorted(sockets_in(home)) == ["actors.sock", "clients.sock"], "stale sockets"
    second = start(*ONE, home=home)
    assert second.client.ping().ready
    assert not segments_of(pid)


# ---- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("broker.leese='1s'", "broker.lease"),
        ("brokker.lease='1s'", "nearest known one is broker"),
        ("broker.lease=30", 'such as "30s"'),
        ("broker.max_attempts=11", "broker.max_attempts"),
        ("broker=3", "broker"),
        ("nonsense", "section.key=value"),
        ("=3", "unknown key"),
        ("policy.name=statik", "static"),
        ("actors.devices=['gpu']", "gpu"),
        ("actors.devices=['simulated:0']", "at least one"),
        ("shm.slots={'64KiB'=0}", "at least one slot"),
        ("shm.slots={'many'=1}", "shm.slots"),
        ("shm.dir='/nonexistent'", "/nonexistent"),
        ("service.model_repo='/nonexistent'", "/nonexistent"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(tmp_path: Path, setting: str, words: str) -> None:
    ended = difs("serve", "--run-dir", str(tmp_path / "run"), "--set", setting)
    assert ended.returncode == 78, ended.stderr
    assert_one_line(ended.stderr)
    assert words in ended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[broker]\nleese = '1s'\n[shm]\ndirr = '/x'\n", "broker.lease"),
        ("[broker\n", "is not TOML"),
        ("broker = 3\n", "must be a table"),
        ("service = 3\n", "must be a table"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "difs.toml"
    file.write_text(text)
    line = refused(tmp_path / "run", "--config", str(file), "--set", "broker.lease='10s'")
    assert words in line
    if "dirr" in text:
        assert "shm.dir" in line, "all problems at once"


@pytest.mark.parametrize(
    ("setting", "words"),
    [("actors.script='step_s = -1'", "step_s"), ("actors.preload=['no-such']", "no-such")],
)
def test_what_only_an_actor_can_refuse_ends_the_service_at_once(
    tmp_path: Path, setting: str, words: str
) -> None:
    home = tmp_path / "run"
    ended = difs("serve", "--run-dir", str(home), *ONE, "--set", setting, timeout_s=10)
    assert ended.returncode == 78, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not processes_of(home)


# ---- memory ---------------------------------------------------------------------------------------


def can_mount() -> bool:
    """Whether a private mount namespace with a tmpfs of our own is to be had here."""
    try:
        tried = subprocess.run(
            ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"],
            capture_output=True,
            check=False,
            timeout=10,
        )
    except OSError:
        return False
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="no private mount namespaces here")


@contextmanager
def served_on_tmpfs(home: Path, shm: Path, size: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a service in a mount namespace of its own, with a tmpfs of `size` at `shm`."""
    serve = [sys.executable, "-m", "difs", "serve", "--run-dir", str(home), *ONE]
    serve += settings(f"shm.dir='{shm}'", "shm.slots={'64KiB'=4, '1MiB'=3}")
    inner = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    with subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", inner, "sh", size, str(shm), *serve],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            end_all(home)


@needs_mounts
def test_shared_memory_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    shm.mkdir(mode=0o700)
    with served_on_tmpfs(tmp_path / "run", shm, "1m") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 78
    assert out == ""
    assert_one_line(err)
    numbers = [int(word) for word in err.split() if word.isdigit()]
    needed, free = numbers
    assert 3 * 2**20 < needed < 4 * 2**20, "three slots of 1 MiB and four small ones"
    assert 2**20 * 0.9 < free <= 2**20
    assert "[shm.slots]" in err


@needs_mounts
def test_shared_memory_that_others_fill_later_does_no_harm(tmp_path: Path) -> None:
    home, shm = tmp_path / "run", tmp_path / "shm"
    shm.mkdir(mode=0o700)
    with served_on_tmpfs(home, shm, "4m") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "DIFS is ready on simulated-0\n"
        inside = Path(f"/proc/{process.pid}/root") / shm.relative_to("/")
        with pytest.raises(OSError, match="No space left"), (inside / "filler").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        with Client(f"ipc://{home / 'clients.sock'}") as client:
            for seed in range(6):  # every slot is written for the first time
                result = client.generate("full", seed=seed, delivery="inline", width=512, height=512)
                assert np.array_equal(result.images[0], picture("full", seed, 512))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


# ---- a private service ----------------------------------------------------------------------------


def test_a_private_service_ends_with_its_owner() -> None:
    code = (
        "import sys\n"
        "from difs.private import PrivateService\n"
        "service = PrivateService(['--device', 'simulated:1'])\n"
        "service.start()\n"
        "print(service.home.path, service.process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        where, pid = owner.stdout.readline().split()
        try:
            assert len(processes_of(Path(where))) == 3
            owner.kill()
            until(lambda: not processes_of(Path(where)), 3, "the end of the service")
        finally:
            owner.kill()
            end_all(Path(where))
            shutil.rmtree(where)
    with Service(ONE):  # the next service of anybody removes what a dead one left
        assert not segments_of(int(pid))


def test_a_private_service_that_cannot_start_says_why() -> None:
    from difs.errors import Unavailable

    with pytest.raises(Unavailable, match=r"no policy 'nope'"):
        PrivateService(["--policy", "nope"]).start()
