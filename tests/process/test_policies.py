"""The policies in a real service: a pair of variants, scripted scores, and best effort that gives way."""

import hashlib
import json
from pathlib import Path

import pytest

from difs.policy import registry
from difs.policy.cascade import Cascade
from tests.process.conftest import Start
from tests.process.service import Calls, Service, big, settings, until

pytestmark = pytest.mark.process

WEIGHTS = b"not real weights"
MANIFEST = """
name = "{name}"
task = "text-to-image"
family = "sd15"
path = "."
precision = "fp16"
sampler = "ddim"
guidance_scale = 2.5
native_sizes = [[64, 64]]
licence = "Apache-2.0"
steps = {{ min = 1, default = {steps}, max = 50 }}
digests = {{ "model.safetensors" = "sha256:{digest}" }}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model repository with a light and a heavy variant, of which nothing but names is real."""
    root = tmp_path_factory.mktemp("repo")
    for name, steps in (("light", 2), ("heavy", 12)):
        home = root / name
        home.mkdir()
        (home / "model.safetensors").write_bytes(WEIGHTS)
        (home / "model_index.json").write_text("{}")
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        (home / "variant.toml").write_text(MANIFEST.format(name=name, steps=steps, digest=digest))
    return root


def options(repo: Path, policy: str, script: str = "step_s = 0.01", *more: str) -> list[str]:
    """Return the options of a service with one device on which both variants are loaded."""
    pairs = (
        f"service.model_repo='{repo}'",
        "broker.validate=true",
        f"actors.script={json.dumps(script)}",
        *more,
    )
    return ["--device", "simulated:1", "--policy", policy, *settings(*pairs)]


def all_loaded(service: Service) -> bool:
    return set(service.status().devices[0].residents) == {"light", "heavy"}


def test_a_cascade_paints_again_what_is_not_good_enough(start: Start, pair: Path) -> None:
    script = (
        'step_s = 0.01\nscores = [{ score = 0.05, prompt = "bad" }, { score = 1.0, prompt = "good" }]'
    )
    choice = ("policy.light='light'", "policy.heavy='heavy'")
    service = start(*options(pair, Cascade.name, script, *choice))
    until(lambda: all_loaded(service), 20, "both variants loaded")
    with service.client.generate("a bad one", seed=4) as result:
        assert (result.plan.variant, result.plan.steps) == ("heavy", 12)
        assert result.notes[0].startswith("painted again with heavy: light scored 0.05")
    with service.client.generate("a good one") as result:
        assert (result.plan.variant, result.plan.steps) == ("light", 2)
        assert result.notes[-1].startswith("light scored 1.00")
    with service.client.generate("who knows") as result:
        assert result.plan.variant == "light"
        assert result.notes[-1] == "final with light: it could not be judged"
    assert service.count("repainted") == 1
    until(lambda: service.is_idle(1), 5, "nothing open, no slot used")


@pytest.mark.parametrize("name", sorted(set(registry.OURS) - {"cascade", "static", "modelless"}))
def test_every_baseline_serves(start: Start, pair: Path, name: str) -> None:
    service = start(*options(pair, name, "step_s = 0.01", "policy.light='heavy'"))
    assert service.status().policy == name
    for i in range(3):
        with service.client.generate(f"picture {i}", latency_s=20.0) as result:
            assert result.plan.policy == name
            assert result.plan.keeps_latency
            assert result.plan.variant == "heavy" or name != "clipper_light", "the options arrive"
    until(lambda: service.is_idle(1), 5, "nothing open")


def test_best_effort_gives_way_and_is_served_in_the_end(start: Start, pair: Path, calls: Calls) -> None:
    service = start(
        *options(pair, "static", "step_s = 0.2", "actors.credits=1", "policy.variant='heavy'")
    )
    spare = calls.submit(service.client.generate, "spare", **big(best_effort=True, steps=20))
    until(lambda: service.status().running == 1, 10, "the best effort at work")
    with service.client.generate("urgent", **big(steps=2)) as urgent:
        assert not spare.done(), "it had 4 s to go, the other took 0.4"
        assert urgent.plan.prediction.queue_s == 0.0
    with spare.result(30) as result:
        assert result.notes[-1] == "best effort: it gave its place to other work, and began anew"
    assert service.count("recalled") == 1
