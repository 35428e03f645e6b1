"""The Ray Serve application: a deployment of nodes, one per machine, and the HTTP door before them."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from difs.clock import MonotonicClock
from difs.cluster import copies, scaling, settings, states
from difs.cluster.calls import RayCalls
from difs.cluster.client import ClusterClient
from difs.cluster.copies import Copy, Rules
from difs.cluster.frames import Frames
from difs.cluster.node import Node
from difs.cluster.router import STATE
from difs.cluster.settings import Settings
from difs.cluster.states import Label, NodeState
from difs.doors import address, app
from difs.doors.guard import Rules as DoorRules
from difs.errors import DifsError, first_line

log = logging.getLogger("difs.cluster")

NODES, DOOR = "nodes", "door"
"""The deployments."""
HEAD = {"node:__internal_head__": 0.001}
"""Where the door stands: Ray's name for the head's machine."""
HEALTH_S = 2.0
STOP_S = 30.0
REPORT_S = 5.0
COPY_S = 3600.0
"""How long a copy may take: tens of gigabytes over a slow network."""
LOOK_BACK_S = 12.0
"""Over which Ray Serve averages what it scales by: a prediction needs no smoothing, but Ray wants more
than the 10 s after which it collects."""
OPEN_CONNECTIONS = 1024


class NodeReplica:
    """A node as Ray Serve runs it; the first argument of what is routed is its label."""

    def __init__(self, data: bytes) -> None:
        """Start this machine's service."""
        name = states.name_of(ray.get_runtime_context().get_node_id())
        self._node = Node(settings.undump(data), name)

    async def exchange(self, label: bytes, frames: Frames) -> AsyncGenerator[tuple[str, Frames], None]:
        """Serve a request."""
        async with contextlib.aclosing(self._node.exchange(label, frames)) as items:
            async for item in items:
                yield item

    async def ask(self, label: bytes, frames: Frames) -> tuple[str, Frames]:
        """Answer a question."""
        return await self._node.ask(label, frames)

    async def report(self) -> bytes:
        """Tell how the node stands."""
        return states.encode(await self._node.report())

    async def offer(self, label: bytes, variant: str) -> tuple[bytes, str]:
        """Return what is to be carried for a variant, or why it cannot be."""
        try:
            return await self._node.offer(variant), ""
        except (DifsError, OSError) as error:
            return b"", first_line(error)

    async def send(self, label: bytes, variant: str, relative: str) -> AsyncGenerator[bytes, None]:
        """Yield a file of a variant."""
        async with contextlib.aclosing(self._node.send(variant, relative)) as pieces:
            async for piece in pieces:
                yield piece

    async def take(self, label: bytes, offered: bytes, variant: str, source: str) -> str:
        """Bring a variant here from another node; returns why it could not be, or nothing."""
        name = serve.get_replica_context().app_name
        handle = serve.get_deployment_handle(NODES, name).options(stream=True)

        async def send(relative: str) -> AsyncGenerator[bytes, None]:
            async for piece in handle.send.remote(_to(source), variant, relative):
                yield piece

        try:
            await self._node.take(offered, send)
        except (DifsError, OSError) as error:
            return first_line(error)
        return ""

    # ---- what Ray Serve asks --------------------------------------------------------------------

    async def record_routing_stats(self) -> dict[str, bytes]:
        """Tell the routers how the node stands."""
        return {STATE: await self.report()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaler what it scales by."""
        return {scaling.BACKLOG: self._node.state.backlog_s}

    async def check_health(self) -> None:
        """Fail where the service has ended."""
        self._node.check()

    def __del__(self) -> None:
        """End the service: Ray Serve calls this when the replica shall go."""
        if hasattr(self, "_node"):
            self._node.stop()


class Door:
    """The HTTP door of the cluster, and who has variants copied; there is one."""

    def __init__(self, data: bytes, nodes: Any) -> None:
        """`nodes` is the handle of the deployment of nodes."""
        self._settings = settings.undump(data)
        self._calls = RayCalls(nodes)
        self._nodes = nodes
        self._callers = itertools.count()
        self._copying = asyncio.get_running_loop().create_task(self._copy())

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application that every DIFS has; called by Ray Serve."""
        return app.make(self._connect, MonotonicClock(), self._rules())

    def _connect(self) -> ClusterClient:
        """Return a connection for one caller: an account of its own with each node's broker."""
        caller = f"door-{next(self._callers)}"
        return ClusterClient(self._calls, MonotonicClock(), self._settings.routing, caller)

    def _rules(self) -> Callable[[], DoorRules]:
        return address.watched(self._settings.http)

    # ---- copies ---------------------------------------------------------------------------------

    async def _copy(self) -> None:
        """Look at the nodes from time to time, and have variants copied."""
        wanted = self._settings.copies
        refused: frozenset[tuple[str, str]] = frozenset()
        while True:
            try:
                nodes = await reports(self._calls)
                rules = Rules(wanted.least, wanted.bandwidth, refused)
                copy = copies.next_copy(nodes, rules) if wanted.enabled else None
                if copy is not None and not await self._carry(copy):
                    refused |= {(copy.variant, copy.target)}
            except Exception:  # the door serves on whatever happens here
                log.exception("looking at the nodes failed")
            await asyncio.sleep(wanted.look_every)

    async def _carry(self, copy: Copy) -> bool:
        """Have a variant copied; returns whether it was."""
        try:
            async with asyncio.timeout(COPY_S):  # a node that went meanwhile would be waited for
                offered, problem = await self._nodes.offer.remote(_to(copy.source), copy.variant)
                if not problem:
                    take = self._nodes.take
                    problem = await take.remote(_to(copy.target), offered, copy.variant, copy.source)
        except TimeoutError:
            problem = f"not done within {COPY_S:g} s"
        except RayError as error:
            problem = first_line(error)
        if problem:
            log.warning("%s is not copied to %s: %s", copy.variant, copy.target, problem)
        else:
            log.info("%s is copied to %s: %s", copy.variant, copy.target, copy.reason)
        return not problem


def _to(node: str) -> bytes:
    return states.encode(Label(only=node))


async def reports(calls: RayCalls) -> list[NodeState]:
    """Return what every node tells of itself now."""
    found = await calls.everywhere("report", within_s=REPORT_S)
    return [state for data in found if (state := states.decode_state(data)) is not None]


def build(wanted: Settings) -> Any:
    """Return the application that `ray.serve.run` deploys."""
    data = settings.dump(wanted)
    nodes = serve.deployment(NodeReplica).options(
        name=NODES,
        max_ongoing_requests=wanted.nodes.open_requests,
        max_replicas_per_node=1,
        ray_actor_options={
            "num_cpus": wanted.nodes.cpus,
            "num_gpus": wanted.nodes.gpus,
            "resources": dict(wanted.nodes.resources),
        },
        health_check_period_s=HEALTH_S,
        graceful_shutdown_timeout_s=STOP_S,
        request_router_config=RequestRouterConfig(
            request_router_class="difs.cluster.router.NodeRouter",
            request_router_kwargs={
                "stale_s": wanted.routing.stale,
                "lag_s": wanted.routing.report_every,
            },
            request_routing_stats_period_s=wanted.routing.report_every,
        ),
        **size(wanted),
    )
    door = serve.deployment(serve.ingress()(Door)).options(
        name=DOOR,
        num_replicas=1,
        max_ongoing_requests=OPEN_CONNECTIONS,
        ray_actor_options={"num_cpus": 0, "resources": HEAD},
    )
    return door.bind(data, nodes.bind(data))


def size(wanted: Settings) -> dict[str, Any]:
    """Return how many nodes there shall be, as Ray Serve wants to be told."""
    if wanted.nodes.least == wanted.nodes.most:
        return {"num_replicas": wanted.nodes.least}
    policy = AutoscalingPolicy(
        policy_function="difs.cluster.scaling:ByBacklog",
        policy_kwargs={"backlog_s": wanted.scaling.backlog},
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=wanted.nodes.least,
            max_replicas=wanted.nodes.most,
            upscale_delay_s=wanted.scaling.up_after,
            downscale_delay_s=wanted.scaling.down_after,
            look_back_period_s=LOOK_BACK_S,
            policy=policy,
        )
    }
