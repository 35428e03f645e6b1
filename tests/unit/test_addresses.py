"""difs.addresses: where the service may listen."""

import pytest

from difs import addresses, config
from difs.errors import ConfigError

GOOD = [
    ("tcp://127.0.0.1:5555", True, "tcp://127.0.0.1:5555"),
    ("tcp://127.8.9.1:1", True, "tcp://127.8.9.1:1"),
    ("tcp://[::1]:5555", True, "tcp://[::1]:5555"),
    ("tcp://10.0.0.5:5555", False, "tcp://10.0.0.5:5555"),
    ("tcp://0.0.0.0:5555", False, "tcp://127.0.0.1:5555"),
    ("tcp://*:65535", False, "tcp://127.0.0.1:65535"),
    ("tcp://[::]:5555", False, "tcp://[::1]:5555"),
    ("tcp://[fd00::1]:5555", False, "tcp://[fd00::1]:5555"),
    ("tcp://[::ffff:10.0.0.5]:5555", False, "tcp://[::ffff:a00:5]:5555"),
]
BAD = [
    *("127.0.0.1:5555", "ipc:///tmp/x", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536"),
    *(
        "tcp://localhost:5555",
        "tcp://eth0:5555",
        "tcp://127.1:5555",
        "tcp://2130706433:5555",
        "tcp://:5555",
    ),
    *(
        "tcp://::1:5555",
        "tcp://[127.0.0.1]:5555",
        "tcp://*:*",
        "tcp://127.0.0.1:5555 ",
        "tcp://0x7f.1:55",
    ),
    *("tcp://127.0.0.1:5555\n", "tcp://127.0.0.1:\u0665", "tcp://10.0.0.1;127.0.0.1:5555"),
]


@pytest.mark.parametrize(("text", "is_loopback", "probe"), GOOD)
def test_an_address_says_whether_other_machines_reach_it(
    text: str, is_loopback: bool, probe: str
) -> None:
    found = addresses.parse(text)
    assert (found.is_loopback, found.probe) == (is_loopback, probe)


@pytest.mark.parametrize("text", BAD)
def test_names_and_half_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        addresses.parse(text)


@pytest.mark.parametrize(("text", "is_loopback", "probe"), GOOD)
def test_without_keys_only_loopback_is_listened_on(text: str, is_loopback: bool, probe: str) -> None:
    assert addresses.problem(text, "keys") is None
    assert (addresses.problem(text, "none") is None) == is_loopback


@pytest.mark.parametrize(
    "network", [{"listen": "tcp://*:5555", "security": "none"}, {"listen": "nowhere"}]
)
def test_it_refuses_to_listen_beyond_loopback_without_keys(network: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^network\."):
        config.parse({"network": network})
    config.parse({"network": {"listen": "tcp://127.0.0.1:5555", "security": "none"}})
    config.parse({"network": {"listen": "tcp://0.0.0.0:5555"}})


def test_the_door_is_closed_and_asks_for_keys_by_default() -> None:
    assert (config.Network().listen, config.Network().security) == ("", "keys")
