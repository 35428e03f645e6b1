"""How many threads compute: all cores but one, divided among the devices."""

import pytest

from difs import processes


@pytest.mark.parametrize(
    ("cores", "devices", "threads"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 0, 7), (16, 2, 7), (16, 4, 3), (4, 9, 1)],
)
def test_one_core_is_left_to_all_else(
    cores: int, devices: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: cores)
    assert processes.cores_share(devices) == threads
    assert processes.computing_environment(threads)["OMP_NUM_THREADS"] == str(threads)
