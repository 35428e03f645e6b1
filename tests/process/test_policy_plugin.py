"""A policy from an installed package: an entry point is all that it takes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from difs.errors import InternalError, Overloaded, RequestError
from tests.process.service import Service, assert_one_line, difs, picture, script, settings, until

pytestmark = pytest.mark.process

MODULE = '''
from difs.policy import points
from difs.policy.base import Admit, Reject


class Mine:
    """The last device by name, four steps; refuses and breaks on demand."""

    name = "mine"

    def __init__(self, options):
        self._options = options

    def decide(self, view, request):
        if "refuse" in request.prompt:
            return Reject("overloaded", "mine says no", retry_after_s=0.25)
        if "break" in request.prompt:
            raise ZeroDivisionError("a bug in a stranger's policy")
        if "nothing" in request.prompt:
            return None
        found = points.fitting_variants(view, request)
        if isinstance(found, Reject):
            return found
        if not view.devices:
            return points.no_device()
        device = max(view.devices, key=lambda d: d.device)
        reason = f"because I say so, with options.variant {self._options.variant!r}"
        plan = points.point(device, found[0], request, policy=self.name, reason=reason)
        if "elsewhere" in request.prompt:
            import msgspec

            plan = msgspec.structs.replace(plan, device="cuda-7")
        return Admit(plan)


class Broken:
    def __init__(self, options):
        raise ValueError("not today")
'''


def install(site: Path, name: str, module: str, points: dict[str, str]) -> None:
    """Make what pip leaves of an installed package: a module and its metadata."""
    (site / f"{name}.py").write_text(module)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {target}" for point, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[difs.policies]", *lines, ""]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have packages installed that every process of a service sees."""
    folder = tmp_path_factory.mktemp("site")
    points = {"mine": "my_policies:Mine", "broken": "my_policies:Broken", "gone": "my_policies:Gone"}
    install(folder, "my_policies", MODULE, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture(scope="module")
def running(site: None) -> Iterator[Service]:
    choice = ["--policy", "mine", *settings("policy.variant='emoji-base'", "broker.validate=true")]
    with Service(["--device", "simulated:2", *choice, *settings(script())]) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    until(running.is_idle, 20, "an idle service before the test")
    return running


def test_a_policy_of_an_installed_package_decides(service: Service) -> None:
    plan = service.client.explain("which?").plan
    assert plan is not None
    with service.client.generate("mine", seed=4) as result:
        assert np.array_equal(result.images[0], picture("mine", 4))
        for chosen in (plan, result.plan):
            assert chosen.policy == "mine"
            assert chosen.reason == "because I say so, with options.variant 'emoji-base'"
            assert chosen.device == "simulated-1"
    assert service.status().policy == "mine"


def test_its_refusals_reach_the_client(service: Service) -> None:
    with pytest.raises(Overloaded, match="mine says no") as caught:
        service.client.generate("refuse this", retries=0)
    assert caught.value.retry_after_s == 0.25
    with pytest.raises(RequestError, match="no-such"):
        service.client.generate("x", variant="no-such")


@pytest.mark.parametrize("prompt", ["break", "nothing", "elsewhere"])
def test_its_bugs_cost_one_request_and_not_the_broker(service: Service, prompt: str) -> None:
    before = service.children()
    with pytest.raises(InternalError):
        service.client.generate(prompt, retries=0, timeout_s=10)
    assert service.children() == before
    with service.client.generate("and on", seed=2) as result:
        assert np.array_equal(result.images[0], picture("and on", 2))
    until(service.is_idle, 5, "nothing open")


@pytest.mark.parametrize(
    ("name", "words"), [("broken", "not today"), ("gone", "Gone"), ("main", "the nearest is mine")]
)
def test_a_policy_that_does_not_load_is_told_at_the_start(
    site: None, tmp_path: Path, name: str, words: str
) -> None:
    ended = difs("serve", "--run-dir", str(tmp_path / "run"), "--device", "simulated:1", "--policy", name)
    assert ended.returncode == 78, ended.stderr
    assert_one_line(ended.stderr)
    assert words in ended.stderr
