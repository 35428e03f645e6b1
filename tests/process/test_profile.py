"""`difs profile` as a user types it: measured, kept, gone on from, and used by the service."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from difs.messages import Plan
from difs.profiling.cells import Visit, decode, visits_of
from difs.profiling.grid import Unit, unit_of
from tests.engine import tiny
from tests.process.service import Service, assert_one_line, difs, settings, until

pytestmark = [pytest.mark.process, pytest.mark.torch]

FAST = ("--quick", "--mode", "full", "--quality", "none")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model repository with two tiny variants of two families."""
    root = tmp_path_factory.mktemp("models")
    tiny.make_sd15(root / "plain")
    tiny.make_sdxl(root / "large")
    return root


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "models")


@pytest.fixture
def options(models: Path, tmp_path: Path) -> tuple[str, ...]:
    """Return the options that name the repository, and a run directory without a service."""
    config = tmp_path / "difs.toml"
    config.write_text(f'[service]\nmodel_repo = "{models}"\n[actors]\nthreads = 1\ndevices = ["cpu"]\n')
    return ("--config", str(config), "--run-dir", str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user data"))


def reports(*arguments: str) -> list[dict[str, object]]:
    """Return what `difs profile --json` reports, but that a busy machine disturbed it."""
    ended = difs("profile", "--json", *arguments, timeout_s=110)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: list[dict[str, object]] = json.loads(ended.stdout)["reports"]
    return [report for report in found if report["type"] != "noted"]


def test_profile_measures_keeps_and_uses_again(models: Path, options: tuple[str, ...]) -> None:
    (first,) = reports("plain", *FAST, *options)
    assert first["type"] == "timed"
    assert first["fresh_cells"] == first["cells"]
    path = Path(str(first["path"]))
    assert path.parent == models / "plain" / "profiles"
    (again,) = reports("plain", *FAST, *options)
    assert again["fresh_cells"] == 0
    said = difs("profile", "plain", *FAST, *options)
    assert "up to date" in said.stdout
    assert str(path) in said.stdout
    assert said.stderr == ""


def test_interrupting_profile_is_130_and_again_goes_on(models: Path, options: tuple[str, ...]) -> None:
    words = (sys.executable, "-m", "difs", "profile", "plain", "--full", "--mode", "full", *options)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = models / "plain" / "profiles"

    def cells() -> int:
        return sum(path.read_text().count('"type":') for path in folder.glob("[!.]*.json"))

    until(lambda: cells() >= 2, 60, "two cells")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, (out, err)
    assert b"Traceback" not in err

    def visits() -> dict[Unit, tuple[Visit, ...]]:
        (path,) = folder.glob("[!.]*.json")
        return {unit_of(cell): visits_of(cell) for cell in decode(path.read_bytes()).cells}

    kept = visits()
    time.sleep(0.5)
    assert visits() == kept, "nobody measures any more"
    *_, report = reports("plain", *FAST, *options)
    found = visits()
    assert report["cells"] == len(found) >= len(kept)
    assert report["fresh_cells"] == sum(found[unit] != kept.get(unit) for unit in found)
    assert {unit: found[unit][: len(seen)] for unit, seen in kept.items()} == kept, "and goes on"


def test_quality_is_measured_and_shown_with_its_source(
    models: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    *_, judged = reports("plain", "--quick", "--mode", "full", *options)
    assert (judged["type"], judged["kind"], judged["is_used"]) == ("judged", "agreement", True)
    curve = json.loads((models / "plain" / "quality.json").read_text())["curves"][0]
    assert curve["is_whole"]
    assert all(0.0 <= point["score"] <= 1.0 for point in curve["points"])
    seen = tiny.make_clip(tmp_path / "tiny-clip")
    *_, judged = reports("plain", "--quick", "--mode", "full", "--clip", str(seen), *options)
    assert (judged["type"], judged["kind"], judged["is_used"]) == ("judged", "clip", True)
    preload = settings('actors.preload=["large"]', f'service.model_repo="{models}"')
    with Service(["--device", "simulated", *preload]) as service:
        said = difs("variants", "plain", "--run-dir", str(service.home.path)).stdout
        assert "quality of plain (clip): CLIPScore by tiny-clip" in said


# ---- the service ----------------------------------------------------------------------------------


def planned(service: Service, variant: str) -> Plan:
    plan = service.client.explain("red apple", variant=variant).plan
    assert plan is not None
    return plan


def test_the_service_plans_what_it_never_loaded_with_its_profile(
    models: Path, options: tuple[str, ...]
) -> None:
    loads = settings('actors.preload=["large"]', "actors.threads=1", f'service.model_repo="{models}"')
    with Service(["--device", "cpu", *loads]) as service:
        assert planned(service, "plain").prediction.source == "estimated", "from `large`"
        told = difs("profile", *FAST, *options[:2], "--run-dir", str(service.home.path))
        assert told.returncode == os.EX_UNAVAILABLE
        assert_one_line(told.stderr)
        assert "--anyway" in told.stderr
    (report,) = reports("plain", *FAST, *options)
    with Service(["--device", "cpu", *loads]) as service:
        plan = planned(service, "plain")
        assert plan.prediction.source == "measured"
        profile = json.loads(Path(str(report["path"])).read_text())
        mode = next(cell for cell in profile["cells"] if cell["type"] == "mode")
        assert plan.prediction.load_s == pytest.approx(mode["load_cold_s"])
        assert planned(service, "large").prediction.load_s == 0.0
        with service.client.generate("red apple", variant="plain", steps=2) as result:
            assert result.plan.variant == "plain"


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nobody",), 64, "no variant 'nobody'"),
        (("plain", "--mode", "fp8"), 64, "memory mode fp8 does not work on cpu-0"),
        (("plain", "--quality", "magic"), 64, "none of auto, none, reference, clip, agreement"),
        (("plain", "--quality", "clip"), 64, "needs --clip"),
        (("plain", "--quality", "declared"), 64, "none of"),
        (("plain", "--device", "simulated"), 64, "nothing to measure"),
        (("plain", "--device", "toaster"), 78, "none of auto, cpu"),
    ],
)
def test_what_cannot_be_profiled_is_told_in_one_line(
    arguments: tuple[str, ...], status: int, words: str, options: tuple[str, ...]
) -> None:
    ended = difs("profile", *arguments, *options)
    assert ended.returncode == status, ended.stderr
    assert_one_line(ended.stderr)
    assert words in ended.stderr


def test_a_broken_variant_is_70_and_the_others_are_measured(
    models: Path, options: tuple[str, ...]
) -> None:
    weights = next((models / "large" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    ended = difs("profile", *FAST, *options, timeout_s=110)
    assert ended.returncode == 70
    assert "large on cpu-0: not measured: " in ended.stdout
    assert "has changed since it was registered" in ended.stdout
    assert list((models / "plain" / "profiles").glob("*.json"))
    assert not (models / "large" / "profiles").exists()
