"""docs/BENCHMARKS.md is made from the committed results, and tells no more than they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import report_gpu, report_page, results_kept, write_report
from bench.report import RESULTS
from bench.report_plots import draw_beside, margin

DOCS = write_report.DOCS
COMMITTED = results_kept.newest(RESULTS.glob("*.json"))
MACHINE = {"processor": "P", "cores": 2, "python": "3", "load_1min": 0.5, "packages": {"torch": "2"}}


def kept(folder: Path, stem: str, command: str = "python -m bench.http", **changes: Any) -> Path:
    facts = {"date": stem[:10], "command": command, "machine": MACHINE, "figures": {}} | changes
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(facts), "utf-8")
    return path


def cell(scale: float) -> dict[str, Any]:
    found = {"offered": 9, "done": 9, "per_s": 2 * scale, "p50_s": scale, "p95_s": 2 * scale}
    return found | {"p99_s": 3 * scale, "max_s": 4 * scale}


def system(scale: float) -> dict[str, Any]:
    return {
        "first_picture_s": [2 * scale, 3 * scale],
        "flood": cell(scale),
        "loads": {share: cell(scale) for share in ("0.3", "0.7", "0.9")},
        "memory": {"processes": 1, "pss_bytes": int(1e6 * scale), "uss_bytes": 1},
        "moved_bytes": 1234,
    }


def beside() -> dict[str, Any]:
    systems = {"serial diffusers": system(1.0), "DIFS": system(2.0)}
    return {"model": "m", "systems": systems, "not_measured": {"Other": "it is\nnot installed"}}


def gpu_engine() -> dict[str, Any]:
    batches = {"1": {"images_per_s": 2.0}, "2": {"not_measured": "out of memory"}}
    mode = {"switch_s": 0.5, "1_together": {"seconds": 1.0, "peak_gib": 2.0}}
    family = {
        "label": "SD",
        "load": {"from_disk_s": 4.0, "step_ms_by_rows": {"1": 9.0, "2": 9.0}},
        "parking": {"park_s": [1.0, 2.0], "unpark_s": [1.0]},
        "bare": {"eager": {"1": {"images_per_s": 1.0, "seconds": 3.0}, "2": {"images_per_s": 1.0}}},
        "engine": {"eager": batches},
        "modes": {"full": mode, "full, again": mode},
        "hand_over": {"segment_ms": 1.0, "pil_ms": 4.0},
    }
    return {"device": {"name": "a GPU"}, "families": {"sd15": family}}


def test_the_page_of_benchmarks_is_made_from_the_committed_results() -> None:
    page = (DOCS / "BENCHMARKS.md").read_text("utf-8")
    assert page == write_report.text(COMMITTED), (
        "run python -m bench.write_report and commit what it writes"
    )


def test_every_picture_and_result_that_the_page_names_is_there() -> None:
    page = (DOCS / "BENCHMARKS.md").read_text("utf-8")
    targets = set(re.findall(r"\]\(([^)]+)\)", page))
    assert targets
    assert not [target for target in targets if not (DOCS / target).exists()]


def test_every_number_of_the_page_stands_below_its_command() -> None:
    page = (DOCS / "BENCHMARKS.md").read_text("utf-8")
    chapters = [part for part in page.split("\n## ")[1:] if not part.startswith("Machines")]
    assert [part for part in chapters if "`python -m " in part]
    for chapter in chapters:
        assert re.search(r"`python -m [^`]+`|\*Not measured\*", chapter), chapter[:80]


def test_the_newest_result_on_each_subject_is_told(tmp_path: Path) -> None:
    two = "python -m bench.quality two --seeds 1"
    paths = [
        kept(tmp_path, "2026-01-01-http"),
        kept(tmp_path, "2026-01-02-http", "python -m bench.http --rounds 7"),
        kept(tmp_path, "2026-01-02-http-quick"),
        kept(tmp_path, "2026-01-01-quality", "python -m bench.quality one --seeds 1"),
        kept(tmp_path, "2026-01-02-quality", two),
    ]
    found = [(r.date, r.subject) for r in results_kept.newest(paths)]
    one, other = ("quality", "one"), ("quality", "two")
    assert found == [("2026-01-02", ("http",)), ("2026-01-01", one), ("2026-01-02", other)]


@pytest.mark.parametrize("stem", ["http", "2026-01-01-http"])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.json"
    path.write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=path.name):
        results_kept.read(path)


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    calm, busy = (
        results_kept.read(kept(tmp_path, f"2026-01-0{day}-http", machine=MACHINE | {"load_1min": load}))
        for day, load in ((1, 3.0), (2, 3.1))
    )
    assert "busy" not in report_page.section(calm, "", {})
    assert "busy" in report_page.section(busy, "", {})


def test_a_missed_goal_is_told(tmp_path: Path) -> None:
    goals = [{"name": "g", "value": 3.0, "goal": "<= 2", "kept": False}]
    result = results_kept.read(kept(tmp_path, "2026-01-01-http", figures={"goals": goals}))
    assert "| g | 3 | <= 2 | **missed** |" in report_page.section(result, "", {})


def test_systems_are_told_as_multiples_of_serial_diffusers() -> None:
    text = report_page.beside(beside())
    assert "| DIFS | 2.00x | 2.00x | 2.00x | 1 | 1,234 | 0 |" in text
    assert "| DIFS | 2.00x / 4.00x / 6.00x |" in text
    assert "| Other | it is |" in text


def test_figures_of_an_engine_that_had_measured_all_need_no_word() -> None:
    figures = gpu_engine()
    figures["families"]["sd15"]["load"]["step_ms_by_rows"]["4"] = 9.0
    assert "at most" not in report_gpu.engine(figures)


def test_promises_on_a_gpu_are_told_by_variants_and_load() -> None:
    cell = {"error_p50": 0.02, "error_p90": 0.1, "kept": 0.9, "promised": 10}
    text = report_gpu.promises({"runs": {"real": {"0.8": cell}}})
    assert "| real | 0.8 | 0.02 | 0.1 | 90% of 10 |" in text


def test_a_bench_that_measured_nobody_is_told_without_figures() -> None:
    assert report_page.beside({"systems": {}, "not_measured": {"A": "why"}}).count("|\n") == 2


def test_gpu_figures_are_not_measured_until_there_is_a_result(tmp_path: Path) -> None:
    assert report_page.page([], {}, {}).count("*Not measured*") == len(report_page.GPU)
    path = kept(tmp_path, "2026-01-01-gpu-engine", "python -m bench.gpu_engine", figures=gpu_engine())
    page = report_page.page([results_kept.read(path)], {}, {})
    assert page.count("*Not measured*") == len(report_page.GPU) - 1
    assert "| 1 | 2.00x |\n| 2 | - |" in page
    assert "segment / through PIL | 0.25x |" in page
    assert "parking in host memory / load from disk | 0.50x |" in page
    assert "calls of 2 rows at most" in page
    assert "1 together 3.00x." in page


@pytest.mark.parametrize(
    ("value", "goal", "factor"),
    [
        (3.0, ">= 2", 1.5),
        (4.0, "<= 2", 0.5),
        (0.001, "<= 2", 20.0),
        (0.0, "<= 2", None),
        (1.0, "<= 0", None),
    ],
)
def test_how_far_a_goal_is_kept(tmp_path: Path, value: float, goal: str, factor: float | None) -> None:
    result = results_kept.read(kept(tmp_path, "2026-01-01-http"))
    found = margin(result, {"name": "g", "value": value, "goal": goal})
    assert found == (None if factor is None else ("http: g", factor))


def test_systems_are_drawn(tmp_path: Path) -> None:
    draw_beside(beside(), tmp_path / "beside.png")
    assert (tmp_path / "beside.png").stat().st_size > 5000
