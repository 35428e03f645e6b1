"""bench.simulated: tables stretched to how fast a machine is now."""

import pytest

from bench import simulated
from tests.simulated_scenes import MODELS


def test_a_stretched_table_takes_as_much_longer_alone() -> None:
    before = simulated.simulated_alone_s(MODELS)
    assert simulated.simulated_alone_s(simulated.stretched(MODELS, 1.5)) == pytest.approx(1.5 * before)


def test_a_stretched_table_keeps_its_bytes_and_loads() -> None:
    for name, model in simulated.stretched(MODELS, 3.0).items():
        for key, mode in model.modes.items():
            before = MODELS[name].modes[key]
            assert mode.rest_bytes == before.rest_bytes
            assert mode.resident.costs.load_s == before.resident.costs.load_s
