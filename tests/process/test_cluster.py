"""difs.cluster on real Ray nodes of this machine: served, copied, cancelled, killed."""

import importlib.util
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.process.ray_cluster import RayCluster, lost
from tests.process.service import difs, until

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of itself and its libraries
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'difs[ray]'"
    ),
]
COUNT = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with RayCluster(COUNT, folder, copies={"least": COUNT, "look_every": "500ms"}) as made:
        derived = difs(
            *("derive", "emoji-base", "--make", "unipc", "--name", "quick", "--json"),
            env={"XDG_DATA_HOME": str(made.data(0))},
        )
        assert derived.returncode == 0, derived.stderr
        made.deploy()
        yield made


def test_ray_serve_is_told_to_scale_by_the_predicted_backlog() -> None:
    from difs.cluster import application, scaling, settings

    fixed = application.build(settings.parse({"nodes": {"least": 2, "most": 2}}))
    assert fixed is not None
    wanted = settings.parse({"nodes": {"least": 1, "most": 4}, "scaling": {"backlog": "5s"}})
    sized = application.size(wanted)["autoscaling_config"]
    assert (sized.min_replicas, sized.max_replicas, sized.upscale_delay_s) == (1, 4, 30.0)
    assert application.build(wanted) is not None
    policy = sized.policy.get_policy()(**sized.policy.policy_kwargs)  # as Ray carries it
    context = SimpleNamespace(
        aggregated_metrics={scaling.BACKLOG: {"a": 9.0, "b": 3.0}},
        target_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )
    assert policy(context) == (3, {})


def test_a_cluster_serves_copies_cancels_and_loses_nothing_with_a_node(cluster: RayCluster) -> None:
    """One test: what it asserts of a node that is killed ends what the other parts need."""
    answers_with_pictures(cluster)
    tells_of_all_its_nodes(cluster)
    a_variant_of_one_node_comes_to_all(cluster)
    a_cancelled_request_ends_on_its_node(cluster)
    a_killed_node_loses_no_accepted_request(cluster)


def answers_with_pictures(cluster: RayCluster) -> None:
    status, told = cluster.call("POST", "/v1/images/generations", {"prompt": "red apple", "seed": 7})
    assert status == 200, told
    assert told["difs"]["seeds"] == [7]
    assert told["data"][0]["b64_json"]
    status, told = cluster.call(
        "POST", "/difs/v1/generate", {"prompt": "x", "overrides": {"variant": "no"}}
    )
    assert (status, told["error"]["code"]) == (404, "unknown_name")


def tells_of_all_its_nodes(cluster: RayCluster) -> None:
    from difs.cluster import deploy

    status, told = cluster.call("GET", "/difs/v1/status")
    assert (status, len(told["devices"])) == (200, COUNT)
    found = deploy.overview(cluster.settings)
    assert found.application == "RUNNING"
    assert len({node.node for node in found.nodes if node.is_ready}) == COUNT


def a_variant_of_one_node_comes_to_all(cluster: RayCluster) -> None:
    from difs.cluster import deploy

    def everywhere() -> bool:
        nodes = deploy.overview(cluster.settings).nodes
        return len(nodes) == COUNT and all("quick" in node.variants for node in nodes)

    until(everywhere, 60, "the variant on all nodes")
    for i in range(COUNT):
        assert (cluster.data(i) / "difs" / "models" / "quick" / "variant.toml").is_file()


def a_cancelled_request_ends_on_its_node(cluster: RayCluster) -> None:
    body = {"prompt": "long", "request_id": "long", "width": 512, "height": 512}
    status, told = cluster.call("POST", "/difs/v1/generate", body | {"overrides": {"steps": 20}})
    assert status == 202, told
    cluster.call("DELETE", "/difs/v1/requests/long")
    _, told = cluster.call("GET", "/difs/v1/requests/long")
    assert told["state"] == "cancelled"

    def is_idle() -> bool:
        _, report = cluster.call("GET", "/difs/v1/status")
        return bool(report["queued"] + report["running"] == 0)

    until(is_idle, 10, "the end of the work on its node")
    _, report = cluster.call("GET", "/difs/v1/status")
    assert report["counts"].get("cancelled") == 1


def a_killed_node_loses_no_accepted_request(cluster: RayCluster) -> None:
    seeds = {f"job-{i}": i for i in range(24)}
    for name, seed in seeds.items():
        pins = {"steps": 10, "variant": "emoji-base"}
        cluster.accept(name, seed, width=512, height=512, overrides=pins)
    threading.Thread(target=cluster.kill, args=(COUNT - 1,), daemon=True).start()
    jobs = until(lambda: cluster.ended(list(seeds)), 120, "the end of all requests")
    assert len(jobs) == len(seeds)
    assert lost(jobs, seeds) == [], jobs
    attempts = [job["result"]["attempts"] for job in jobs]
    assert max(attempts) >= 2, "the node that was killed had some of them"
