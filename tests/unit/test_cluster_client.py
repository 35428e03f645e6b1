"""difs.cluster without Ray: the client over nodes that fail, reports, merged answers, settings."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from difs import wire
from difs.clock import ManualClock
from difs.cluster import merging, states
from difs.cluster import settings as cluster_settings
from difs.cluster.client import ClusterClient, NodeLost
from difs.cluster.frames import Frames, framed
from difs.cluster.settings import Routing
from difs.cluster.states import Label, Wanted
from difs.errors import ActorLost, Cancelled, ConfigError, DifsError, Overloaded, Unavailable
from difs.messages import (
    Accepted,
    Alternative,
    DeviceStatus,
    Error,
    Expected,
    Explanation,
    Family,
    Generate,
    Image,
    MetricsReport,
    Pong,
    Progress,
    Sample,
    StatusReport,
    VariantList,
)
from tests import builders

PIXELS = bytes(64 * 64 * 3)
FULL = Error("overloaded", "full", retryable=True, retry_after_s=0.01)


def sent(message: Any, *payloads: bytes) -> Frames:
    return framed(message, payloads)


class Nodes:
    """Nodes that do to a request what they are told, one after the other."""

    def __init__(self, *fates: str, count: int = 3) -> None:
        self.fates = list(fates)
        self.asked: list[tuple[Label, Generate]] = []
        self.left: list[str] = []
        self._count = count
        self.answers: dict[str, Frames] = {}

    def count(self) -> int:
        return self._count

    async def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        request = wire.decode_from_client(frames)
        assert isinstance(request, Generate)
        told = states.decode_label(label)
        self.asked.append((told, request))
        node = next(name for name in "abcd" if name not in told.avoid)
        fate = self.fates.pop(0)
        try:
            yield node, []
            if fate == "full":
                yield node, sent(FULL)
                return
            yield node, sent(Accepted(request.request_id, 1, 1))
            if fate == "dies":
                raise NodeLost(node)
            if fate == "hangs":
                await asyncio.sleep(60)
            if fate == "broker_lost":
                yield node, sent(Error("broker_lost", "gone", retryable=True))
                return
            yield node, sent(Progress(request.request_id, 0, 1, 1))
            image = Image(5, 64, 64, 3, "raw", len(PIXELS), 0x1C9A1C9A, frame=0)
            made = builders.result(request.request_id, images=(image,), attempt=1)
            yield node, sent(made, PIXELS)
        finally:
            self.left.append(node)

    async def ask_one(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        if not self.answers:
            raise NodeLost("a")
        return next(iter(self.answers.items()))

    async def ask_all(self, label: bytes, frames: Frames, within_s: float) -> dict[str, Frames]:
        return self.answers


def client(nodes: Nodes) -> ClusterClient:
    return ClusterClient(nodes, ManualClock(), Routing(), "ann", lambda: 0.5)


async def made(nodes: Nodes, **wishes: Any) -> list[Any]:
    events = client(nodes).stream("red apple", request_id="r1", format="raw", **wishes)
    return [event async for event in events]


def test_a_request_whose_node_dies_is_made_by_another_under_the_same_id() -> None:
    nodes = Nodes("dies", "broker_lost", "works")
    events = asyncio.run(made(nodes, latency_s=3.0))
    assert [request.request_id for _, request in nodes.asked] == ["r1", "r1", "r1"]
    assert [label.avoid for label, _ in nodes.asked] == [(), ("a",), ("a", "b")]
    assert nodes.asked[0][0] == Label("ann", Wanted(latency_s=3.0))
    assert events[-1].request_id == "r1"
    assert events[-1].attempts == 3
    assert [e.attempt for e in events if isinstance(e, Accepted)] == [1, 2, 3]


def test_the_third_node_that_dies_is_the_last() -> None:
    nodes = Nodes("dies", "dies", "dies", "works")
    with pytest.raises(ActorLost, match="3 attempts"):
        asyncio.run(made(nodes))
    assert nodes.fates == ["works"]


def test_a_full_node_is_passed_over_and_all_full_ones_are_asked_again_after_a_rest() -> None:
    nodes = Nodes("full", "full", "full", "works")
    events = asyncio.run(made(nodes))
    assert events[-1].attempts == 1
    assert [label.avoid for label, _ in nodes.asked] == [(), ("a",), ("a", "b"), ()]
    with pytest.raises(Overloaded):
        asyncio.run(made(Nodes("full", "full", "full"), retries=0))


def test_leaving_a_stream_leaves_the_node() -> None:
    nodes = Nodes("hangs")

    async def leave() -> None:
        task = asyncio.ensure_future(made(nodes))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert nodes.left == ["a"]


@pytest.mark.parametrize(("fates", "left"), [(("hangs",), ["a"]), (("full",) * 3, ["a", "b", "c"])])
def test_closing_ends_what_is_open_and_leaves_the_nodes(fates: tuple[str, ...], left: list[str]) -> None:
    """At a node, or resting between two: as when the token of a caller is deleted."""
    nodes = Nodes(*fates)
    one = client(nodes)

    async def close() -> None:
        events = one.stream("red apple", request_id="r1", format="raw")
        task = asyncio.ensure_future(anext_of(events))
        await asyncio.sleep(0.05)
        await one.aclose()
        with pytest.raises(Cancelled, match="closed"):
            await asyncio.wait_for(task, 5)

    async def anext_of(events: AsyncGenerator[Any, None]) -> list[Any]:
        return [event async for event in events]

    asyncio.run(close())
    assert nodes.left == left


def test_a_node_that_says_nothing_is_not_waited_for_beyond_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("difs.cluster.client.GRACE_S", 0.0)
    with pytest.raises(DifsError, match="no answer within timeout_s"):
        asyncio.run(made(Nodes("hangs"), timeout_s=0.05))


def test_questions_are_answered_by_all_nodes_and_plans_by_one() -> None:
    nodes = Nodes()
    with pytest.raises(Unavailable):
        asyncio.run(client(nodes).status())
    with pytest.raises(Unavailable):
        asyncio.run(client(nodes).explain("x"))
    nodes.answers = {"b": sent(Pong(1, ready=True)), "a": sent(Pong(2, ready=False)), "c": sent(FULL)}
    assert asyncio.run(client(nodes).ping()).ready
    nodes.answers = {"a": sent(Explanation("r1", builders.plan(), None))}
    assert asyncio.run(client(nodes).explain("x")).plan == builders.plan()


def test_the_list_of_variants_is_remembered_for_a_while_and_kept_where_no_node_answers() -> None:
    nodes, clock = Nodes(), ManualClock()
    one = ClusterClient(nodes, clock, Routing())

    async def names() -> list[str]:
        return [info.name for info in await one.variants()]

    async def look() -> list[list[str]]:
        found = []
        with pytest.raises(Unavailable):
            await names()
        for listed in ("x", "y", "y", "y", None):
            told = VariantList((builders.variant(listed),)) if listed else None
            nodes.answers = {"a": sent(told)} if told else {}
            found.append(await names())
            clock.advance(1.5)
        return found

    assert asyncio.run(look()) == [["x"], ["x"], ["y"], ["y"], ["y"]]


# ---- what nodes tell ------------------------------------------------------------------------------


def device(name: str = "gpu-0", **changes: Any) -> DeviceStatus:
    facts: dict[str, Any] = {"state": "ready", "residents": ("tiny",), "queued": 1, "running": 1}
    facts |= {"credits": 16, "backlog_s": 2.0, "slots_free": 1, "slots_total": 1}
    return DeviceStatus(device=name, **(facts | changes))


def status(*devices: DeviceStatus, **changes: Any) -> StatusReport:
    facts: dict[str, Any] = {"epoch": 1, "version": "0", "policy": "modelless", "ready": True}
    facts |= {"draining": False, "uptime_s": 1.0, "queued": 2, "running": 1, "clients": 1}
    return StatusReport(devices=devices, counts={"accepted": 3}, **(facts | changes))


def test_a_report_has_the_points_that_no_other_beats_and_what_is_forecast() -> None:
    told = status(
        device(),
        device("gpu-1", backlog_s=4.0),
        expected=(Expected(1.0, 2.0, "tiny"), Expected(9.0, 9.0)),
    )
    points = tuple(
        Alternative("tiny", where, steps, 1.0, total_s, "", quality)
        for where, steps, total_s, quality in (
            ("gpu-0", 10, 3.0, 0.5),
            ("gpu-0", 20, 5.0, 0.8),
            ("gpu-1", 20, 7.0, 0.8),
        )
    )
    explained = Explanation("r1", None, None, points)
    found = states.report("n", 7, told, explained, [builders.variant("tiny", bytes=9)])
    assert [(p.steps, p.wait_s, p.own_s) for p in found.points] == [(10, 2.0, 1.0), (20, 2.0, 3.0)]
    assert (found.serial, found.devices, found.backlog_s, found.open_requests) == (7, 2, 3.0, 3)
    assert found.variants == {"tiny": 9}
    assert [(f.variant, f.uses) for f in found.forecast] == [("tiny", 2.0)]
    assert states.decode_state(states.encode(found)) == found
    assert states.decode_state(b"\xc1") is None
    assert states.decode_label(b"nonsense") == Label()


def test_where_a_policy_tells_only_its_choice_that_is_the_only_point() -> None:
    plan = builders.plan(variant="tiny")
    found = states.report("n", 1, status(device()), Explanation("r", plan), [builders.variant("tiny")])
    assert [p.variant for p in found.points] == ["tiny"]


def test_answers_of_nodes_become_one_answer() -> None:
    both = merging.merged({"a": status(device()), "b": status(device(), ready=False)})
    assert isinstance(both, StatusReport)
    assert [d.device for d in both.devices] == ["a/gpu-0", "b/gpu-0"]
    assert (both.ready, both.queued, both.counts) == (True, 4, {"accepted": 6})
    waiting = merging.merged({"a": status(device()), "b": status(device(), position=3)})
    assert isinstance(waiting, StatusReport)
    assert waiting.position == 3, "it waits on one of them"
    listed = merging.merged(
        {
            "a": VariantList((builders.variant("x", resident_on=("gpu-0",)),)),
            "b": VariantList((builders.variant("x", resident_on=("gpu-0",)), builders.variant("y"))),
        }
    )
    assert isinstance(listed, VariantList)
    assert [(v.name, v.resident_on) for v in listed.variants] == [
        ("x", ("a/gpu-0", "b/gpu-0")),
        ("y", ()),
    ]
    family = Family("difs_requests", "counter", "Requests.", (Sample(1.0, {"end": "done"}),))
    counted = merging.merged({n: MetricsReport(1, (family,)) for n in "ab"})
    assert isinstance(counted, MetricsReport)
    assert [s.labels for s in counted.families[0].samples] == [
        {"end": "done", "node": "a"},
        {"end": "done", "node": "b"},
    ]


# ---- settings -------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"nodes\.leest: unknown key; the nearest known one is nodes\.least"
    ):
        cluster_settings.parse({"nodes": {"leest": 2}})


def test_all_problems_are_told_at_once() -> None:
    tree = {
        "nodes": {"least": 3, "most": 2},
        "scaling": {"backlog": "0s"},
        "node": {},
        "routing": {"stale": 5},
    }
    with pytest.raises(ConfigError) as caught:
        cluster_settings.parse(tree)
    for words in ("nodes.most: 2 is less", "scaling.backlog: must be", "node: the conf", 'such as "30s"'):
        assert words in caught.value.message


def test_the_example_says_every_key_with_its_default() -> None:
    import tomllib

    from difs.cluster.settings import Settings

    shown = Path(__file__).parents[2] / "configs" / "cluster.toml"
    assert cluster_settings.load(shown) == Settings()
    tree = tomllib.loads(shown.read_text("utf-8"))
    keys = {f"{s}.{k}" for s, values in tree.items() for k in values}
    known = {
        f"{section}.{key}"
        for section in Settings.__struct_fields__
        if section != "node"
        for key in getattr(Settings(), section).__struct_fields__
    }
    assert keys == known


def test_a_nodes_own_file_is_read_and_checked_with_the_clusters(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text('[nodes]\nconfig = "node.toml"\n')
    (tmp_path / "node.toml").write_text('[policy]\nname = "static"\n')
    found = cluster_settings.load(tmp_path / "cluster.toml")
    assert 'name = "static"' in found.node
    assert cluster_settings.undump(cluster_settings.dump(found)) == found
    (tmp_path / "node.toml").write_text('[polcy]\nname = "static"\n')
    with pytest.raises(ConfigError, match="polcy: unknown key; the nearest known one is policy"):
        cluster_settings.load(tmp_path / "cluster.toml")


# ---- the command line -----------------------------------------------------------------------------


def ran(*arguments: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    from difs.cli.app import app

    found = CliRunner().invoke(app, ["cluster", *arguments])
    return found.exit_code, found.output


def test_a_bad_file_is_refused_before_anything_is_asked_of_ray(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text("[nods]\nleast = 2\n")
    code, said = ran("deploy", str(tmp_path / "cluster.toml"))
    assert (code, "nods: unknown key; the nearest known one is nodes" in said) == (78, True), said


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "cluster.toml").write_text("")
    code, said = ran("status", str(tmp_path / "cluster.toml"))
    assert (code, 'pip install "difs[ray]"' in said) == (78, True), said
