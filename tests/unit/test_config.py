"""difs.config: a file is read whole or refused with all that is wrong with it."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, fields

from difs import config
from difs.config import Config
from difs.errors import ConfigError

DEFAULT_TOML = Path(__file__).parents[2] / "configs" / "default.toml"


def problems(tree: dict[str, Any]) -> str:
    """Return what `parse` says is wrong."""
    with pytest.raises(ConfigError) as caught:
        config.parse(tree)
    return caught.value.message


# ---- defaults -----------------------------------------------------------------------------------


def test_nothing_given_means_the_defaults() -> None:
    assert config.load() == config.parse({}) == Config()


def test_the_default_file_says_just_the_defaults() -> None:
    assert config.load(DEFAULT_TOML) == Config()


def test_the_default_file_names_every_key() -> None:
    tree = tomllib.loads(DEFAULT_TOML.read_text("utf-8"))
    named = {(section, key) for section, table in tree.items() for key in table}
    known = {(f.name, inner.name) for f in fields(Config) for inner in fields(f.type)}
    assert named == known


def test_a_configuration_comes_back_as_it_was_dumped() -> None:
    changed = config.parse({"broker": {"lease": "5s"}, "shm": {"slots": {"1MiB": 2}}})
    for settings_ in (Config(), changed):
        assert config.undump(config.dump(settings_)) == settings_


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("250ms", 0.25),
        ("2min", 120.0),
        ("1.5h", 5400.0),
        (" 3 s ", 3.0),
        ("0s", 0.0),
        (0, 0.0),
    ],
)
def test_durations_are_texts_with_units(text: Any, seconds: float) -> None:
    assert config.parse({"broker": {"lease": text}}).broker.lease == seconds


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("512B", 512),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5MiB", 1572864),
        ("2GB", 2 * 10**9),
        ("8GiB", 2**33),
    ],
)
def test_sizes_are_texts_with_units(text: str, nbytes: int) -> None:
    assert config.parse({"actors": {"memory_budget": text}}).actors.memory_budget == nbytes
    assert config.parse_bytes(text) == nbytes


@pytest.mark.parametrize("value", [0, "0B"])
def test_zero_needs_no_unit(value: Any) -> None:
    budget = config.parse({"actors": {"memory_budget": value}}).actors.memory_budget
    assert budget == 0
    assert type(budget) is int


@pytest.mark.parametrize(
    "value",
    [30, 30.0, "30", "s", "30 parsecs", "30S", "-1s", "1e3s", "", True, None, [1], "9" * 400 + "s"],
)
def test_other_durations_are_refused(value: Any) -> None:
    assert problems({"broker": {"lease": value}}).startswith("broker.lease: ")


@pytest.mark.parametrize("value", ["1kb", "1MiBs", "1.B", "9" * 400 + "B", "99999999999GiB", False, 1.5])
def test_other_sizes_are_refused(value: Any) -> None:
    assert problems({"actors": {"memory_budget": value}}).startswith("actors.memory_budget: ")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("broker", "max_queued", 0),
        ("broker", "max_queued", 1.5),
        ("broker", "max_attempts", 11),
        ("broker", "stall_steps", 1.9),
        ("broker", "stall_steps", float("inf")),
        ("broker", "stall_steps", float("nan")),
        ("broker", "admin", 1),
        ("service", "log_level", "loud"),
        ("service", "model_repo", 5),
        ("policy", "name", None),
        ("actors", "devices", "auto"),
        ("actors", "devices", [1]),
        ("actors", "credits", 65),
        ("actors", "max_rows", 0),
        ("actors", "max_rows", 257),
        ("actors", "parking_budget", 2),
        ("actors", "adapter_budget", "512"),
        ("actors", "prompt_cache", "64 megs"),
        ("actors", "warm_up_steps", 1),
        ("shm", "slots", {"1MiB": -1}),
        ("shm", "slots", {"1MiB": 5000}),
        ("shm", "slots", []),
        ("supervisor", "max_restarts", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_its_key_named(section: str, key: str, value: Any) -> None:
    assert problems({section: {key: value}}).startswith(f"{section}.{key}: ")


# ---- problems -----------------------------------------------------------------------------------


def test_all_problems_are_told_at_once() -> None:
    tree = {
        "brokr": {},
        "policy": 3,
        "broker": {"leese": "5s", "lease": "soon", "max_queued": 0},
        "shm": {"slots": {"some": 1}},
    }
    found = problems(tree)
    for words in (
        "brokr: ",
        "policy: ",
        "broker.leese: ",
        "broker.lease: ",
        "broker.max_queued: ",
        "shm.slots: ",
    ):
        assert found.count(words) == 1, words


@pytest.mark.parametrize(
    ("tree", "nearest"),
    [
        ({"brokr": {}}, "broker"),
        ({"broker": {"max_queue": 1}}, "broker.max_queued"),
        ({"supervisor": {"restarts": 1}}, "supervisor.max_restarts"),
        ({"policy": {"": 1}}, "policy."),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(tree: dict[str, Any], nearest: str) -> None:
    assert f"the nearest known one is {nearest}" in problems(tree)


@pytest.mark.parametrize("slots", [{}, {"1MiB": 0}, {"big": 1}, {"1": 1}])
def test_slots_must_be_sizes_and_at_least_one(slots: dict[str, int]) -> None:
    assert problems({"shm": {"slots": slots}}).startswith("shm.slots: ")


def test_slot_classes_are_sorted_by_size_and_never_empty() -> None:
    slots = {"1MiB": 3, "64KiB": 5, "16MiB": 0}
    found = config.slot_classes(config.parse({"shm": {"slots": slots}}).shm)
    assert found == ((65536, 5), (1048576, 3))


ANY_TOML = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["5s", "1MiB", 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
KEYS = [(f.name, inner.name) for f in fields(Config) for inner in fields(f.type)]


@settings(max_examples=200)
@given(key=st.sampled_from(KEYS), value=ANY_TOML)
def test_any_value_is_taken_or_refused_by_name(key: tuple[str, str], value: Any) -> None:
    section, name = key
    try:
        found = config.parse({section: {name: value}})
    except ConfigError as error:
        assert error.message.startswith(f"{section}.{name}: ")
    else:
        assert config.undump(config.dump(found)) == found


# ---- files and overrides ------------------------------------------------------------------------


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "difs.toml"
    file.write_text('[policy]\nname = "round_robin"\n[broker]\nlease = "5s"\nmax_queued = 7\n')
    found = config.load(file, {"broker.lease": "6s", "shm.slots": {"1MiB": 1}})
    assert (found.policy.name, found.broker.lease, found.broker.max_queued) == ("round_robin", 6.0, 7)
    assert found.shm.slots == {"1MiB": 1}


@pytest.mark.parametrize("dotted", ["nonsense", "broker", "broker.", "broker.lease.x", ".lease", ""])
def test_an_override_that_names_no_key_is_refused(dotted: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key|must be a table"):
        config.load(None, {dotted: 1})


def test_an_override_below_something_else_than_a_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "difs.toml"
    file.write_text("policy = 3\n")
    with pytest.raises(ConfigError, match="policy: must be a table"):
        config.load(file, {"policy.name": "static"})


NOT_TOML = {
    "no value": b"a = ",
    "open table": b"[a",
    "not UTF-8": b"\xff\xfe",
    "deep": b"a = " + b"[" * 10_000,
    "twice": b"a = 1\na = 2",
    "5000 digits": b"a = " + b"9" * 5000,
}


@pytest.mark.parametrize("data", NOT_TOML.values(), ids=NOT_TOML)
def test_a_file_that_is_not_toml_is_refused_and_named(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "difs.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"difs\.toml is not TOML"):
        config.load(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read {path}"):
            config.load(path)


# ---- the run directory --------------------------------------------------------------------------


def test_the_run_directory_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/5")
    monkeypatch.setenv("HOME", "/home/me")
    chosen = config.parse({"service": {"run_dir": "~/x"}})
    assert config.run_dir(chosen) == Path("/home/me/x")
    assert config.run_dir(Config()) == Path("/run/user/5/difs")


def test_without_a_runtime_directory_the_run_directory_is_this_users_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert config.run_dir(Config()) == Path("/tmp/difs-1234/difs")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().broker.lease = 1.0  # type: ignore[misc]
    assert asdict(Config()) == asdict(config.parse({}))
