"""What is told of a run: how promises were kept, what was delivered, what it cost. Pure arithmetic."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from difs.simulation.ledger import Fate, Ledger

POINTS = 240
"""Samples of memory that are told, at most."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def of_run(ledger: Ledger) -> dict[str, Any]:
    """Return the figures of a run, fit for JSON.

    `quality_attainment`, the one to compare by, is the mean delivered quality of all requests; what was
    refused, failed, or came after its latency counts 0.
    """
    fates = list(ledger.fates.values())
    done = [f for f in fates if f.is_delivered]
    goals = [f for f in fates if f.asked.requirements.latency_s is not None]
    promised = [f for f in goals if f.promised]
    seconds = sooner(fates)
    known = [f.quality for f in done if f.quality is not None]
    worth = sum(f.quality or 0.0 for f in done if f.is_kept)
    counts, attempts = ledger.counts, ledger.counts["hits"] + ledger.counts["misses"]
    span_s = max((f.arrived_at for f in fates), default=0.0)
    return {
        "requests": len(fates),
        "delivered": len(done),
        "quality_attainment": share(worth, len(fates)),
        "attainment": share(sum(f.is_kept for f in goals), len(goals)),
        "promises_kept": share(sum(f.is_kept for f in promised), len(promised)),
        "goodput_hz": share(sum(f.is_kept for f in fates), span_s),
        "mean_quality": round(statistics.fmean(known), 4) if known else None,
        "mean_s": round(statistics.fmean(seconds), 4) if seconds else None,
        **{f"p{p}_s": round(percentile(seconds, p / 100), 4) if seconds else None for p in (50, 95, 99)},
        "variants": _shares(f.plan.variant for f in done if f.plan is not None),
        "refused": dict(sorted(Counter(f.code for f in fates if f.code and not f.is_accepted).items())),
        "failed": dict(sorted(Counter(f.code for f in fates if f.code and f.is_accepted).items())),
        "loads": counts["loads"],
        "evictions": counts["evictions"],
        "switches": counts["switches"],
        "hit_rate": share(counts["hits"], attempts),
        "busy": share(ledger.busy_s, ledger.devices * ledger.seconds),
        "lives_ended": {
            n.partition(": ")[2]: c for n, c in counts.items() if n.startswith("lives ended")
        },
        "memory_most": round(max((s.most for s in ledger.samples), default=0.0), 4),
        "seconds": round(ledger.seconds, 3),
        "log_hash": ledger.digest,
    }


def memory(ledger: Ledger) -> list[list[float]]:
    """Return rows (seconds, own, others' and parked bytes of all devices, devices at work) over time."""
    every = max(1, math.ceil(len(ledger.samples) / POINTS))
    return [[s.at, s.own, s.others, s.parked, s.busy] for s in ledger.samples[::every]]


def share(part: float, whole: float) -> float | None:
    """Return a part of a whole; None of nothing."""
    return round(part / whole, 4) if whole else None


def _shares(names: Any) -> dict[str, float]:
    found = Counter(names)
    return {name: round(count / found.total(), 4) for name, count in found.most_common()}


def sooner(fates: Sequence[Fate]) -> list[float]:
    """Return the seconds of what was delivered, ascending."""
    return sorted(f.seconds for f in fates if f.is_delivered)
