"""What is told of a trial. Pure arithmetic over its lines.

Words and their meaning are those of `difs simulate` (`difs.simulation.figures`), so that what was
simulated and what was measured stand beside each other.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from difs.simulation.figures import percentile, share
from difs.simulation.scenario import Wish
from difs.trials.records import PHASES, UNFINISHED, Request, Trial
from difs.trials.workload import in_words

SHARES = (50, 95, 99)
ENOUGH = {50: 1, 95: 20, 99: 100}
"""Of how many values a percentile is told: of fewer it is the greatest value under another name."""
FEW = 20
LATE_SHARE = 0.1
"""Of the median latency: a generator that sends later than this measures itself."""
BUSY_SHARE = 0.8
"""Of one core: a generator that uses more may be what is slow."""
GROWTH, THIRD = 2.0, 10
"""A trial whose last third waits so many times as long as its first did not keep up; of how many."""


def of_trial(trial: Trial) -> dict[str, Any]:
    """Return the figures of a trial, fit for JSON.

    `attainment`: latencies kept, of all that stated one; refused counts as not kept. `promises_kept`: of
    those accepted as kept. `throughput_hz`: delivered a second, before the last request was due;
    `goodput_hz`: of these, in the latency where one was stated.
    `quality_attainment`: mean expected quality of all requests; not delivered or late counts 0.
    """
    told = trial.counted
    mix, window_s = trial.header.workload.mix, trial.window_s
    done = [r for r in told if r.is_delivered]
    goals = [r for r in told if mix[r.kind].latency_s is not None]
    promised = [r for r in goals if r.promised]
    good = [r for r in told if is_good(r, mix)]
    return {
        "requests": len(told),
        "delivered": len(done),
        "unfinished": sum(r.number >= 0 and r.code == UNFINISHED for r in trial.requests),
        "span_s": round(trial.span_s, 3),
        "offered_hz": share(len(told), window_s),
        "throughput_hz": share(sum(r.ended_s <= window_s for r in done), window_s),
        "goodput_hz": share(sum(r.ended_s <= window_s for r in good), window_s),
        "attainment": share(sum(is_good(r, mix) for r in goals), len(goals)),
        "promises_kept": share(sum(is_good(r, mix) for r in promised), len(promised)),
        "quality_attainment": share(sum(r.quality or 0.0 for r in good), len(told)),
        "mean_quality": _mean(r.quality for r in done),
        **_seconds([r.latency_s for r in done]),
        "phases": {name: _seconds([r.phases()[name] for r in done]) for name in PHASES},
        "prediction": _prediction(done),
        "variants": _variants(done),
        "kinds": [_kind(told, mix, kind) for kind in range(len(mix))],
        "refused": _codes(r for r in told if r.is_refused),
        "failed": _codes(r for r in told if not r.is_refused),
        "generator": _generator(trial),
        "doubts": doubts(trial),
    }


def is_good(request: Request, mix: Sequence[Wish]) -> bool:
    """Whether it got its pictures, and in the latency that it stated, if it did."""
    goal_s = mix[request.kind].latency_s
    return request.is_delivered and (goal_s is None or request.latency_s <= goal_s)


def doubts(trial: Trial) -> list[str]:
    """Return, in words, why the figures may not mean what they seem to."""
    done = [r for r in trial.counted if r.is_delivered]
    found = []
    if len(done) < FEW:
        found.append(f"{len(done)} delivered requests tell little: ask for more, or for longer")
    if trial.end is None:
        found.append("the trial did not come to its end: its file was cut off")
    elif trial.end.interrupted:
        found.append("the trial was interrupted: only what had ended until then is told")
    generator = _generator(trial)
    if done:
        median_s = statistics.median(r.latency_s for r in done)
        if (generator["late_p95_s"] or 0.0) > LATE_SHARE * median_s:
            words = (
                "the generator itself sent late (see `late`): give it a core of its own, or a lower rate"
            )
            found.append(words)
    if generator["cpu_share"] > BUSY_SHARE:
        found.append("the generator used most of a core: what it measures may be itself")
    if _grows([r.latency_s for r in done]):
        found.append(
            "latencies grew to the end: more was offered than the service can do, and a longer trial"
            " would show longer ones"
        )
    if trial.end is not None and trial.end.missed_looks:
        found.append(f"the service did not tell its state {trial.end.missed_looks} times")
    return found


def _grows(latencies: Sequence[float]) -> bool:
    third = len(latencies) // 3
    if third < THIRD:
        return False
    first, last = statistics.median(latencies[:third]), statistics.median(latencies[-third:])
    return last > GROWTH * first


def _seconds(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and percentiles; those of too few values are None."""
    ordered = sorted(values)
    found: dict[str, float | None] = {"mean_s": _mean(ordered)}
    for part in SHARES:
        enough = len(ordered) >= ENOUGH[part]
        found[f"p{part}_s"] = round(percentile(ordered, part / 100), 5) if enough else None
    return found


def errors(done: Iterable[Request]) -> list[float]:
    """Return by which part of the first prediction each took longer; negative: it was sooner."""
    return [(r.ended_s - r.sent_s) / r.predicted_s - 1.0 for r in done if r.predicted_s]


def _prediction(done: Sequence[Request]) -> dict[str, float | None]:
    """Return the error of the first prediction: its median, and the size that 50 and 90 % keep under."""
    signed = errors(done)
    sizes = sorted(abs(error) for error in signed)
    if not sizes:
        return dict.fromkeys(("median", "size_p50", "size_p90"))
    return {
        "median": round(statistics.median(signed), 4),
        "size_p50": round(percentile(sizes, 0.5), 4),
        "size_p90": round(percentile(sizes, 0.9), 4),
    }


def _variants(done: Sequence[Request]) -> dict[str, dict[str, Any]]:
    by_name: dict[str, list[Request]] = {}
    for r in done:
        by_name.setdefault(r.variant, []).append(r)
    return {
        name: {
            "share": share(len(own), len(done)),
            "mean_steps": _mean(r.steps for r in own),
            "mean_quality": _mean(r.quality for r in own),
            "mean_s": _mean(r.latency_s for r in own),
            "shared_by": _mean(r.shared_by for r in own),
        }
        for name, own in sorted(by_name.items(), key=lambda item: -len(item[1]))
    }


def _kind(told: Sequence[Request], mix: Sequence[Wish], kind: int) -> dict[str, Any]:
    own = [r for r in told if r.kind == kind]
    done = [r for r in own if r.is_delivered]
    states = mix[kind].latency_s is not None
    return {
        "what": in_words(mix[kind]),
        "requests": len(own),
        "delivered": len(done),
        "attainment": share(sum(is_good(r, mix) for r in own), len(own)) if states else None,
        "mean_quality": _mean(r.quality for r in done),
        **_seconds([r.latency_s for r in done]),
    }


def _generator(trial: Trial) -> dict[str, Any]:
    late = sorted(r.sent_s - r.due_s for r in trial.counted)
    end = trial.end
    whole_s = (end.at_s + trial.header.workload.warmup_s) if end else 0.0
    return {
        "late_p50_s": round(percentile(late, 0.5), 5) if late else None,
        "late_p95_s": round(percentile(late, 0.95), 5) if late else None,
        "late_max_s": round(late[-1], 5) if late else None,
        "cpu_share": round(end.cpu_s / whole_s, 4) if end and whole_s > 0 else 0.0,
    }


def _codes(requests: Iterable[Request]) -> dict[str, int]:
    return dict(Counter(r.code for r in requests if r.code).most_common())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 5) if known else None
