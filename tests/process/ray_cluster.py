"""A cluster of several Ray nodes on this machine, each with a repository of its own; its HTTP door."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from difs.cluster import settings
from difs.cluster.settings import Settings
from tests.process.service import free_port

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# a busy machine takes longer than Ray Serve waits for its proxy
os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"

NODE = """
[actors]
devices = ["simulated:1"]
preload = ["emoji-base"]
script = "step_s = {step_s}"
[policy]
name = "{policy}"
"""
MINE = {"difs": 1}
"""What marks a Ray node as one for a service."""


class RayCluster:
    """Ray nodes, and DIFS deployed on them; the first is the head."""

    def __init__(self, count: int, folder: Path, **tree: Any) -> None:
        """`tree`: sections of cluster.toml, and `node`: the text of a node's own configuration."""
        self._count = count
        self.folder = folder
        self._text = tree.pop("node", NODE.format(step_s=0.05, policy="modelless"))
        self._tree = tree

    def __enter__(self) -> Self:
        from ray.cluster_utils import Cluster

        quiet = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}
        self.ray = Cluster()
        self.nodes = [
            self.ray.add_node(
                num_cpus=1,
                include_dashboard=False,
                include_log_monitor=False,
                resources=MINE,
                env_vars={"XDG_DATA_HOME": str(self.data(i))},
                **({"_system_config": quiet} if i == 0 else {}),
            )
            for i in range(self._count)
        ]
        self.address = f"127.0.0.1:{free_port()}"
        tree = {
            "cluster": {"ray": self.ray.address},
            "nodes": {"least": self._count, "most": self._count, "cpus": 0.0, "resources": MINE},
            "http": {"listen": self.address},
        }
        self.settings: Settings = replace(settings.parse(tree | self._tree), node=self._text)
        return self

    def data(self, i: int) -> Path:
        """Return a node's own data folder."""
        return self.folder / f"node-{i}"

    def deploy(self) -> None:
        """Run DIFS on all nodes."""
        from difs.cluster import deploy

        deploy.deploy(self.settings)

    def kill(self, i: int) -> None:
        """End a Ray node as a power cut would."""
        self.ray.remove_node(self.nodes[i], allow_graceful=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        import ray
        from ray import serve

        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        self.ray.shutdown()

    # ---- the door -------------------------------------------------------------------------------

    def accept(self, name: str, seed: int, **wishes: Any) -> None:
        """Have a job accepted: a picture of this seed, under this id."""
        body = {"prompt": "p", "request_id": name, "seed": seed, **wishes}
        status, told = self.call("POST", "/difs/v1/generate", body)
        assert status == 202, told

    def ended(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the jobs of these ids, once all of them have ended; until then nothing."""
        _, told = self.call("GET", "/difs/v1/requests")
        jobs = [job for job in told["requests"] if job["id"] in names]
        return [] if any(job["state"] in ("queued", "running") for job in jobs) else jobs

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the JSON of a call."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)


def lost(jobs: Sequence[dict[str, Any]], seeds: dict[str, int]) -> list[str]:
    """Return the ids, of those that were accepted with these seeds, that have not one picture each."""
    made = [(job["id"], job["result"]["seeds"]) for job in jobs if job["state"] == "done"]
    return [name for name, seed in seeds.items() if made.count((name, [seed])) != 1]
