"""difs.exits: which code an error ends a command with, and what is read of it."""

import json
import os

import pytest
import typer

from difs import exits
from difs.errors import (
    BY_CODE,
    ConfigError,
    DifsError,
    Infeasible,
    InvalidRequest,
    Overloaded,
    RepositoryError,
)
from difs.rundir import AlreadyRunning

CODES = {
    "invalid_request": 64,
    "unsupported": 64,
    "unknown_name": 64,
    "not_found": 64,
    "denied": 77,
    "id_conflict": 64,
    "infeasible": 75,
    "quarantined": 64,
    "overloaded": 69,
    "too_many_outstanding": 69,
    "draining": 69,
    "unavailable": 69,
    "too_slow": 69,
    "broker_lost": 69,
    "expired": 75,
    "cancelled": 75,
    "actor_lost": 70,
    "engine_failed": 70,
    "out_of_memory": 70,
    "internal": 70,
    "protocol": 70,
}


def ended(error: BaseException, *, as_json: bool = False) -> int:
    """Return the exit code of a command that raises `error`."""

    @exits.readable
    def command(*, as_json: bool) -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        command(as_json=as_json)
    return caught.value.exit_code


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_of_the_protocol_has_its_exit_code(code: str) -> None:
    assert exits.exit_code(BY_CODE[code]("m")) == CODES[code]


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("m"), 78), (RepositoryError("m"), 78), (AlreadyRunning("m"), 73)]
)
def test_errors_before_there_is_a_service_have_codes_of_their_own(error: DifsError, code: int) -> None:
    assert exits.exit_code(error) == code


def test_an_error_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(InvalidRequest("n: too many")) == 64
    out, err = capsys.readouterr()
    assert (out, err) == ("", "difs: n: too many\n")


def test_an_error_is_one_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(Overloaded("later", retry_after_s=2.0), as_json=True) == 69
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {
            "code": "overloaded",
            "message": "later",
            "field": None,
            "limit": None,
            "retryable": True,
            "retry_after_s": 2.0,
        }
    }


def test_a_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(PermissionError(13, "Permission denied", "/nowhere/x.png")) == os.EX_IOERR
    assert capsys.readouterr().err == "difs: Permission denied: /nowhere/x.png\n"


def test_an_interrupt_is_130_without_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_who_asks_for_origins_gets_the_error_itself() -> None:
    exits.show_origins(True)
    try:
        for error in (Infeasible("m"), OSError(2, "m", "x")):

            @exits.readable
            def command(told: Exception = error) -> None:
                raise told

            with pytest.raises(type(error)):
                command()
    finally:
        exits.show_origins(False)
