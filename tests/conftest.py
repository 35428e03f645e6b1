"""How hypothesis runs: `ci` is the default; `HYPOTHESIS_PROFILE=nightly` looks longer, `quick` less."""

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = {"quick": 200, "ci": 5_000, "nightly": 200_000}
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
