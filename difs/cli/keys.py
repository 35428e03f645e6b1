"""`difs keys`: who may come in over TCP."""

import errno
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from difs import config
from difs.cli.app import ConfigOption, JsonOption, RunDirOption, app, home_of
from difs.exits import readable
from difs.keys import KeyRing, encoded, write_key_file

keys = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Keys for clients of other machines."
)
app.add_typer(keys, name="keys")
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, as anna or printer-2.")]


def _ring(config_file: Path | None, run_dir: Path | None) -> KeyRing:
    """Return the keys of the running service, else those that are configured."""
    home = home_of(run_dir)
    settings = home.read_facts()[0] if home.is_running() else config.load(config_file)
    ring = KeyRing(config.keys_dir(settings))
    ring.make()
    return ring


@keys.command()
@readable
def new(
    name: KeyName,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write, - to print it; default: NAME.key")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may load, evict and drain, too.")] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="Of the service, for the key file to name it.")
    ] = None,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Let a new key in; its file is written once and is all that its owner needs."""
    ring, target = _ring(config_file, run_dir), out or Path(f"{name}.key")
    if str(target) != "-" and target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    key = ring.new(name, is_admin=admin, address=address)
    if str(target) == "-":
        print(encoded(key).decode(), end="")
        return
    try:
        write_key_file(target, key)
    except OSError:
        ring.revoke(name)  # nobody has its secret
        raise
    print(f"{target} is the key of {name}; keep it secret. It is allowed from now on.")


@keys.command(name="list")
@readable
def list_keys(
    config_file: ConfigOption = None, run_dir: RunDirOption = None, as_json: JsonOption = False
) -> None:
    """List the keys that may come in, and when each last did."""
    rows = _ring(config_file, run_dir).rows()
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    for row in rows:
        rights = "  admin" if row.is_admin else ""
        print(f"{row.name}  created {row.created}  last {row.last or 'never'}{rights}")
    if not rows:
        print("no key may come in; make one: difs keys new NAME")


@keys.command()
@readable
def revoke(name: KeyName, config_file: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """Let a key in no more: a running service cancels its requests and answers it no longer."""
    _ring(config_file, run_dir).revoke(name)
    print(f"{name} is revoked")
