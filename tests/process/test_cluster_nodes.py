"""difs.cluster without Ray: services of two nodes, and a client that speaks to both by direct calls."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from difs import wire
from difs.clock import MonotonicClock
from difs.cluster import settings, states
from difs.cluster.client import ClusterClient, NodeLost
from difs.cluster.frames import Frames, framed
from difs.cluster.node import Node
from difs.cluster.settings import Routing
from difs.errors import DifsError, InternalError
from difs.messages import VariantList, Variants
from difs.registration import digests, shelf
from tests.process.ray_cluster import NODE
from tests.process.service import SIDE, big, end_all, picture, processes_of, until
from tests.studio import MANIFEST

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
WEIGHTS = "unet/model.safetensors"


class Direct:
    """`difs.cluster.client.Calls` within this process; a node is lost when the test says so."""

    def __init__(self, *nodes: Node) -> None:
        """The first that a request does not avoid gets it."""
        self._nodes = {node.name: node for node in nodes}
        self._lost = {name: asyncio.Event() for name in self._nodes}

    def lose(self, name: str) -> None:
        """Let a node be found dead."""
        self._lost[name].set()
        del self._nodes[name]

    def _first(self, label: bytes) -> Node:
        avoid = states.decode_label(label).avoid
        return next(node for name, node in self._nodes.items() if name not in avoid)

    async def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        node = self._first(label)
        lost = asyncio.create_task(self._lost[node.name].wait())
        async with aclosing(node.exchange(label, frames)) as items:
            while True:
                coming = asyncio.ensure_future(anext(items, None))
                try:
                    await asyncio.wait([coming, lost], return_when=asyncio.FIRST_COMPLETED)
                    if lost.done():
                        raise NodeLost(node.name)
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.wait([coming])
                item = coming.result()
                if item is None:
                    lost.cancel()
                    return
                yield item

    async def ask_one(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        return await self._first(label).ask(label, frames)

    async def ask_all(self, label: bytes, frames: Frames, within_s: float) -> dict[str, Frames]:
        return dict([await node.ask(label, frames) for node in self._nodes.values()])

    def count(self) -> int:
        return len(self._nodes)


def register_ink(root: Path) -> None:
    """Register a variant `ink` in `root`; the simulated engine does not look into its weights."""
    with shelf.building(root, "ink") as folder:
        (folder / "unet").mkdir()
        (folder / WEIGHTS).write_bytes(b"weights" * 1000)
        (folder / "model_index.json").write_text("{}")
        pinned = digests.of_file(folder / WEIGHTS, lambda _: None).digest
        shelf.write(folder, replace(MANIFEST, name="ink", digests={WEIGHTS: pinned}))


def test_two_services_are_one_without_ray_and_the_death_of_one_loses_nothing(tmp_path: Path) -> None:
    """One test: services take seconds to start."""
    register_ink(tmp_path / "a")
    nodes: list[Node] = []
    try:
        asyncio.run(play(tmp_path, nodes))
    finally:
        for node in nodes:
            end_all(node._service.home.path)
            node.stop()


async def play(folder: Path, nodes: list[Node]) -> None:
    def start(name: str) -> None:
        text = f'[service]\nuser_repo = "{folder / name}"' + NODE.format(step_s=0.02, policy="modelless")
        nodes.append(Node(replace(settings.parse({}), node=text), name))

    await asyncio.gather(*(asyncio.to_thread(start, name) for name in "ab"))
    a, b = sorted(nodes, key=lambda node: node.name)
    calls = Direct(a, b)
    client = ClusterClient(calls, MonotonicClock(), Routing(), "ann")
    try:
        await tells_what_a_router_needs(a)
        await answers_with_pictures_and_tells_of_both(client)
        await carries_a_variant_from_one_to_the_other(a, b)
        await a_killed_node_loses_no_accepted_request(a, calls, client)
    finally:
        for node in nodes:  # with Ray they end with their process
            for held in node._callers._held.values():
                await held.client.aclose()


async def tells_what_a_router_needs(node: Node) -> None:
    told = await node.report()
    assert (told.node, told.serial, told.is_ready, told.residents) == ("a", 1, True, ("emoji-base",))
    assert told.points
    assert {point.variant for point in told.points} <= told.variants.keys()
    assert node.state == told
    node.check()


async def answers_with_pictures_and_tells_of_both(client: ClusterClient) -> None:
    found = await client.generate("red apple", seed=7, width=64, height=64)
    assert np.array_equal(found.images[0], picture("red apple", 7))
    told = await client.status()
    assert {device.device.partition("/")[0] for device in told.devices} == {"a", "b"}
    assert told.counts["finished"] == 1
    with pytest.raises(DifsError, match="nothing_here"):
        await client.generate("x", variant="nothing_here")


async def carries_a_variant_from_one_to_the_other(a: Node, b: Node) -> None:
    assert "ink" not in await listed(b)
    await b.take(await a.offer("ink"), lambda relative: a.send("ink", relative))
    while "ink" not in await listed(b):  # its service notices by itself
        await asyncio.sleep(0.05)


async def listed(node: Node) -> set[str]:
    _, frames = await node.ask(b"", framed(Variants()))
    found = wire.decode_from_broker(frames)
    assert isinstance(found, VariantList)
    return {info.name for info in found.variants}


def has_ended(node: Node) -> bool:
    """Whether a node says that its service has ended: the kernel may need a moment for that."""
    try:
        node.check()
    except InternalError as error:
        return "has ended" in str(error)
    return False


async def a_killed_node_loses_no_accepted_request(a: Node, calls: Direct, client: ClusterClient) -> None:
    home = a._service.home.path
    for pid in (pid for pid, words in processes_of(home).items() if "difs.actors" in words):
        os.kill(pid, signal.SIGSTOP)  # so that none of them ends before the node does
    asked = [asyncio.create_task(client.generate("p", **big(seed=seed, steps=10))) for seed in range(4)]
    while (told := await client.status()).running + told.queued < len(asked):
        await asyncio.sleep(0.02)
    calls.lose("a")
    await asyncio.to_thread(end_all, home)
    await asyncio.to_thread(until, lambda: has_ended(a), 5, "the node says that its service has ended")
    for seed, found in enumerate(await asyncio.gather(*asked)):
        assert np.array_equal(found.images[0], picture("p", seed, SIDE))
        assert found.attempts == 2
    found = await client.generate("red apple", variant="ink", seed=1, width=64, height=64)
    assert found.plan.variant == "ink", "what was carried serves where it came to"
