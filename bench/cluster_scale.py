"""Nodes come with the load and go with it: seconds until Ray Serve added one, and took it away.

    python -m bench.cluster_scale [--rate 4] [--seconds 45]

Two machines of a Ray cluster on this one, `least` 1 and `most` 2 nodes, the simulated engine. Requests
come over HTTP at a steady rate that one node cannot serve and two can; then few, and they come on
while a node is taken away. Goals: a node is added, it is taken away again, and of what was accepted
each request gets its one picture. The seconds hold `up_after` and `down_after` (2 s and 5 s here), Ray's
own way of averaging, and what a service needs to start.
"""

import argparse
import statistics
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bench.cluster import STEP_S
from bench.report import keep, say, verdict
from tests.process.ray_cluster import MINE, NODE, RayCluster, lost
from tests.process.service import until

NODES = {"least": 1, "most": 2, "cpus": 0.0, "resources": MINE}
SCALING = {"backlog": "4s", "up_after": "2s", "down_after": "5s"}
PICTURE = {"timeout_s": 300, "overrides": {"variant": "emoji-base", "steps": 20}}
CALM_HZ = 1.0
"""Requests per second while a node is to go; each takes a second, so mostly some are open."""
WITHIN_S = 180.0
"""A node that was not added, or taken away, by then is not."""
LOOK_S = 0.25


class Watch:
    """Looks from time to time how many nodes there are, and notes when that changed."""

    def __init__(self, cluster: RayCluster) -> None:
        """Start to look."""
        self._cluster = cluster
        self.seen: list[tuple[float, int]] = []
        """From when on there were how many."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def nodes(self) -> int:
        """Return how many there are now."""
        return self.seen[-1][1] if self.seen else 0

    def first(self, nodes: int, since: float) -> float | None:
        """Return the seconds from `since` until there were so many nodes; None: there never were."""
        return next((at - since for at, count in self.seen if at >= since and count == nodes), None)

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            _, told = self._cluster.call("GET", "/difs/v1/status")
            count = len(told.get("devices", ()))  # of which each node has one
            if count != self.nodes:
                self.seen.append((time.monotonic(), count))
                say(f"{count} node(s)")


class Load:
    """Requests at random times, each with an id and a seed of its own."""

    def __init__(self, cluster: RayCluster) -> None:
        """Nothing was asked yet."""
        self._cluster = cluster
        self._chance = Random(1)
        self.seeds: dict[str, int] = {}
        """Of what was accepted, by its id."""

    def ask(self, rate_hz: float, goes_on: Callable[[], bool]) -> None:
        """Have requests accepted as long as it goes on."""
        due = time.monotonic()
        while goes_on():
            due += self._chance.expovariate(rate_hz)
            time.sleep(max(0.0, due - time.monotonic()))
            seed = len(self.seeds)
            self._cluster.accept(f"scale-{seed}", seed, **PICTURE)
            self.seeds[f"scale-{seed}"] = seed


def ended_by(cluster: RayCluster) -> dict[str, int]:
    """Return how many requests each node has ended until now."""
    with urllib.request.urlopen(f"http://{cluster.address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "difs_requests_total":
                found[sample.labels["node"]] += int(sample.value)
    return found


def measure(cluster: RayCluster, rate_hz: float, seconds: float) -> dict[str, Any]:
    """Load the cluster, leave it nearly alone, and tell what became of the nodes and the requests."""
    cluster.deploy()
    watch, load = Watch(cluster), Load(cluster)
    until(lambda: watch.nodes == NODES["least"], WITHIN_S, "the first node")
    begun = time.monotonic()
    load.ask(rate_hz, lambda: time.monotonic() < begun + seconds)
    calm = time.monotonic()
    shares = ended_by(cluster)
    load.ask(CALM_HZ, lambda: watch.nodes > 1 and time.monotonic() < calm + WITHIN_S)
    jobs = until(lambda: cluster.ended(list(load.seeds)), WITHIN_S, "the end of all requests")
    watch.stop()
    return {
        "scaling": SCALING,
        "most_nodes": max(count for _, count in watch.seen),
        "nodes_at_the_end": watch.nodes,
        "added_after_s": watch.first(2, begun),
        "removed_after_s": watch.first(1, calm),
        "ended_by_node_under_load": sorted(shares.values()),
        "accepted": len(load.seeds),
        "lost": len(lost(jobs, load.seeds)),
        "tried_again": sum(job["result"]["attempts"] > 1 for job in jobs if "result" in job),
        "mean_s": waits(jobs, load.seeds),
    }


def waits(jobs: Sequence[dict[str, Any]], seeds: dict[str, int]) -> list[float]:
    """Return the mean seconds of each fifth of the requests, in the order in which they came."""
    taken = {job["id"]: job["elapsed_s"] for job in jobs}
    ordered = [taken[name] for name in seeds if name in taken]
    size = max(1, -(-len(ordered) // 5))
    return [round(statistics.fmean(ordered[i : i + size]), 2) for i in range(0, len(ordered), size)]


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Print and return the goals of what was measured."""
    return [
        verdict("nodes under load, least 1 and most 2", found["most_nodes"], 2, at_least=True),
        verdict("nodes in calm after it", found["nodes_at_the_end"], 1),
        verdict("requests lost while a node came and went", found["lost"], 0),
    ]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second, of 20 steps each")
    parser.add_argument("--seconds", type=float, default=45.0, help="how long they come at that rate")
    chosen = parser.parse_args()
    node = NODE.format(step_s=STEP_S, policy="modelless")
    tree = {"nodes": NODES, "scaling": SCALING, "copies": {"enabled": False}, "node": node}
    with tempfile.TemporaryDirectory() as folder, RayCluster(2, Path(folder), **tree) as cluster:
        found = measure(cluster, chosen.rate, chosen.seconds)
    for name, value in found.items():
        print(f"  {name:>26} {value}")
    command = f"python -m bench.cluster_scale --rate {chosen.rate:g} --seconds {chosen.seconds:g}"
    print(keep("cluster-scale", command, {**found, "goals": judged(found)}))


if __name__ == "__main__":
    main()
