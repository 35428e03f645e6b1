"""The cores of a CPU are kept awake by a running actor, where this machine allows that."""

import os

import psutil
import pytest

from difs.actors.awake import REQUEST
from tests.process.conftest import Start
from tests.process.service import processes_of, settings, until
from tests.unit.test_awake import holds

pytestmark = [pytest.mark.process, pytest.mark.torch]


def test_an_actor_keeps_its_cores_awake_for_its_work_and_lets_them_sleep_soon_after(start: Start) -> None:
    service = start("--device", "cpu", *settings('actors.preload=["emoji-small"]', 'actors.awake="1s"'))
    [actor] = [pid for pid, words in processes_of(service.home.path).items() if "difs.actors" in words]
    if not os.access(REQUEST, os.W_OK):
        assert f"{REQUEST} may not be asked" in service.log_text()
        return
    until(lambda: not holds(REQUEST, actor), 20, "cores that may sleep")
    with service.client as client, client.generate("red apple", variant="emoji-small", steps=2):
        assert holds(REQUEST, actor), "for what may follow"
    until(lambda: not holds(REQUEST, actor), 20, "cores that may sleep again")
    assert psutil.pid_exists(actor)
