"""`difs cluster deploy` and `difs cluster status`: what is asked of Ray from outside the cluster."""

import asyncio
import logging
import os

from msgspec import Struct

# before Ray is imported: nothing is reported to anybody
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from ray.exceptions import RayError

from difs.cluster import application, scaling
from difs.cluster.calls import RayCalls
from difs.cluster.settings import Settings
from difs.cluster.states import NodeState
from difs.doors import address
from difs.errors import Unavailable, first_line


class Overview(Struct, frozen=True):
    """How a cluster stands."""

    application: str
    """Ray Serve's word for it, such as RUNNING."""
    message: str
    nodes: tuple[NodeState, ...]


def connect(settings: Settings) -> None:
    """Connect this process to Ray, unless it is; raises Unavailable."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what matters is said by the command
    if ray.is_initialized():
        return
    try:
        ray.init(address=settings.cluster.ray, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = (
            f"no Ray runs at {settings.cluster.ray!r}: {first_line(error)}; start it: ray start --head"
        )
        raise Unavailable(words) from None


def deploy(settings: Settings) -> str:
    """Run the application until it is ready; returns where the door listens. Raises DifsError."""
    address.check(settings.http)
    host, port = address.split(settings.http.listen)
    connect(settings)
    _check_machines(settings)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        serve.run(application.build(settings), name=settings.cluster.name, route_prefix="/")
    except (RuntimeError, TimeoutError, RayError) as error:
        words = f"the nodes did not become ready: {first_line(error)}; see `difs cluster status`"
        raise Unavailable(words) from None
    return f"http://{settings.http.listen}/"


def _check_machines(settings: Settings) -> None:
    """Refuse to wait for machines that are not there; raises Unavailable."""
    wanted = settings.nodes
    needs = {"CPU": wanted.cpus, "GPU": wanted.gpus, **wanted.resources}
    found = scaling.machines_for([n["Resources"] for n in ray.nodes() if n["Alive"]], needs)
    if found < wanted.least:
        told = ", ".join(f"{name} {share:g}" for name, share in needs.items() if share)
        raise Unavailable(
            f"nodes.least: {wanted.least} wanted, Ray has {found} machine(s) with {told or 'anything'};"
            " start Ray on more, or ask for less"
        )


def overview(settings: Settings) -> Overview:
    """Return how the cluster stands; raises Unavailable."""
    connect(settings)
    name = settings.cluster.name
    found = serve.status().applications.get(name)
    if found is None:
        raise Unavailable(f"no application {name!r} runs on this Ray; deploy it: difs cluster deploy")
    try:
        handle = serve.get_deployment_handle(application.NODES, name)
        nodes = asyncio.run(application.reports(RayCalls(handle)))
    except RuntimeError as error:
        raise Unavailable(f"the nodes cannot be asked: {first_line(error)}") from None
    ordered = tuple(sorted(nodes, key=lambda one: one.node))
    return Overview(str(found.status.value), found.message, ordered)


def remove(settings: Settings) -> None:
    """End the application on all nodes; raises Unavailable."""
    connect(settings)
    serve.delete(settings.cluster.name)
