"""docs/PROTOCOL.md cannot drift: its names, values, defaults, codes and offsets are the code's."""

import json
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import NODEFAULT, UNSET, Struct
from msgspec.structs import FieldInfo, fields

from difs import config, messages
from difs.broker import client_desk, loop, outbox, state
from difs.client import core
from difs.errors import BY_CODE
from difs.memory_modes import MODES, available
from difs.messages import BrokerMessage, ClientMessage, Image, MemoryMode, SeedContract
from difs.samplers import SAMPLERS, evaluations
from difs.shm import layout

SPEC = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text("utf-8")

MESSAGES: tuple[type[Struct], ...] = (*get_args(ClientMessage), *get_args(BrokerMessage))
TAGS = {cls.__struct_config__.tag: cls for cls in MESSAGES}
MAPS = {
    name: cls
    for name, cls in vars(messages).items()
    if isinstance(cls, type) and issubclass(cls, Struct) and cls is not Struct and cls not in MESSAGES
}
CONSTANTS = {
    name: value
    for name, value in vars(messages).items()
    if name.isupper() and isinstance(value, (int, float, bytes)) and not name.startswith("_")
}


def sections() -> Iterator[tuple[str, str]]:
    """Yield the heading of each message or map, and the text below it."""
    found = re.split(r"^#{2,4} (.*)$", SPEC, flags=re.MULTILINE)
    for heading, text in zip(found[1::2], found[2::2], strict=True):
        if match := re.fullmatch(r"`(\w+)`", heading):
            yield match[1], text


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables in `text` by their first cell, backquotes taken off."""
    lines = text.splitlines()
    found = {}
    for line, following in pairwise([*lines, ""]):
        if line.startswith("|") and not line.startswith("|--") and not following.startswith("|--"):
            name, *rest = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
            found[name] = rest
    return found


def chapter(title: str) -> str:
    """Return the text of a numbered section."""
    match = re.search(rf"^## \d+\. {title}\n(.*?)(?=^## |\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert match, f"no section {title!r}"
    return match[1]


SECTIONS = dict(sections())


def default_of(field: FieldInfo) -> Any:
    """Return a field's default as the specification writes it."""
    if field.required:
        return "required"
    if field.default is UNSET:
        return "absent"
    default = field.default_factory() if field.default is NODEFAULT else field.default
    return json.loads(msgspec.json.encode(default))


def written(cell: str) -> Any:
    return cell if cell in ("required", "absent") else json.loads(cell.replace("nil", "null"))


def test_there_is_a_section_for_every_message_and_map_and_for_no_other() -> None:
    assert set(SECTIONS) == set(TAGS) | set(MAPS)


@pytest.mark.parametrize("name", [*TAGS, *MAPS])
def test_the_fields_and_defaults_of_every_message_and_map_are_listed(name: str) -> None:
    listed = {field: written(cells[1]) for field, cells in rows(SECTIONS[name]).items()}
    cls = TAGS.get(name) or MAPS[name]
    assert listed == {field.encode_name: default_of(field) for field in fields(cls)}


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_limit_is_listed_with_its_value(name: str) -> None:
    value = CONSTANTS[name]
    expected = value.decode() if isinstance(value, bytes) else repr(value)
    assert rows(chapter("Limits"))[name][0] == expected


def test_no_limit_is_listed_that_does_not_exist() -> None:
    listed = {name for name in rows(chapter("Limits")) if name.isupper()}
    assert listed == {*CONSTANTS, "MAX_FRAME_BYTES"}
    mentioned = set(re.findall(r"`((?:MAX|MIN|DEFAULT|SIDE|HEADER)_[A-Z_]+)`", SPEC))
    assert mentioned == {n for n in listed if "_" in n} | {"HEADER_BYTES"}


def test_the_greatest_frame_is_listed() -> None:
    assert rows(chapter("Limits"))["MAX_FRAME_BYTES"][0] == repr(loop.MAX_FRAME_BYTES)


def test_the_configurable_limits_are_listed_with_their_defaults() -> None:
    listed = {n: c[0] for n, c in rows(chapter("Limits")).items() if n.startswith("broker.")}
    rules = config.Broker()
    assert listed == {n: json.dumps(getattr(rules, n.removeprefix("broker."))) for n in listed}
    assert "broker.max_queued" in listed


def test_the_numbers_in_the_prose_are_those_of_the_code() -> None:
    prose = " ".join(SPEC.split())
    assert state.BEAT_S == 0.5
    assert "sends a `beat` each half second" in prose
    assert outbox.BRIEF_S == 1.0
    kept = f"a second while more than {outbox.MAX_KEPT_BYTES // 1024} KiB are kept, or when more than "
    assert f"{kept}{outbox.MOST_KEPT_BYTES // 2**20} MiB are" in prose
    assert f"still open after {client_desk.ADMIN_DRAIN_S:g} seconds" in prose
    assert f"received no message for {core.SILENCE_S:g} seconds" in prose


def test_every_error_code_is_listed_with_its_properties() -> None:
    table = rows(chapter("Errors"))
    listed = {code: (retryable, http) for code, (retryable, http, _) in table.items()}
    expected = {
        code: ("yes" if cls.retryable else "no", str(cls.http_status)) for code, cls in BY_CODE.items()
    }
    assert listed == expected


def test_the_slot_header_is_as_listed() -> None:
    header = layout.Header(generation=1, nbytes=2, crc32=3, height=4, width=5, channels=6)
    table = re.findall(r"^\| (\d+) \| (\d+) \| (\w*) *\| (.*) \|$", SPEC, re.MULTILINE)
    packed, formats = layout.pack(header), {"u64": "<Q", "u32": "<I"}
    assert len(table) == 8
    end = 0
    for offset, nbytes, kind, field in table:
        assert int(offset) == end
        end += int(nbytes)
        if kind in formats:
            (value,) = struct.unpack_from(formats[kind], packed, int(offset))
            assert value == getattr(header, field.strip("`"))
    assert end == layout.HEADER_BYTES
    assert f"`HEADER_BYTES` = {layout.HEADER_BYTES}" in SPEC
    assert packed.startswith(b"DIFSIMG1")
    assert layout.SEGMENT_MAGIC == b"DIFSSEG1"
    assert "`DIFSIMG1`" in SPEC
    assert "`DIFSSEG1`" in SPEC


def test_every_sampler_is_named() -> None:
    row = rows(SECTIONS["Overrides"])["sampler"]
    assert set(re.findall(r"`(\w+)`", row[-1])) == {*SAMPLERS, "MAX_NAME_CHARS"}


def test_the_samplers_that_take_more_evaluations_than_steps_are_named() -> None:
    row = rows(SECTIONS["progress"])["steps"]
    named = set(re.findall(r"`(\w+)`", row[-1])) - {"steps"}
    assert named == {name for name in SAMPLERS if evaluations(name, 8) != 8}
    assert {evaluations(name, 8) for name in named - {"pndm"}} == {2 * 8 - 1}
    assert evaluations("pndm", 8) == 8 + 1


def test_every_memory_mode_is_described_in_the_order_of_the_ladder() -> None:
    listed = re.findall(r"^- `(\w+)`: ", SECTIONS["set_mode"], re.MULTILINE)
    assert tuple(listed) == tuple(MODES) == get_args(MemoryMode)
    on_a_cpu = re.search(r"On a CPU there are (.*)\.", SECTIONS["set_mode"])
    assert on_a_cpu
    assert tuple(re.findall(r"`(\w+)`", on_a_cpu[1])) == available("cpu")


def test_every_seed_contract_is_described() -> None:
    row = rows(SECTIONS["result"])["seed_contract"]
    assert set(re.findall(r'"([\w-]+)"', row[-1])) == set(get_args(SeedContract))


def examples() -> list[str]:
    return re.findall(r"^```json\n(.*?)^```$", SPEC, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", examples())
def test_the_examples_are_valid(text: str) -> None:
    tree = json.loads(text)
    message = msgspec.json.decode(text, type=TAGS[tree["type"]] if "type" in tree else Image)
    assert set(tree) <= {"type", *(field.encode_name for field in fields(message))}


def test_the_contents_lead_somewhere() -> None:
    headings = re.findall(r"^## (.*)$", SPEC, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", SPEC)) == anchors
    for path in re.findall(r"\]\((\.\.[^)]+)\)", SPEC):
        assert (Path(__file__).parents[2] / "docs" / path).exists()
