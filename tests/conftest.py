"""What all tests share: a home of their own, and how hypothesis runs.

`ci` is hypothesis' default profile; `HYPOTHESIS_PROFILE=nightly` looks longer, `quick` less.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

_EXAMPLES = {"quick": 200, "ci": 3_000, "nightly": 200_000}
"""Examples of the broker's model; the other property tests say themselves how many they need."""

for _name, _count in _EXAMPLES.items():
    settings.register_profile(
        _name,
        max_examples=_count,
        stateful_step_count=30,
        deadline=None,
        derandomize=False,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the short forms of long runs be longer."""
    parser.addoption("--chaos-seconds", type=float, default=5.0, help="how long the chaos test hurts")


@pytest.fixture(scope="session", autouse=True)
def _home_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test, and no service that it starts, see what the user has registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield
