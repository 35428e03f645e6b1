"""`difs status`: tables of a service's devices, residents, forecasts and decisions, once or live."""

import time
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.live import Live

from difs.client import Client
from difs.messages import DeviceStatus, Expected, Scaled, StatusReport
from difs.terminal import output, table

WATCH_S = 0.5
DECISIONS_SHOWN, EXPECTED_SHOWN = 8, 6


def show(client: Client, watch: bool) -> None:
    """Print the service's state once, or until interrupted."""
    if not watch:
        output.print(render(client.status()))
        return
    with Live(render(client.status()), console=output, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(render(client.status()), refresh=True)


def render(report: StatusReport) -> RenderableType:
    """Return a report as tables; what there is nothing of is left out."""
    state = "draining" if report.draining else "ready" if report.ready else "not ready"
    head = (
        f"DIFS {report.version}: {state} for {report.uptime_s:.0f} s, policy {report.policy};"
        f" {report.queued} queued, {report.running} running, {report.clients} clients;"
        f" planner {report.planner}"
    )
    names = (
        *("device", "state", "queued", "running", "backlog s", "slots free"),
        *("GB own", "others", "free", "of", "short", "busy", "C", "W", "slowed by"),
    )
    parts: list[RenderableType] = [head, table(names, [_device_row(d) for d in report.devices])]
    residents = [row for device in report.devices for row in _resident_rows(device)]
    if residents:
        parts += ["", table(("device", "variant", "where", "mode", "state", ""), residents)]
    if report.expected:
        rows = [_expected_row(e) for e in report.expected[:EXPECTED_SHOWN]]
        parts += ["", table(("expected", "a minute", "next in s"), rows)]
    if report.decisions:
        rows = [_decision_row(d) for d in report.decisions[:DECISIONS_SHOWN]]
        parts += ["", table(("s ago", "decided", "device", "variant", "mode", "because"), rows)]
    counts = "  ".join(f"{name} {count}" for name, count in sorted(report.counts.items()))
    return Group(*parts, "", counts or "no requests yet")


def _device_row(device: DeviceStatus) -> tuple[str, ...]:
    reading = device.reading
    memory = ("-", "-", "-", "-")
    if reading is not None:
        total, free, own = reading.memory_total_bytes, reading.memory_free_bytes, reading.memory_own_bytes
        memory = (_gb(own), _gb(max(0, total - free - own)), _gb(free), _gb(total))
    return (
        device.device,
        device.state,
        str(device.queued),
        f"{device.running}/{device.credits}",
        f"{device.backlog_s:.2f}",
        f"{device.slots_free}/{device.slots_total}",
        *memory,
        _gb(device.pressure_bytes) if device.pressure_bytes else "-",
        _share(reading.utilisation if reading else None),
        _number(reading.temperature_c if reading else None),
        _number(reading.power_w if reading else None),
        ", ".join(reading.throttled if reading else ()) or "-",
    )


def _resident_rows(device: DeviceStatus) -> Iterator[tuple[str, ...]]:
    """Yield what is on a device, on its way there, and parked."""
    for name in device.residents:
        mode, state = device.memory_modes.get(name, "-"), device.states.get(name, "-")
        yield device.device, name, "loaded", mode, state, "pinned" if name in device.pinned else ""
    for name in device.loading:
        yield device.device, name, "loading", "-", "inactive", "pinned" if name in device.pinned else ""
    for name in device.parked:
        yield device.device, name, "parked", "-", "inactive", ""


def _expected_row(found: Expected) -> tuple[str, ...]:
    what = found.variant or found.family or "any variant"
    within = f" within {found.latency_s:.2g} s" if found.latency_s is not None else ""
    return f"{what}{within}", f"{60 * found.rate_hz:.1f}", _number(found.next_s)


def _decision_row(found: Scaled) -> tuple[str, ...]:
    mode = found.memory_mode or "-"
    return f"{found.age_s:.0f}", found.action, found.device, found.variant, mode, found.reason


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
