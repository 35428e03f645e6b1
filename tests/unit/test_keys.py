"""difs.keys and `difs keys`: private files, secrets written once, nothing half written."""

import json
import os
import stat
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner, Result

from difs.cli import main  # noqa: F401 -- it has all commands
from difs.cli.app import app
from difs.client import endpoint
from difs.errors import ConfigError, UnknownName
from difs.key_files import MAX_KEY_FILE_BYTES
from difs.keys import KeyRing, pair, read_key_file, user_id, write_key_file


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    found = KeyRing(tmp_path / "keys")
    found.make()
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_file_is_for_its_user_only_whatever_the_umask(ring: KeyRing, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_key_file(tmp_path / "anna.key", ring.new("anna"))
        ring.note_use("anna")
        late = KeyRing(tmp_path / "late")
        late.make()
    finally:
        os.umask(old)
    for root in (ring.folder, late.folder):
        assert mode(root) == 0o700
        assert all(mode(path) == (0o700 if path.is_dir() else 0o600) for path in root.rglob("*"))
    assert mode(tmp_path / "anna.key") == 0o600


def test_the_secret_of_a_client_is_kept_nowhere_but_in_its_key_file(ring: KeyRing) -> None:
    key = ring.new("anna")
    kept = [path.read_text() for path in ring.folder.rglob("*") if path.is_file()]
    assert kept
    assert not any(key.secret in text for text in kept)
    assert zmq.curve_public(key.secret.encode()).decode() == key.public
    assert ring.allowed()[user_id(key.public)].name == "anna"


def test_the_services_own_key_is_made_once(ring: KeyRing) -> None:
    assert ring.server() == KeyRing(ring.folder).server() == ring.server()


def test_a_name_is_taken_until_it_is_revoked(ring: KeyRing) -> None:
    first = ring.new("anna")
    with pytest.raises(ConfigError, match="already"):
        ring.new("anna")
    before = ring.stamp()
    ring.revoke("anna")
    assert ring.allowed() == {}
    assert ring.stamp() != before
    assert ring.new("anna").public != first.public
    with pytest.raises(UnknownName, match="there is: anna"):
        ring.revoke("bob")


@pytest.mark.parametrize(
    "name", ["", "..", "../anna", "a/b", "Anna", "a\0", ".hidden", "a" * 65, "/etc/x"]
)
def test_a_name_is_never_a_path(ring: KeyRing, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        ring.new(name)
    with pytest.raises(UnknownName):
        ring.revoke(name)
    assert [p.name for p in ring.folder.rglob("*") if p.is_file()] in ([], ["server.json"])


def test_when_a_key_came_last_is_remembered(ring: KeyRing) -> None:
    ring.new("anna", is_admin=True)
    assert [(row.name, row.last, row.is_admin) for row in ring.rows()] == [("anna", "", True)]
    ring.note_use("anna")
    assert ring.rows()[0].last >= ring.rows()[0].created


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        KeyRing(tmp_path / "keys").make()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        KeyRing(tmp_path / "link").make()


def test_a_key_file_that_others_may_read_is_refused(ring: KeyRing, tmp_path: Path) -> None:
    path = tmp_path / "anna.key"
    write_key_file(path, ring.new("anna"))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key_file(path)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"name": "anna"}', "[" * 4000, "x" * (MAX_KEY_FILE_BYTES + 1)]
)
def test_a_damaged_key_file_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "anna.key"
    path.touch(0o600)
    path.write_text(damage)
    with pytest.raises(ConfigError, match="is no key"):
        read_key_file(path)


def test_halves_of_two_keys_are_noticed(ring: KeyRing, tmp_path: Path) -> None:
    path, key = tmp_path / "anna.key", ring.new("anna")
    path.touch(0o600)
    for secret in (pair().secret, "#" * 40):
        path.write_text(
            json.dumps({"name": "a", "public": key.public, "secret": secret, "server": key.server})
        )
        with pytest.raises(ConfigError, match="damaged"):
            read_key_file(path)


def test_a_key_file_is_never_overwritten(ring: KeyRing, tmp_path: Path) -> None:
    path = tmp_path / "anna.key"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_key_file(path, ring.new("anna"))
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["anna.key"], "no draft is left"


# ---- the client's side ---------------------------------------------------------------------------


def test_a_key_file_may_name_the_address_and_an_argument_overrules_it(
    ring: KeyRing, tmp_path: Path
) -> None:
    path = tmp_path / "anna.key"
    write_key_file(path, ring.new("anna", address="tcp://10.0.0.5:5555"))
    assert endpoint.find(None, path).address == "tcp://10.0.0.5:5555"
    found = endpoint.find("tcp://10.0.0.6:1", str(path))
    assert (found.address, found.delivery) == ("tcp://10.0.0.6:1", "inline")
    with pytest.raises(ConfigError, match=r"tcp://"):
        endpoint.find("ipc:///run/x", path)
    with pytest.raises(ConfigError, match="no key file"):
        endpoint.find(None, tmp_path / "nobody.key")


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:5555", "tcp://example.org:5555", "tcp://*:5555"])
def test_nothing_is_said_to_other_machines_without_a_key(address: str) -> None:
    with pytest.raises(ConfigError, match="key"):
        endpoint.find(address, None)
    assert endpoint.find("tcp://127.0.0.1:5555", None).delivery == "inline"


def test_local_clients_get_shared_memory() -> None:
    assert endpoint.find("ipc:///run/x", None).delivery == "shm"


# ---- the command line ----------------------------------------------------------------------------


def keys(home: Path, *arguments: str) -> Result:
    own = ("--run-dir", str(home / "run"), "--config", str(home / "difs.toml"))
    (home / "difs.toml").write_text(f'network.keys = "{home / "keys"}"')
    return CliRunner().invoke(app, ["keys", *arguments, *own])


def test_keys_are_made_listed_and_revoked_from_the_command_line(tmp_path: Path) -> None:
    target = tmp_path / "anna.key"
    made = keys(
        tmp_path, "new", "anna", "--out", str(target), "--admin", "--address", "tcp://10.0.0.5:5555"
    )
    assert made.exit_code == 0, made.output
    key = read_key_file(target)
    assert key.secret not in made.output
    listed = keys(tmp_path, "list").output
    assert listed.startswith("anna  created 20")
    assert listed.endswith("last never  admin\n")
    assert json.loads(keys(tmp_path, "list", "--json").output)[0]["name"] == "anna"
    assert keys(tmp_path, "revoke", "anna").exit_code == 0
    assert keys(tmp_path, "revoke", "anna").exit_code == os.EX_USAGE
    assert "no key may come in" in keys(tmp_path, "list").output


def test_a_key_whose_file_cannot_be_written_is_not_allowed(tmp_path: Path) -> None:
    taken = tmp_path / "anna.key"
    taken.touch()
    assert keys(tmp_path, "new", "anna", "--out", str(taken)).exit_code == os.EX_IOERR
    nowhere = str(tmp_path / "no" / "folder.key")
    assert keys(tmp_path, "new", "anna", "--out", nowhere).exit_code == os.EX_IOERR
    assert KeyRing(tmp_path / "keys").allowed() == {}


@pytest.mark.parametrize("command", [["serve"], ["register", "x"], ["keys", "list"], ["profile"]])
def test_what_is_done_on_files_is_not_done_from_afar(command: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--key", str(tmp_path / "anna.key"), *command])
    assert found.exit_code == 2
    assert "is for the service's own machine" in " ".join(found.output.replace("│", "").split())


@pytest.mark.parametrize(
    "command", [["story"], ["pin", "tiny"], ["quarantine", "list"], ["status"], ["load", "tiny"]]
)
def test_what_needs_only_a_connection_is_done_from_afar(command: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--key", str(tmp_path / "anna.key"), *command])
    assert "is for the service's own machine" not in " ".join(found.output.split())
    assert "anna.key" in f"{found.output}{found.exception}", "it got as far as the key"


def test_a_key_can_be_printed_instead_of_written(tmp_path: Path) -> None:
    shown = json.loads(keys(tmp_path, "new", "anna", "--out", "-").output)
    assert set(shown) == {"name", "public", "secret", "server"}
