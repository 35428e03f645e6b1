"""Cores that are kept awake for work, asked of a file that stands for the kernel's device."""

import logging
import os
import struct
from pathlib import Path

import pytest

from difs.actors.awake import Cores


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    file = tmp_path / "cpu_dma_latency"
    file.touch()
    return file


def holds(file: Path, process: int | str = "self") -> bool:
    """Whether a process has the file open, which is what the kernel goes by."""
    folder = Path(f"/proc/{process}/fd")
    return any(os.path.realpath(folder / name) == str(file) for name in os.listdir(folder))


def test_cores_are_asked_to_wake_at_once_while_there_is_work(request_file: Path) -> None:
    cores = Cores(2.0, request_file)
    assert not holds(request_file)
    cores.rouse(0.0)
    cores.rouse(1.9)
    assert holds(request_file)
    assert struct.unpack("i", request_file.read_bytes()) == (0,)


def test_cores_may_sleep_some_seconds_after_the_last_work_and_are_roused_again(
    request_file: Path,
) -> None:
    cores = Cores(2.0, request_file)
    cores.rouse(0.0)
    cores.rouse(2.0)
    assert not holds(request_file)
    cores.rouse(0.0)
    assert holds(request_file)
    cores.close()
    cores.close()
    assert not holds(request_file)


def test_with_no_seconds_nothing_is_asked(request_file: Path) -> None:
    Cores(0.0, request_file).rouse(0.0)
    assert not holds(request_file)
    assert request_file.read_bytes() == b""


@pytest.mark.parametrize("name", ["absent", "."])
def test_where_nobody_may_ask_it_is_said_once_and_work_goes_on(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cores = Cores(2.0, tmp_path / name)
    with caplog.at_level(logging.INFO):
        for rested_s in (0.0, 0.5, 9.0, 0.0):
            cores.rouse(rested_s)
    assert len(caplog.messages) == 1
    assert str(tmp_path / name) in caplog.text
    assert "actors.awake" in caplog.text
