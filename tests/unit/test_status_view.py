"""difs.status_view: what `difs status` shows of a report."""

from typing import Any, cast

import pytest

from difs import status_view, terminal
from difs.client import Client
from difs.messages import DeviceStatus, Expected, Reading, Scaled, StatusReport

GB = 10**9
READING = Reading("cuda", 24 * GB, 9 * GB, 4 * GB, 15 * GB, 0.5, 61.0, 250.0, ("power",))


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **facts: Any) -> list[str]:
    """Return the lines of a status with one busy and one bare device, blanks squeezed."""
    monkeypatch.setattr(terminal.output, "_file", None)
    monkeypatch.setattr(terminal.output, "width", 200)
    busy = DeviceStatus(
        *("cuda-0", "ready", ("tiny", "wide"), 1, 2, 8, 0.5, 3, 4),
        reading=READING,
        memory_modes={"tiny": "sliced", "wide": "full"},
        loading=("third",),
        parked=("fourth",),
        states={"tiny": "overloaded", "wide": "active"},
        pinned=("wide",),
        pressure_bytes=GB // 2,
    )
    bare = DeviceStatus("cpu-1", "ready", (), 0, 0, 8, 0.0, 4, 4)
    head = (7, "1", "static", True, False, 1.5, 1, 2, 3)
    report = StatusReport(*head, (busy, bare), {"accepted": 1}, **facts)

    class Answering:
        def status(self) -> StatusReport:
            return report

    status_view.show(cast(Client, Answering()), watch=False)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_devices_are_shown_with_their_queues_memory_and_pressure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(capsys, monkeypatch)
    assert "cuda-0 ready 1 2/8 0.50 3/4 4.00 5.00 15.00 24.00 0.50 50% 61 250 power" in lines
    assert "cpu-1 ready 0 0/8 0.00 4/4 - - - - - - - - -" in lines


def test_residents_are_shown_with_mode_and_state_and_what_loads_or_is_parked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(capsys, monkeypatch)
    assert "cuda-0 tiny loaded sliced overloaded" in lines
    assert "cuda-0 wide loaded full active pinned" in lines
    assert "cuda-0 third loading - inactive" in lines
    assert "cuda-0 fourth parked - inactive" in lines


def test_forecasts_and_decisions_are_shown_with_their_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(
        capsys,
        monkeypatch,
        planner="utility",
        expected=(Expected(0.5, 15.0, None, None, 2.0, 4.0), Expected(0.1, 3.0, "tiny")),
        decisions=(Scaled(3.2, "set_mode", "cuda-0", "tiny", "others take 5.00 GB", "sliced"),),
    )
    assert any("planner utility" in line for line in lines)
    assert "any variant within 2 s 30.0 4" in lines
    assert "tiny 6.0 -" in lines
    assert "3 set_mode cuda-0 tiny sliced others take 5.00 GB" in lines


def test_where_nothing_is_planned_no_table_of_it_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("because" in line or "next in s" in line for line in shown(capsys, monkeypatch))
