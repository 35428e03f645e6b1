"""difs.errors: one tree; what a code means on the wire is what is raised at the other end."""

import re

import pytest

from difs import errors
from difs.errors import BY_CODE, CapacityError, DifsError, without_paths


def tree(cls: type[DifsError] = DifsError) -> list[type[DifsError]]:
    """Return `cls` and every class of difs.errors below it."""
    below = [c for c in cls.__subclasses__() if c.__module__ == errors.__name__]
    return [cls, *(leaf for child in below for leaf in tree(child))]


TREE = tree()
LEAVES = [cls for cls in TREE if len(tree(cls)) == 1]


@pytest.mark.parametrize("code", BY_CODE)
def test_a_code_means_a_class_that_has_it(code: str) -> None:
    assert BY_CODE[code].code == code


def test_no_two_leaves_share_a_code() -> None:
    by_code: dict[str, list[str]] = {}
    for cls in LEAVES:
        by_code.setdefault(cls.code, []).append(cls.__name__)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {
        "protocol": ["LocalProtocolError", "RemoteProtocolError"]
    }


def test_every_code_that_a_request_can_end_with_may_stand_on_the_wire() -> None:
    kinds = (errors.RequestError, CapacityError, errors.RequestEnded, errors.ServiceError)
    assert {cls.code for cls in TREE if issubclass(cls, kinds)} <= set(BY_CODE)


def test_only_leaves_stand_on_the_wire() -> None:
    assert set(BY_CODE.values()) <= set(LEAVES)


def test_exactly_what_lacks_capacity_may_be_tried_again() -> None:
    assert {cls for cls in TREE if cls.retryable} == set(tree(CapacityError))


@pytest.mark.parametrize("cls", TREE)
def test_the_http_status_tells_whose_fault_it_is(cls: type[DifsError]) -> None:
    callers = issubclass(cls, (errors.RequestError, errors.ProtocolError, errors.Cancelled))
    if callers and cls is not errors.Unsupported:
        assert 400 <= cls.http_status < 500
    elif cls not in (errors.TooManyOutstanding, errors.RequestEnded):
        assert 500 <= cls.http_status < 600


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    lines = re.findall(r"^    ([│ ├└─]*)(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE)
    stated: dict[str, str | None] = {}
    parents: list[str] = []
    for branch, name, rest in lines:
        depth = len(branch) // 4
        del parents[depth:]
        stated[name] = parents[-1] if parents else None
        parents.append(name)
        if name == "ProtocolError":
            stated |= {f"{kind}{name}": name for kind in re.findall(r"Local|Remote", rest)}
    real = {cls.__name__: cls.__base__.__name__ if cls.__base__ else "" for cls in TREE[1:]}
    assert stated == {"DifsError": None} | real


def test_an_error_keeps_everything_that_it_was_told() -> None:
    error = errors.Overloaded("full", field="n", limit="<= 8", retry_after_s=1.5, request_id="r1")
    assert (str(error), error.message, error.field, error.limit) == ("full", "full", "n", "<= 8")
    assert (error.retry_after_s, error.request_id) == (1.5, "r1")


def test_every_error_says_in_its_docstring_what_it_means() -> None:
    assert [cls.__name__ for cls in TREE if not cls.__dict__.get("__doc__")] == []


# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot read /home/jo/models/x.toml: denied", "cannot read x.toml: denied"),
        ("[Errno 2] No such file: '/home/jo smith/a b/x.toml'", "[Errno 2] No such file: 'x.toml'"),
        ("(/a/b/c.py:12)", "(c.py:12)"),
        ("path=/a/b/", "path="),
        ("/a/b", "b"),
        ("1/2 of width/height, 3 / 4, a/b/c stay", "1/2 of width/height, 3 / 4, a/b/c stay"),
        (
            "tcp://10.0.0.5:5555 and https://x.org/a/b stay",
            "tcp://10.0.0.5:5555 and https://x.org/a/b stay",
        ),
        ("", ""),
    ],
)
def test_paths_are_cut_to_their_last_name(text: str, told: str) -> None:
    assert without_paths(text) == told
    assert without_paths(told) == told


def test_cutting_paths_takes_no_time_whatever_the_text() -> None:
    for text in ("/a" * 50_000, "'/" * 50_000, " /" * 50_000, '"/' + "a/" * 50_000):
        without_paths(text)
