"""The cluster's configuration: one frozen tree, read from `cluster.toml`; units as text.

`configs/cluster.toml` shows every key. What one node's service does stands in its own file, as
`configs/default.toml` shows it: `nodes.config` names that.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from difs import config
from difs.config import Bytes, Http, Seconds
from difs.errors import ConfigError
from difs.messages import Name

Share = Annotated[float, Meta(ge=0, le=1e4)]
Count = Annotated[int, Meta(ge=1, le=1000)]


class Cluster(Struct, frozen=True):
    """Which Ray cluster, and what the application is called there."""

    name: Name = "difs"
    ray: str = "auto"


class Nodes(Struct, frozen=True):
    """How many nodes serve, and what each of them is given."""

    least: Count = 1
    most: Count = 1
    config: str = ""
    cpus: Share = 1.0
    gpus: Share = 0.0
    resources: dict[str, Share] = {}
    open_requests: Annotated[int, Meta(ge=1, le=100_000)] = 256
    start_timeout: Seconds = 600.0


class Routing(Struct, frozen=True):
    """How nodes are chosen."""

    report_every: Seconds = 0.5
    stale: Seconds = 5.0
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3


class Scaling(Struct, frozen=True):
    """When there shall be more nodes, or fewer."""

    backlog: Seconds = 10.0
    up_after: Seconds = 30.0
    down_after: Seconds = 600.0


class Copies(Struct, frozen=True):
    """When a variant is copied to a node that has not got it."""

    enabled: bool = True
    least: Annotated[int, Meta(ge=1, le=1000)] = 1
    look_every: Seconds = 10.0
    bandwidth: Bytes = 100_000_000


class Settings(Struct, frozen=True):
    """The whole configuration."""

    cluster: Cluster = Cluster()
    nodes: Nodes = Nodes()
    routing: Routing = Routing()
    scaling: Scaling = Scaling()
    copies: Copies = Copies()
    http: Http = Http(listen=config.HTTP_DEFAULT)
    node: str = ""
    """What the file says that `nodes.config` names: TOML, checked."""


def load(path: Path) -> Settings:
    """Return what `path` says; raises ConfigError with every problem found.

    `nodes.config` is looked up beside `path`; it is read and checked here, and travels as text.
    """
    found = parse(config.read_toml(path))
    if found.nodes.config:
        beside = path.parent / found.nodes.config
        config.load(beside)
        found = replace(found, node=beside.read_text("utf-8"))
    return found


def parse(tree: Mapping[str, Any]) -> Settings:
    """Validate a tree of TOML values; raises ConfigError with every problem found."""
    problems: list[str] = []
    if "node" in tree:
        problems.append("node: the configuration of a node's service stands in a file: nodes.config")
    rest = {name: values for name, values in tree.items() if name != "node"}
    found = Settings(**config.read_sections(rest, Settings, problems))
    if found.nodes.most < found.nodes.least:
        problems.append(f"nodes.most: {found.nodes.most} is less than nodes.least {found.nodes.least}")
    problems += _too_small(found)
    if not found.http.listen:
        found = replace(found, http=replace(found.http, listen=config.HTTP_DEFAULT))
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _too_small(found: Settings) -> list[str]:
    """Return what is wrong with the quantities that must not be zero."""
    quantities = {
        "nodes.start_timeout": found.nodes.start_timeout,
        "routing.report_every": found.routing.report_every,
        "scaling.backlog": found.scaling.backlog,
        "copies.look_every": found.copies.look_every,
    }
    problems = [f'{key}: must be at least "100ms"' for key, value in quantities.items() if value < 0.1]
    if found.copies.bandwidth < 1:
        problems.append('copies.bandwidth: must be at least "1B"')
    return problems


def dump(settings: Settings) -> bytes:
    """Return `settings` as JSON, for the processes of the cluster."""
    return msgspec.json.encode(settings)


def undump(data: bytes) -> Settings:
    """Return the settings that `dump` wrote."""
    return msgspec.json.decode(data, type=Settings)
