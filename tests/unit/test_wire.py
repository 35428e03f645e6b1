"""difs.wire: what comes in is valid or refused with a typed error; what goes out comes back the same."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difs import wire
from difs.actor_messages import (
    Abort,
    ActorExited,
    CancelLoad,
    Counted,
    DrainAll,
    Ended,
    Evicted,
    EvictVariant,
    Excuse,
    Execute,
    Finished,
    Fleet,
    FromActor,
    KillActor,
    Leaving,
    Loaded,
    LoadFailed,
    LoadVariant,
    Pulse,
    Ready,
    Retiring,
    Sealed,
    Slot,
    Stepped,
    Stop,
    Supervise,
    Switched,
    SwitchFailed,
    SwitchMode,
    ToActor,
    ToSupervisor,
    Welcome,
)
from difs.errors import (
    DifsError,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
    Unsupported,
)
from difs.messages import (
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_PROMPT_BYTES,
    PROTOCOL,
    Accepted,
    Adapter,
    AdapterInfo,
    Beat,
    BrokerMessage,
    Cancel,
    Case,
    ClearQuarantine,
    ClientMessage,
    Delivery,
    DeviceStatus,
    Done,
    Drain,
    Error,
    Evict,
    Explain,
    Explanation,
    Family,
    Generate,
    Happening,
    Load,
    MemoryMode,
    Metrics,
    MetricsReport,
    Overrides,
    Pin,
    Ping,
    Pong,
    Preview,
    Progress,
    Quarantine,
    QuarantineList,
    Release,
    Requirements,
    Sample,
    SetMode,
    Status,
    StatusReport,
    Story,
    StoryReport,
    VariantList,
    Variants,
)
from tests import builders

Tree = dict[str, Any]
Decode = Callable[[Sequence[wire.Frame]], msgspec.Struct]

SMALLEST: Tree = {"type": "generate", "request_id": "r1", "prompt": "x"}


def frames(tree: Any) -> list[wire.Frame]:
    """Return the frames of a message made by another msgpack library."""
    return [PROTOCOL, msgpack.packb(tree)]


def with_value(path: str, value: Any) -> Tree:
    """Return a small `generate` in which the field at `path` has `value`."""
    tree: Tree = dict(SMALLEST)
    if path in ("width", "height"):
        tree |= {"width": 64, "height": 64}
    place = tree
    *parents, name = path.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = value
    return tree


def refusal(tree: Any) -> DifsError:
    """Return the error that a client's message is refused with."""
    with pytest.raises(DifsError) as caught:
        wire.decode_from_client(frames(tree))
    return caught.value


# ---- limits -------------------------------------------------------------------------------------

ADAPTERS = [{"name": f"a{i}"} for i in range(9)]
LIMITS: list[tuple[str, Any, Any]] = [
    ("request_id", "a" * 64, "a" * 65),
    ("request_id", "a", ""),
    ("request_id", "A.b_c:d-9", "a/b"),
    ("request_id", "9", "-9"),
    ("request_id", "a-", "a\n"),
    ("prompt", "x" * 4096, "x" * 4097),
    ("prompt", "\u00e9" * 2048, "\u00e9" * 2049),
    ("prompt", "e\u0301" * 2048, "e\u0301" * 2049),
    ("prompt", "\x01", "\0"),
    ("negative_prompt", "x" * 4096, "x" * 4097),
    ("negative_prompt", "", "a\0"),
    ("task", "text-to-image", "image-to-image"),
    ("width", 64, 48),
    ("width", 2048, 2064),
    ("width", 80, 72),
    ("height", 64, 48),
    ("height", 2048, 2064),
    ("height", 80, 72),
    ("n", 1, 0),
    ("n", 8, 9),
    ("seed", 0, -1),
    ("seed", 2**64 - 1, -(2**63)),
    ("timeout_s", 3600, 3600.001),
    ("timeout_s", 0.001, 0),
    ("requirements.latency_s", 3600.0, 3600.001),
    ("requirements.latency_s", 0.001, 0.0),
    ("requirements.quality", 0, -0.001),
    ("requirements.quality", 1, 1.001),
    ("requirements.quality", "best", "better"),
    ("requirements.priority", 0, -1),
    ("requirements.priority", 9, 10),
    ("requirements.on_infeasible", "reject", "refuse"),
    ("requirements.best_effort", True, 1),
    ("overrides.variant", "a" * 64, "a" * 65),
    ("overrides.variant", "a.b_c-9", "../x"),
    ("overrides.variant", "a", ""),
    ("overrides.family", "sd15", "SD15"),
    ("overrides.family", "a" * 64, "a" * 65),
    ("overrides.steps", 1, 0),
    ("overrides.steps", 150, 151),
    ("overrides.guidance_scale", 0, -0.001),
    ("overrides.guidance_scale", 50, 50.001),
    ("overrides.sampler", "s", ""),
    ("overrides.sampler", "s" * 64, "s" * 65),
    ("overrides.adapters", ADAPTERS[:8], ADAPTERS),
    ("delivery.mode", "shm", "post"),
    ("delivery.format", "webp", "gif"),
    ("delivery.progress", True, "yes"),
    ("delivery.preview_every", 0, -1),
    ("delivery.preview_every", 150, 151),
    ("deterministic", True, 1),
]
IDS = [f"{path}-{i}" for i, (path, _, _) in enumerate(LIMITS)]


@pytest.mark.parametrize(("path", "limit", "beyond"), LIMITS, ids=IDS)
def test_a_value_at_its_limit_is_accepted(path: str, limit: Any, beyond: Any) -> None:
    assert isinstance(wire.decode_from_client(frames(with_value(path, limit))), Generate)


@pytest.mark.parametrize(("path", "limit", "beyond"), LIMITS, ids=IDS)
def test_a_value_beyond_its_limit_is_refused_and_its_field_named(
    path: str, limit: Any, beyond: Any
) -> None:
    error = refusal(with_value(path, beyond))
    assert type(error) is InvalidRequest
    assert error.field == path
    assert error.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "value", "limit"),
    [
        ("n", 9, "<= 8"),
        ("width", 72, "multiple of 16"),
        ("prompt", "x" * 4097, "<= 4096"),
        ("delivery.mode", "post", "one of shm, inline"),
        ("requirements.quality", 2, "<= 1.0"),
        ("timeout_s", 0, "> 0.0"),
    ],
)
def test_a_refusal_says_what_would_have_been_allowed(path: str, value: Any, limit: str) -> None:
    assert refusal(with_value(path, value)).limit == limit


@pytest.mark.parametrize("weight", [-4, 4.0])
def test_an_adapter_weight_at_its_limit_is_accepted(weight: float) -> None:
    tree = with_value("overrides.adapters", [{"name": "a", "weight": weight}])
    message = wire.decode_from_client(frames(tree))
    assert isinstance(message, Generate)
    assert message.overrides.adapters == (Adapter("a", weight),)


@pytest.mark.parametrize("weight", [-4.001, 4.001, float("nan"), float("inf")])
def test_an_adapter_weight_beyond_its_limit_is_refused(weight: float) -> None:
    error = refusal(with_value("overrides.adapters", [{"name": "a"}, {"name": "b", "weight": weight}]))
    assert type(error) is InvalidRequest
    assert error.field == "overrides.adapters[1].weight"


@pytest.mark.parametrize(
    ("leases", "field"), [([], "leases"), ([1] * 65, "leases"), ([1, -1], "leases[1]")]
)
def test_a_release_takes_1_to_64_leases(leases: list[int], field: str) -> None:
    for good in ([0], [2**64 - 1] * 64):
        assert wire.decode_from_client(frames({"type": "release", "leases": good})) == Release(
            tuple(good)
        )
    error = refusal({"type": "release", "leases": leases})
    assert (type(error), error.field) == (InvalidRequest, field)


@pytest.mark.parametrize("kind", ["load", "evict", "set_mode"])
def test_the_names_of_admin_messages_are_checked(kind: str) -> None:
    tree: Tree = {"type": kind} | ({"memory_mode": "full"} if kind == "set_mode" else {})
    wire.decode_from_client(frames(tree | {"variant": "a" * 64, "device": "cuda-0"}))
    assert refusal(tree | {"variant": "a" * 65}).field == "variant"
    assert refusal(tree | {"variant": "a", "device": "cuda:0"}).field == "device"


@pytest.mark.parametrize("mode", get_args(MemoryMode))
def test_every_memory_mode_can_be_asked_for(mode: MemoryMode) -> None:
    tree = {"type": "set_mode", "variant": "tiny", "memory_mode": mode}
    assert wire.decode_from_client(frames(tree)) == SetMode("tiny", mode)


@pytest.mark.parametrize("mode", ["FULL", "", "fast"])
def test_another_memory_mode_is_refused_with_those_there_are(mode: str) -> None:
    error = refusal({"type": "set_mode", "variant": "tiny", "memory_mode": mode})
    assert (type(error), error.field) == (InvalidRequest, "memory_mode")
    assert error.limit == f"one of {', '.join(get_args(MemoryMode))}"


def test_a_mode_must_be_named() -> None:
    error = refusal({"type": "set_mode", "variant": "tiny"})
    assert (type(error), error.field) == (InvalidRequest, "memory_mode")


@pytest.mark.parametrize(
    "path",
    [
        "timeout_s",
        "requirements.latency_s",
        "requirements.quality",
        "overrides.guidance_scale",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(path: str, value: float) -> None:
    error = refusal(with_value(path, value))
    assert (type(error), error.field) == (InvalidRequest, path)


@pytest.mark.parametrize("missing", ["width", "height"])
def test_width_and_height_are_given_together(missing: str) -> None:
    tree = SMALLEST | {"width": 64, "height": 64}
    del tree[missing]
    error = refusal(tree)
    assert (type(error), error.field) == (InvalidRequest, missing)


@pytest.mark.parametrize("field", ["request_id", "prompt"])
def test_a_missing_field_is_named(field: str) -> None:
    error = refusal({k: v for k, v in SMALLEST.items() if k != field})
    assert (type(error), error.field) == (InvalidRequest, field)


@pytest.mark.parametrize(
    ("inner", "field"), [({"n": 9}, "request.n"), ({"prompt": "\0"}, "request.prompt")]
)
def test_what_explain_asks_is_checked_as_generate(inner: Tree, field: str) -> None:
    error = refusal({"type": "explain", "request": SMALLEST | inner})
    assert (type(error), error.field) == (InvalidRequest, field)


def test_a_text_is_brought_into_nfc() -> None:
    message = wire.decode_from_client(frames(with_value("prompt", "cafe\u0301")))
    assert isinstance(message, Generate)
    assert message.prompt == unicodedata.normalize("NFC", "cafe\u0301") == "caf\u00e9"


def test_the_greatest_square_is_accepted() -> None:
    message = wire.decode_from_client(frames(SMALLEST | {"width": 2048, "height": 2048}))
    assert isinstance(message, Generate)


# ---- frames -------------------------------------------------------------------------------------


def test_as_many_frames_as_allowed_are_accepted() -> None:
    assert wire.decode_from_client([*frames({"type": "ping"}), *[b""] * (MAX_FRAMES - 2)]) == Ping()


def test_one_frame_more_is_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_from_client([*frames({"type": "ping"}), *[b""] * (MAX_FRAMES - 1)])
    assert caught.value.field == "frames"


def padded(size: int) -> list[wire.Frame]:
    """Return a `ping` of exactly `size` bytes."""
    bare = len(msgpack.packb({"type": "ping", "pad": b"\0" * 1000}))
    found = frames({"type": "ping", "pad": b"\0" * (size - bare + 1000)})
    assert len(found[1]) == size
    return found


def test_a_map_of_the_greatest_size_is_accepted() -> None:
    assert wire.decode_from_client(padded(MAX_HEADER_BYTES)) == Ping()


def test_a_map_that_is_one_byte_larger_is_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_from_client(padded(MAX_HEADER_BYTES + 1))
    assert caught.value.field == "frame 1"


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ([], "frames"),
        ([PROTOCOL], "frames"),
        ([b"DIFS2", b"\x80"], "frame 0"),
        ([b"", b"\x80"], "frame 0"),
        ([b"\x80", PROTOCOL], "frame 0"),
    ],
)
def test_frames_that_are_no_message_are_refused(sent: list[wire.Frame], field: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_from_client(sent)
    assert caught.value.field == field


PING = msgpack.packb({"type": "ping"})
DEEP = b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 60_000 + b"\xc0"
BROKEN = {
    "empty": b"",
    "truncated": PING[:-1],
    "only its head": PING[:1],
    "trailing bytes": PING + b"\xc0",
    "never used byte": b"\xc1",
    "deeply nested": DEEP,
    "deeply nested maps": b"\x82\xa4type\xa4ping\xa1x" + b"\x81\xa1x" * 15_000 + b"\xc0",
    "a map of 2**32 - 1 entries": b"\xdf\xff\xff\xff\xff",
    "an array of 2**32 - 1 entries": b"\x82\xa4type\xa4ping\xa1x\xdd\xff\xff\xff\xff",
    "a string of 2**32 - 1 bytes": b"\x81\xa4type\xdb\xff\xff\xff\xffping",
    "bytes of 2**32 - 1 bytes": b"\x82\xa4type\xa4ping\xa1x\xc6\xff\xff\xff\xff",
    "an extension that is too long": b"\x82\xa4type\xa4ping\xa1x\xc9\xff\xff\xff\xff\x01",
    "not UTF-8": b"\x81\xa4type\xa4\xff\xfe\xfd\xfc",
    "a surrogate": b"\x83\xa4type\xa8generate\xaarequest_id\xa1a\xa6prompt\xa3\xed\xa0\x80",
    "an array": b"\x91\xa4ping",
    "a number": b"\x01",
    "nil": b"\xc0",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_map_are_refused_as_such(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_from_client([PROTOCOL, data])
    assert caught.value.field == "frame 1"


@pytest.mark.parametrize("header", [b"\xc1", b"\x91" * 60_000, msgspec.msgpack.encode({"type": "x"})])
def test_a_refusal_keeps_nothing_of_what_it_refuses(header: bytes) -> None:
    with pytest.raises(DifsError) as caught:
        wire.decode_from_client([PROTOCOL, header])
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"type": None},
        {"type": 5},
        {"type": "nope"},
        {"type": "Ping"},
        {"type": "beat", "epoch": 1},
        {"type": "execute"},
        SMALLEST | {"type": "result"},
    ],
)
def test_an_unknown_type_is_refused_as_unsupported(tree: Tree) -> None:
    error = refusal(tree)
    assert (type(error), error.field) == (Unsupported, "type")


def test_clients_cannot_speak_as_actors_nor_actors_as_clients() -> None:
    for message in FROM_ACTOR:
        with pytest.raises(Unsupported):
            wire.decode_from_client(wire.encode(message))
    for asked in FROM_CLIENT:
        with pytest.raises(Unsupported):
            wire.decode_from_actor(wire.encode(asked))


def test_unknown_fields_are_ignored_at_any_depth() -> None:
    tree = SMALLEST | {
        "new": 1,
        "overrides": {"new": {"a": [1]}},
        "delivery": {"mode": "shm", "new": None},
    }
    assert wire.decode_from_client(frames(tree)) == Generate("r1", "x", delivery=Delivery(mode="shm"))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (1, 128), (8, 8)])
def test_a_preview_reaches_the_client_whole(height: int, width: int) -> None:
    """Its bytes stand in the map; what limits the maps of clients does not limit the broker's."""
    pixels = bytes(i % 251 for i in range(height * width * 3))
    stepped = Stepped(1, 0, 5, 20, Preview(height, width, pixels))
    from_actor = wire.decode_from_actor(wire.encode(stepped))
    assert from_actor == stepped
    said = Progress("r1", 0, 5, 20, Preview(height, width, pixels))
    sent = wire.encode(said)
    assert len(sent[1]) < len(pixels) + 200, "bytes, and no text of them"
    assert wire.decode_from_broker(sent) == said
    tree = msgpack.unpackb(sent[1])
    assert tree["preview"] == {"height": height, "width": width, "pixels": pixels}


def test_a_preview_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    preview = {"height": 1, "width": 1, "pixels": b"rgb", "channels": 3, "depth": {"bits": 8}}
    tree = {"type": "progress", "request_id": "r1", "image": 0, "step": 1, "steps": 2}
    found = wire.decode_from_broker(frames(tree | {"preview": preview, "eta_s": 0.5}))
    assert found == Progress("r1", 0, 1, 2, Preview(1, 1, b"rgb"))
    assert wire.decode_from_broker(frames(tree)) == Progress("r1", 0, 1, 2), "as an earlier broker says"


def test_a_memoryview_is_as_good_as_bytes() -> None:
    assert wire.decode_from_client([memoryview(f) for f in frames({"type": "ping"})]) == Ping()


@pytest.mark.parametrize(
    "message",
    [Error("internal", "\ud800", retryable=False), Pong(2**70, ready=True)],
    ids=["text", "number"],
)
def test_what_cannot_be_encoded_is_our_own_fault(message: msgspec.Struct) -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(message)


# ---- the request id of a refused message --------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (SMALLEST | {"n": 99}, "r1"),
        ({"type": "cancel", "request_id": "x" * 64, "y": 1}, "x" * 64),
        ({"type": "nope", "request_id": "r1"}, "r1"),
        (SMALLEST | {"request_id": "x" * 65}, None),
        ({"request_id": 5}, None),
        ({"type": "ping"}, None),
        ([1], None),
    ],
)
def test_the_request_id_of_a_refused_message_is_found_where_there_is_one(
    tree: Any, name: str | None
) -> None:
    assert wire.request_id_of(frames(tree)) == name


@pytest.mark.parametrize("what", sorted(BROKEN.keys() - {"a surrogate"}))
def test_broken_bytes_have_no_request_id(what: str) -> None:
    assert wire.request_id_of([PROTOCOL, BROKEN[what]]) is None
    assert wire.request_id_of([PROTOCOL]) is None


# ---- anything -----------------------------------------------------------------------------------

DECODERS: dict[str, Decode] = {
    "from_client": wire.decode_from_client,
    "from_broker": wire.decode_from_broker,
    "from_actor": wire.decode_from_actor,
    "to_actor": wire.decode_to_actor,
    "to_supervisor": wire.decode_to_supervisor,
}


def expect_message_or_difs_error(decode: Decode, sent: Sequence[wire.Frame]) -> None:
    try:
        assert isinstance(decode(sent), msgspec.Struct)
    except DifsError as error:
        assert error.message
    found = wire.request_id_of(sent)
    assert found is None or len(found) <= 64


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@settings(max_examples=150)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(decode: Decode, data: bytes) -> None:
    expect_message_or_difs_error(decode, [PROTOCOL, data])


@settings(max_examples=150)
@given(sent=st.lists(st.sampled_from([PROTOCOL, b"", PING, b"\x80", b"DIFS"]) | st.binary(), max_size=8))
def test_random_frames_never_raise_anything_else(sent: list[bytes]) -> None:
    expect_message_or_difs_error(wire.decode_from_client, sent)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
ALL_TYPES: tuple[type[msgspec.Struct], ...] = get_args(
    ClientMessage | BrokerMessage | FromActor | ToActor | ToSupervisor
)
FIELDS = sorted({field.encode_name for cls in ALL_TYPES for field in msgspec.structs.fields(cls)})
TAGS = [cls.__struct_config__.tag for cls in ALL_TYPES]


@settings(max_examples=300)
@given(
    tag=st.sampled_from(TAGS),
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8),
    decode=st.sampled_from(list(DECODERS.values())),
)
def test_random_maps_never_raise_anything_else(tag: str, fields: Tree, decode: Decode) -> None:
    expect_message_or_difs_error(decode, frames(fields | {"type": tag}))


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_messages_never_raise_anything_else(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(EVERY_MESSAGE))
    encoded = bytearray(wire.encode(message)[1])
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    for decode in DECODERS.values():
        expect_message_or_difs_error(decode, [PROTOCOL, bytes(encoded)])


# ---- there and back -----------------------------------------------------------------------------

FROM_CLIENT: list[ClientMessage] = [
    builders.generate(
        seed=2**64 - 1,
        n=8,
        deterministic=True,
        latency_s=0.5,
        quality="best",
        adapters=(Adapter("a", 0.5),),
    ),
    Generate("r1", "a prompt and all defaults"),
    Explain(builders.generate(quality=0.25, sampler="Euler a", timeout_s=1.5)),
    Cancel("r1"),
    Release((1, 2**64 - 1)),
    Variants(),
    Status(),
    Ping(),
    Load("tiny", "cpu-0"),
    Evict("tiny"),
    SetMode("tiny", "sequential_offload", "cuda-0"),
    Pin("tiny", "cuda-0", False),
    Drain(),
    Metrics(),
    Story("r1"),
    Quarantine(),
    ClearQuarantine("0" * 32),
]
FROM_BROKER: list[BrokerMessage] = [
    Accepted("r1", 7, 0),
    Accepted("r1", 7, 2, builders.plan(notes=("a", "b"), keeps_latency=False, expected_quality=0.5)),
    Progress("r1", 0, 3, 20),
    Progress("r1", 1, 3, 20, Preview(1, 2, b"\0\1\2\xfd\xfe\xff")),
    builders.result(),
    builders.result(seed_contract="same-noise", seed_bound=4e-6),
    builders.result(leases=(1, 2**64 - 1)),
    Error("invalid_request", "n: too many", retryable=False, field="n", limit="<= 8"),
    Error("overloaded", "later", retryable=True, request_id="r1", retry_after_s=0.5),
    Beat(7),
    Pong(7, ready=True),
    Explanation("r1", builders.plan()),
    Explanation("r1", refusal=Error("unavailable", "no", retryable=True)),
    VariantList((builders.variant(resident_on=("cpu-0",)),)),
    VariantList((), (AdapterInfo("ink", "sd15", "CC0-1.0", "ink drawings", 1000, ("tiny",)),)),
    StatusReport(
        epoch=7,
        version="1",
        policy="static",
        ready=True,
        draining=False,
        uptime_s=1.5,
        queued=1,
        running=2,
        clients=3,
        devices=(
            DeviceStatus("cpu-0", "ready", ("tiny",), 1, 2, 2, 0.5, 3, 4, builders.reading()),
            DeviceStatus(
                *("cpu-1", "ready", ("tiny",), 0, 0, 8, 0.0, 4, 4),
                memory_modes={"tiny": "tiled"},
                loading=("wide",),
                parked=("other",),
            ),
        ),
        counts={"accepted": 1},
    ),
    Done("draining"),
    MetricsReport(7, (Family("a", "histogram", "", (Sample(0.5, {"b": "c"}, ((0.1, 1),), 2),)),)),
    StoryReport(7, (Happening(0.5, "accepted", "r1", 1, "cpu-0", "words"),)),
    QuarantineList((Case("0" * 32, "r1", 3, "signal 9", 5.0),)),
]
FROM_ACTOR: list[FromActor] = [
    builders.ready(attempts=(1, 2**63)),
    Pulse("cpu-0.first", 5, builders.reading()),
    Stepped(2**63 + 1, 0, 1, 20),
    Stepped(2**63 + 1, 7, 5, 20, Preview(1, 1, b"\xff\0\x80")),
    Counted(((2**63 + 1, 4), (1, 1))),
    Finished(1, (Sealed(0, 12, 2**32 - 1),), 0.1, 0.2, 0.3, 0.4, "bitwise", ("note",)),
    Finished(
        *(1, (Sealed(0, 12, 0),), 0.1, 0.2, 0.3, 0.4, "same-noise"),
        seed_bound=4e-6,
        shared_by=2.5,
        costs=builders.COSTS,
    ),
    Ended(1, "cancelled", "words"),
    Loaded(builders.resident()),
    LoadFailed("tiny", "words"),
    Evicted("tiny"),
    Evicted("tiny", parked=builders.resident(), dropped=("wide",)),
    Switched(builders.resident()),
    SwitchFailed("tiny", "words"),
    Retiring(),
    Leaving(),
    Supervise(1),
    ActorExited("cpu-0", 100, "signal 9"),
    DrainAll(30.0),
]
TO_ACTOR: list[ToActor] = [
    builders.execute(adapters=(Adapter("a"),), slots=(Slot(0, 4096, 100, 2**63),)),
    builders.execute(due=5.5, latest=6.5, is_alone=True, preview_every=5),
    Abort(1),
    LoadVariant("tiny"),
    CancelLoad("tiny"),
    EvictVariant("tiny"),
    SwitchMode("tiny", "sliced"),
    Stop(),
    Welcome(7),
]
TO_SUPERVISOR: list[ToSupervisor] = [
    Fleet(7, ("cpu-0",)),
    KillActor("cpu-0", 100, "hangs"),
    Excuse(("cpu-0",)),
]
KINDS: list[tuple[Any, Sequence[msgspec.Struct], Decode]] = [
    (ClientMessage, FROM_CLIENT, wire.decode_from_client),
    (BrokerMessage, FROM_BROKER, wire.decode_from_broker),
    (FromActor, FROM_ACTOR, wire.decode_from_actor),
    (ToActor, TO_ACTOR, wire.decode_to_actor),
    (ToSupervisor, TO_SUPERVISOR, wire.decode_to_supervisor),
]
EVERY_MESSAGE = [message for _, examples, _ in KINDS for message in examples]
every_message = pytest.mark.parametrize(
    ("message", "decode"),
    [(message, decode) for _, examples, decode in KINDS for message in examples],
    ids=[type(message).__name__ for message in EVERY_MESSAGE],
)


@pytest.mark.parametrize(("union", "examples", "decode"), KINDS, ids=DECODERS)
def test_the_examples_here_are_of_every_type(
    union: Any, examples: Sequence[msgspec.Struct], decode: Decode
) -> None:
    assert {type(message) for message in examples} == set(get_args(union))


@every_message
def test_a_message_comes_back_as_it_was_sent(message: msgspec.Struct, decode: Decode) -> None:
    assert decode(wire.encode(message)) == message


@every_message
def test_another_library_reads_and_writes_the_same(message: msgspec.Struct, decode: Decode) -> None:
    tree = msgspec.to_builtins(message, builtin_types=(bytes,))
    assert decode(frames(tree)) == message
    assert msgpack.unpackb(wire.encode(message)[1]) == msgpack.unpackb(msgpack.packb(tree))


def test_payload_frames_travel_behind_the_map_untouched() -> None:
    payloads: list[wire.Frame] = [b"one", memoryview(b"two")]
    sent = wire.encode(builders.result(), payloads)
    assert sent[2:] == payloads
    assert sent[2] is payloads[0]
    assert wire.decode_from_broker(sent) == builders.result()


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._\-]{0,63}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
REQUESTS = st.builds(
    Generate,
    request_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,63}", fullmatch=True),
    prompt=TEXTS,
    negative_prompt=TEXTS,
    n=st.integers(1, 8),
    seed=st.none() | st.integers(0, 2**64 - 1),
    timeout_s=st.floats(0.001, 3600),
    deterministic=st.booleans(),
    requirements=st.builds(
        Requirements,
        latency_s=st.none() | st.floats(0.001, 3600),
        quality=st.none() | st.floats(0, 1) | st.sampled_from(["draft", "low", "medium", "high", "best"]),
        priority=st.integers(0, 9),
        best_effort=st.booleans(),
    ),
    overrides=st.builds(
        Overrides,
        variant=st.none() | NAMES,
        steps=st.none() | st.integers(1, 150),
        guidance_scale=st.none() | st.floats(0, 50),
        adapters=st.lists(st.builds(Adapter, NAMES, st.floats(-4, 4)), max_size=8).map(tuple),
    ),
    delivery=st.builds(
        Delivery,
        mode=st.sampled_from(["shm", "inline"]),
        progress=st.booleans(),
        preview_every=st.integers(0, 150),
    ),
)


@settings(max_examples=150)
@given(message=REQUESTS)
def test_any_valid_request_comes_back_through_either_library(message: Generate) -> None:
    assert wire.decode_from_client(wire.encode(message)) == message
    assert wire.decode_from_client(frames(msgspec.to_builtins(message))) == message


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=1500))
def test_an_accepted_text_is_normal_short_and_free_of_nul(text: str) -> None:
    try:
        message = wire.decode_from_client(frames(with_value("prompt", text)))
    except InvalidRequest as error:
        assert error.field == "prompt"
        normal = unicodedata.normalize("NFC", text)
        assert "\0" in text or len(normal.encode()) > MAX_PROMPT_BYTES
    else:
        assert isinstance(message, Generate)
        assert message.prompt == unicodedata.normalize("NFC", text)


def test_ready_and_execute_are_what_their_classes_say() -> None:
    """A decoder is bound to its direction: the same bytes mean nothing to another."""
    assert isinstance(wire.decode_from_actor(wire.encode(builders.ready())), Ready)
    assert isinstance(wire.decode_to_actor(wire.encode(builders.execute())), Execute)
    with pytest.raises(Unsupported):
        wire.decode_to_actor(wire.encode(builders.ready()))
