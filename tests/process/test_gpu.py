"""A whole service on a real GPU, as it comes: its variants in fp16, its readings, its memory modes."""

from collections.abc import Iterator

import pytest

from difs import Client, telemetry
from difs.messages import MemoryMode, Progress
from difs.private import PrivateService
from tests.process.service import until

(DEVICE, *_) = telemetry.discover(("auto",))
pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(300),
    pytest.mark.skipif(telemetry.kind_of(DEVICE) != "cuda", reason="there is no GPU here"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = ("--set", f'actors.devices=["{telemetry.torch_name(DEVICE)}"]')
    with PrivateService(options) as service, Client(service.address) as client:
        yield client


@pytest.mark.parametrize("variant", ["emoji-base", "emoji-small", "emoji-turbo", "emoji-xl"])
def test_every_embedded_variant_paints(client: Client, variant: str) -> None:
    with client.generate("red apple", variant=variant, seed=1, timeout_s=120) as result:
        assert result.plan.device == DEVICE
        picture = result.images[0]
        red, green, _ = picture.reshape(-1, 3).mean(0)
        assert picture.std() > 20, "a picture that shows nothing proves nothing"
        assert red > green, "an apple that is red"


def test_what_is_free_is_read_and_what_is_ours_is_told(client: Client) -> None:
    with client.generate("red apple", timeout_s=120):
        (device,) = client.status().devices
    assert device.reading is not None
    assert 0 < device.reading.memory_free_bytes < device.reading.memory_total_bytes


@pytest.mark.parametrize("mode", ["tiled", "model_offload", "sequential_offload", "full"])
def test_a_memory_mode_is_entered_and_paints(client: Client, mode: MemoryMode) -> None:
    client.generate("red apple", variant="emoji-small", timeout_s=120).release()
    client.set_mode("emoji-small", mode)
    client.pin("emoji-small")  # else the planner, who has all the room, undoes it

    def is_entered() -> bool:
        return any(d.memory_modes.get("emoji-small") == mode for d in client.status().devices)

    until(is_entered, 30, f"memory mode {mode}")
    with client.generate("red apple", variant="emoji-small", timeout_s=120) as result:
        assert result.plan.memory_mode == mode
        assert result.images[0].std() > 20


def test_a_picture_is_watched_as_it_comes(client: Client) -> None:
    seen: list[Progress] = []
    wishes = {"variant": "emoji-base", "steps": 8, "preview_every": 2, "timeout_s": 120}
    client.generate("red apple", on_progress=seen.append, **wishes).release()  # type: ignore[arg-type]
    assert sum(report.preview is not None for report in seen) >= 3
