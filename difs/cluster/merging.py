"""What the nodes' services answer, as one answer. Pure; nodes are told apart by their names."""

from collections.abc import Mapping

from msgspec.structs import replace

from difs.messages import (
    AdapterInfo,
    BrokerMessage,
    Family,
    MetricsReport,
    Pong,
    StatusReport,
    VariantInfo,
    VariantList,
)

Answers = Mapping[str, BrokerMessage]
"""By node."""
NODE = "node"
"""The label of a node in metrics."""


def merged(answers: Answers) -> BrokerMessage:
    """Return the answers of all nodes to one question, as one; there is at least one."""
    first = next(iter(answers.values()))
    match first:
        case StatusReport():
            return _status({k: v for k, v in answers.items() if isinstance(v, StatusReport)})
        case VariantList():
            return _variants({k: v for k, v in answers.items() if isinstance(v, VariantList)})
        case MetricsReport():
            return _metrics({k: v for k, v in answers.items() if isinstance(v, MetricsReport)})
        case Pong():
            ready = any(isinstance(v, Pong) and v.ready for v in answers.values())
            return replace(first, ready=ready)
        case _:
            return first


def _status(reports: Mapping[str, StatusReport]) -> StatusReport:
    every = list(reports.values())
    counts: dict[str, int] = {}
    for report in every:
        for what, number in report.counts.items():
            counts[what] = counts.get(what, 0) + number
    return replace(
        every[0],
        ready=any(report.ready for report in every),
        draining=all(report.draining for report in every),
        uptime_s=max(report.uptime_s for report in every),
        queued=sum(report.queued for report in every),
        running=sum(report.running for report in every),
        clients=sum(report.clients for report in every),
        devices=tuple(
            replace(device, device=f"{node}/{device.device}")
            for node, report in reports.items()
            for device in report.devices
        ),
        counts=counts,
        position=next((r.position for r in every if r.position is not None), None),
        expected=tuple(one for report in every for one in report.expected),
        decisions=tuple(
            sorted(
                (
                    replace(one, device=f"{node}/{one.device}")
                    for node, report in reports.items()
                    for one in report.decisions
                ),
                key=lambda one: one.age_s,
            )
        ),
    )


def _variants(lists: Mapping[str, VariantList]) -> VariantList:
    """Return everything that any node has; the same name is the same thing."""
    variants: dict[str, VariantInfo] = {}
    adapters: dict[str, AdapterInfo] = {}
    for node, found in lists.items():
        for adapter in found.adapters:
            adapters.setdefault(adapter.name, adapter)
        for info in found.variants:
            here = tuple(f"{node}/{device}" for device in info.resident_on)
            known = variants.get(info.name)
            where = (*known.resident_on, *here) if known is not None else here
            variants[info.name] = replace(known or info, resident_on=where)
    return VariantList(
        tuple(variants[name] for name in sorted(variants)),
        tuple(adapters[name] for name in sorted(adapters)),
    )


def _metrics(reports: Mapping[str, MetricsReport]) -> MetricsReport:
    families: dict[str, Family] = {}
    for node, report in reports.items():
        for family in report.families:
            told = tuple(replace(s, labels={**s.labels, NODE: node}) for s in family.samples)
            known = families.get(family.name)
            samples = (*known.samples, *told) if known is not None else told
            families[family.name] = replace(family, samples=samples)
    return MetricsReport(next(iter(reports.values())).epoch, tuple(families.values()))
