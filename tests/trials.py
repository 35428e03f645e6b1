"""Trials made by hand, for the tests of what is told, compared and drawn of them."""

from collections.abc import Sequence
from typing import Any

from difs.messages import StatusReport
from difs.simulation.scenario import Arrivals, Wish
from difs.trials import workload as workloads
from difs.trials.records import End, Header, Look, Request, Seen, Trial
from difs.trials.workload import Workload

MIX = (Wish(), Wish(latency_s=1.0), Wish(latency_s=0.5, on_infeasible="reject"))
REPORT = StatusReport(1, "1", "modelless", True, False, 1.0, 0, 0, 0, (), {})


def workload(**facts: Any) -> Workload:
    known: dict[str, Any] = {
        "seed": 1,
        "arrivals": Arrivals(rate_hz=5.0, seconds=20.0),
        "mix": MIX,
        "prompts": ("a cat", "a dog", "a fox"),
    }
    return Workload(**known | facts)


def delivered(number: int, latency_s: float, **facts: Any) -> Request:
    """Return a request that was due at `number` / 5 s and got its picture."""
    due_s = number / 5
    known: dict[str, Any] = {
        "kind": 0,
        "due_s": due_s,
        "sent_s": due_s + 0.001,
        "ended_s": due_s + latency_s,
        "accepted": True,
        "predicted_s": latency_s,
        "variant": "base",
        "steps": 4,
        "quality": 0.8,
        "queue_s": 0.1 * latency_s,
        "steps_s": 0.5 * latency_s,
        "total_s": 0.9 * latency_s,
    }
    return Request(number, **known | facts)


def lost(number: int, code: str, **facts: Any) -> Request:
    due_s = number / 5
    known: dict[str, Any] = {"kind": 0, "due_s": due_s, "sent_s": due_s, "ended_s": due_s + 0.01}
    return Request(number, **known | facts, code=code)


def looks() -> tuple[Look, ...]:
    def seen(device: str, **facts: Any) -> Seen:
        return Seen(device, total_bytes=2**30, own_bytes=2**28, other_bytes=2**20, **facts)

    return (
        Look(-1.0, 0, 0, 0, (seen("cpu-0", residents=("base",)), seen("cpu-1", loading=("base",)))),
        Look(0.0, 2, 1, 1, (seen("cpu-0", residents=("base",)), seen("cpu-1", residents=("base",)))),
        Look(1.0, 1, 0, 1, (seen("cpu-0", parked=("base",)), seen("cpu-1", residents=("base",)))),
    )


def trial(requests: Sequence[Request], *, end: End | None = None, **facts: Any) -> Trial:
    asked = workload(**facts)
    header = Header(
        format=1,
        began="2026-01-01T00:00:00+00:00",
        command="difs bench",
        workload=asked,
        digest=workloads.digest(asked, workloads.schedule(asked)),
        requests=len(requests),
        window_s=asked.arrivals.seconds,
        generator={"processor": "one", "packages": {"difs": "1"}},
        service=REPORT,
    )
    return Trial("by-hand", header, tuple(requests), looks(), end or End(20.0, 1.0))
