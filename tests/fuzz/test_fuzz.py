"""Whatever bytes come, every door answers with a valid value or its own error.

`python -m tests.fuzz wire --seconds 600` looks for longer, with atheris where it is installed.
"""

from random import Random
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from difs import config, manifests
from difs.actor_messages import FromActor, ToActor, ToSupervisor
from difs.errors import DifsError
from difs.manifests import AdapterManifest, Manifest, MeasuredQuality
from difs.messages import PROTOCOL, BrokerMessage, ClientMessage
from difs.profiling.cells import Profile
from tests.fuzz import strategies, targets
from tests.fuzz.mutation import mutated
from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import DECODERS, TARGETS

EXAMPLES = 100
UNIONS = (ClientMessage, BrokerMessage, FromActor, ToActor, ToSupervisor)
TYPES = [
    (kind, decode) for union, decode in zip(UNIONS, DECODERS, strict=True) for kind in get_args(union)
]


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_begins_with_and_what_it_found_passes(name: str) -> None:
    assert list((CORPUS / name).iterdir())
    for data in seeds(name):
        targets.run(name, data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(chance=st.randoms(use_true_random=False))
def test_damaged_input_never_raises_anything_else(name: str, chance: Random) -> None:
    begun = seeds(name)
    targets.run(name, mutated(chance.choice(begun), begun, chance))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES // 2)
@given(data=st.binary(max_size=300))
def test_random_input_never_raises_anything_else(name: str, data: bytes) -> None:
    targets.run(name, data)


def test_a_target_that_breaks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: a reader that lets another error through is found."""

    def careless(data: bytes) -> None:
        data.decode()

    monkeypatch.setitem(TARGETS, "header", careless)
    with pytest.raises(UnicodeDecodeError):
        test_damaged_input_never_raises_anything_else("header")


# ---- every type, valid by its type alone ---------------------------------------------------------


@pytest.mark.parametrize(("kind", "decode"), TYPES, ids=[kind.__name__ for kind, _ in TYPES])
@settings(max_examples=25)
@given(data=st.data())
def test_msgpack_and_msgspec_agree_on_every_message(kind: Any, decode: Any, data: st.DataObject) -> None:
    """What another library packs is read, as that library would read it; and what we pack, by it."""
    tree = data.draw(strategies.of(kind))
    try:
        message = decode([PROTOCOL, msgpack.packb(tree)])
    except DifsError as error:
        assume((error.field or "").split(".")[-1] not in ("width", "height"))  # one without the other
        raise
    assert type(message) is kind
    targets.agree(message, decode)


@pytest.mark.parametrize("kind", [Manifest, AdapterManifest, MeasuredQuality, Profile])
@settings(max_examples=25)
@given(data=st.data())
def test_every_manifest_that_its_type_allows_comes_back(kind: Any, data: st.DataObject) -> None:
    found = msgspec.convert(data.draw(strategies.of(kind)), kind)
    assert msgspec.json.decode(msgspec.json.encode(found), type=kind) == found


@settings(max_examples=50)
@given(tree=strategies.of(config.Config))
def test_every_configuration_that_its_type_allows_comes_back(tree: Any) -> None:
    found = msgspec.convert(tree, config.Config)
    assert config.undump(config.dump(found)) == found


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_files_nested_beyond_the_stack_are_refused_like_any_other(opening: str) -> None:
    """Found by reading for these tests: they ended the broker at its start, and an actor at its."""
    deep = b'{"x":' + opening.encode() * 100_000
    with pytest.raises(DifsError):
        manifests.parse_captions(
            b'{"x":{"caption":"a","y":' + opening.encode() * 100_000, "captions.json"
        )
    assert manifests.parse_quality(deep, "x") is None
    assert manifests.parse_quality(b'{"fingerprint":"\xff"}', "x") is None
    targets.profile(deep)
