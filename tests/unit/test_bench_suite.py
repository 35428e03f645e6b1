"""Long benches go on where they were cut short, in an order that is fair, and count bytes right."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bench import beside, footprint, suite
from bench.peers import sdcpp
from bench.progress import Progress, code
from bench.relay import Relay

ROOT = Path(__file__).parents[2]


def test_a_run_on_the_same_terms_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    first = Progress(path, {"steps": (4, 6)})
    first.keep("a", [1, 2.5])
    again = Progress(path, {"steps": (4, 6)})
    assert "a" in again
    assert again["a"] == [1, 2.5]
    again.forget()
    assert "a" not in again
    assert not path.exists()


def test_a_run_on_other_terms_begins_anew(tmp_path: Path) -> None:
    Progress(tmp_path / "s", {"rounds": 1}).keep("a", 1)
    assert "a" not in Progress(tmp_path / "s", {"rounds": 2})


def test_code_that_changed_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "difs").mkdir()
    states = [code(tmp_path)]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.toml", "2"), ("c.txt", "2")):
        (tmp_path / "difs" / name).write_text(text, "utf-8")
        states.append(code(tmp_path))
    assert len(set(states[:4])) == 4
    assert states[4] == states[3], "only what runs or configures"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"terms": {}}', '{"terms": {}, "cells": 3}'])
def test_a_spoilt_file_is_a_fresh_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "s").write_text(text, "utf-8")
    assert len(Progress(tmp_path / "s", {})) == 0


def test_the_order_turns_from_round_to_round() -> None:
    assert beside.turns(["a", "b"], 3) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_the_flood_comes_before_the_loads_that_need_it() -> None:
    for number in (0, 1):
        order = beside.cells(number)
        assert order.index("flood") < min(order.index(str(share)) for share in beside.SHARES)
    assert "moved" not in beside.cells(1)


def test_a_suite_goes_on_with_what_failed_and_always_reports(tmp_path: Path) -> None:
    called: list[str] = []
    steps = ("good", "bad", "late")

    def call(step: str, failing: str) -> int:
        called.append(step)
        return int(step == failing)

    state = tmp_path / "s"
    assert suite.run(steps, Progress(state, {}), lambda step: call(step, "bad")) == ["bad"]
    assert called == ["good", "bad", "late", suite.REPORT]
    called.clear()
    assert suite.run(steps, Progress(state, {}), lambda step: call(step, "")) == []
    assert called == ["bad", suite.REPORT]
    assert not state.exists(), "all is told: the next run measures again"


@pytest.mark.parametrize("step", [*suite.CPU, *suite.GPU, suite.REPORT])
def test_every_step_of_a_suite_is_a_bench(step: str) -> None:
    module = step.partition(" ")[0]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_relay_counts_both_ways(tmp_path: Path, kind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5) * 100)
        writer.write_eof()
        await reader.read()
        writer.close()

    async def scene() -> tuple[bytes, int]:
        if kind == "ipc":
            server = await asyncio.start_unix_server(answer, tmp_path / "s")
            front = f"ipc://{tmp_path / 's'}"
        else:
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            front = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Relay(front) as relay:
            place = relay.front.partition("://")[2]
            if kind == "ipc":
                reader, writer = await asyncio.open_unix_connection(place)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(place.split(":")[1]))
            writer.write(b"12345")
            got = await reader.readexactly(500)
            writer.close()
            await writer.wait_closed()
            return got, relay.moved_bytes

    got, moved = asyncio.run(scene())
    assert got == b"12345" * 100
    assert moved == 505


def test_a_tree_of_processes_is_weighed_whole() -> None:
    inner = "import sys; held = bytearray(30 << 20); print(flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = footprint.of_tree(process.pid)
        process.communicate(b"")
    assert found.processes == 2
    assert found.pss_bytes >= found.uss_bytes > 30 << 20


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("x.cpp:1  - get sd version from file failed: '/m/base'\nLOADED", "failed: 'base'"),
        ("x.cpp:1  - fine\nLOADED", "loads these weights by now"),
        ("Segmentation fault", "without a word"),
    ],
)
def test_why_a_peer_does_not_load_is_read_from_its_own_words(log: str, words: str) -> None:
    assert words in sdcpp.reason(log, Path("/m/base"))
