"""Many nodes on Ray against one: throughput, promises, and a node that is killed under load.

    python -m bench.cluster [--seconds 20] [--only throughput|promises|kill]

Three Ray nodes of this machine with the simulated engine, whose devices sleep as long as their script
says: what is measured is the way there and back, and who is chosen, not this machine's arithmetic. All
requests come over HTTP. Goals: three nodes make at least 0.9 x 3 x what one makes; attainment and mean
quality of three nodes are not more than 3 points below those of one node with three devices; of the
requests that were accepted none is lost, and none is delivered twice, when a node is killed.
"""

import argparse
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from bench.load import arrivals
from bench.report import keep, verdict
from tests.process.ray_cluster import NODE, RayCluster, lost
from tests.process.service import until

NODES = 3
STEP_S = 3.2
"""At 512x512, so 0.05 s at the 64x64 that all pictures here have: little to encode, long to wait for."""
CLIENTS = 6
"""Per node, in the closed loop."""
LATENCIES_S = (0.5, 1.0, 2.0)
PROMPT = "red apple"


def sized(cluster: RayCluster, nodes: int, devices: int) -> None:
    """Deploy DIFS on so many nodes, each with so many devices."""
    text = NODE.format(step_s=STEP_S, policy="modelless").replace("simulated:1", f"simulated:{devices}")
    count = replace(cluster.settings.nodes, least=nodes, most=nodes)
    cluster.settings = replace(cluster.settings, nodes=count, node=text)
    cluster.deploy()

    def is_whole() -> bool:
        _, told = cluster.call("GET", "/difs/v1/status")
        return len(told.get("devices", ())) == nodes * devices

    until(is_whole, 120, "all devices")


# ---- throughput -----------------------------------------------------------------------------------


def closed_loop(cluster: RayCluster, clients: int, seconds: float) -> float:
    """Return pictures per second of so many clients that ask again as soon as they are served."""
    done: queue.SimpleQueue[float] = queue.SimpleQueue()
    failed: queue.SimpleQueue[str] = queue.SimpleQueue()
    begun = time.monotonic()
    until_at = begun + seconds

    def ask() -> None:
        body = {"prompt": PROMPT, "model": "emoji-base", "steps": 8, "size": "64x64"}
        while time.monotonic() < until_at:
            status, told = cluster.call("POST", "/v1/images/generations", body)
            if status == 200:
                done.put(time.monotonic())
            else:
                failed.put(told["error"]["code"])

    together([ask] * clients)
    ends = [done.get() for _ in range(done.qsize())]
    if not failed.empty():
        print(f"{failed.qsize()} requests failed, the first as {failed.get()}", flush=True)
    return sum(end <= until_at for end in ends) / seconds


def together(works: Sequence[Callable[[], None]]) -> None:
    """Call all of them at once, and wait for the last."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def throughput(cluster: RayCluster, seconds: float) -> dict[str, float]:
    """Compare three nodes with three times one."""
    found = {}
    for nodes in (1, NODES):
        sized(cluster, nodes, 1)
        closed_loop(cluster, CLIENTS * nodes, 3.0)  # the first requests load and connect
        found[nodes] = closed_loop(cluster, CLIENTS * nodes, seconds)
    share = found[NODES] / (NODES * found[1])
    rates = f"1 node {found[1]:.2f}/s, {NODES} nodes {found[NODES]:.2f}/s"
    print(f"{rates}: {share:.3f} of {NODES}x; goal >= 0.9", flush=True)
    return {"one_hz": found[1], "three_hz": found[NODES], "share": share}


# ---- promises -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Got:
    """What came of a request; `quality` None: no picture."""

    in_time: bool
    quality: float | None


def open_loop(cluster: RayCluster, seconds: float, rate_hz: float, seed: int) -> list[Got]:
    """Ask at random times, each with a latency to keep."""
    chance = Random(seed)
    times = arrivals(rate_hz, seconds, seed)
    wanted = [chance.choice(LATENCIES_S) for _ in times]
    found: list[Got] = []
    begun = time.monotonic()

    def ask(due: float, latency_s: float, seed: int) -> None:
        time.sleep(max(0.0, begun + due - time.monotonic()))
        asked = time.monotonic()
        body = {"prompt": PROMPT, "latency_s": latency_s, "seed": seed, "size": "64x64"}
        status, told = cluster.call("POST", "/v1/images/generations", body)
        in_time = status == 200 and time.monotonic() - asked <= latency_s
        quality = told["difs"]["plan"].get("expected_quality", 0.0) if status == 200 else None
        found.append(Got(in_time, quality))

    together(
        [
            lambda due=due, latency_s=latency_s, i=i: ask(due, latency_s, i)  # type: ignore[misc]
            for i, (due, latency_s) in enumerate(zip(times, wanted, strict=True))
        ]
    )
    return found


def told(got: Sequence[Got]) -> dict[str, float]:
    """Return attainment and mean quality; no picture counts as one of no worth."""
    return {
        "attainment": sum(g.in_time for g in got) / len(got),
        "quality": statistics.fmean(g.quality or 0.0 for g in got),
    }


def promises(cluster: RayCluster, seconds: float, rate_hz: float) -> dict[str, Any]:
    """Compare three nodes with one that has three devices."""
    found = {}
    for name, nodes, devices in (("one node", 1, NODES), ("three nodes", NODES, 1)):
        sized(cluster, nodes, devices)
        open_loop(cluster, 4.0, rate_hz, seed=0)
        found[name] = told(open_loop(cluster, seconds, rate_hz, seed=1))
        reached = ", ".join(f"{what} {value:.3f}" for what, value in found[name].items())
        print(f"{name}: {reached}", flush=True)
    one, three = found["one node"], found["three nodes"]
    points = {what: 100 * (three[what] - one[what]) for what in one}
    print(f"three nodes: {', '.join(f'{w} {p:+.1f} points' for w, p in points.items())}; goal >= -3")
    return {**found, "points": points}


# ---- a node is killed -----------------------------------------------------------------------------


def kill(cluster: RayCluster, count: int) -> dict[str, Any]:
    """Kill a node in the middle of many requests, and account for every one of them."""
    sized(cluster, NODES, 1)
    seeds = {f"kill-{i}": i for i in range(count)}
    for name, seed in seeds.items():
        pins = {"variant": "emoji-base", "steps": 20}
        cluster.accept(name, seed, timeout_s=300, overrides=pins)
    begun = time.monotonic()
    cluster.kill(NODES - 1)
    jobs = until(lambda: cluster.ended(list(seeds)), 300, "the end of all requests")
    seconds = time.monotonic() - begun
    done = [job for job in jobs if job["state"] == "done"]
    moved = sum(job["result"]["attempts"] > 1 for job in done)
    is_exact = len(jobs) == count and not lost(jobs, seeds)
    print(
        f"killed 1 of {NODES} nodes with {count} accepted: {len(done)} made, {moved} of them moved,"
        f" ledger {'exact' if is_exact else 'BROKEN'}, all ended within {seconds:.1f} s"
    )
    return {"accepted": count, "made": len(done), "moved": moved, "exact": is_exact, "seconds": seconds}


def judged(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Print and return the goals of what was measured."""
    goals = []
    if "throughput" in found:
        share = found["throughput"]["share"]
        goals.append(verdict("three nodes' throughput, of three times one", share, 0.9, at_least=True))
    if "promises" in found:
        points = found["promises"]["points"]
        for what in ("attainment", "quality"):
            name = f"{what} of three nodes, points beyond one node of three devices"
            goals.append(verdict(name, points[what], -3.0, at_least=True))
    if "kill" in found:
        kept = float(found["kill"]["exact"])
        goals.append(verdict("ledger exact when a node is killed", kept, 1.0, at_least=True))
    return goals


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=8.0, help="requests per second, for the promises")
    parser.add_argument("--only", choices=["throughput", "promises", "kill"])
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        RayCluster(NODES, Path(folder), copies={"enabled": False}) as cluster,
    ):
        if chosen.only in (None, "throughput"):
            found["throughput"] = throughput(cluster, chosen.seconds)
        if chosen.only in (None, "promises"):
            found["promises"] = promises(cluster, chosen.seconds, chosen.rate)
        if chosen.only in (None, "kill"):
            found["kill"] = kill(cluster, 30)
    command = f"python -m bench.cluster --seconds {chosen.seconds:g} --rate {chosen.rate:g}"
    command += f" --only {chosen.only}" if chosen.only else ""
    print(keep("cluster", command, {**found, "goals": judged(found)}))


if __name__ == "__main__":
    main()
