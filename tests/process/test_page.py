"""The page in a real browser: a picture is made, dials move the plan, cancel, the gallery stays.

Needs a chromium on the path; skipped where there is none.
"""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from difs.messages import Scaled, StatusReport
from tests.process.service import SIDE, Service, free_port, script, settings, until

pytestmark = pytest.mark.process

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if BROWSER is None:
    pytest.skip("no chromium is installed", allow_module_level=True)

PIXELS = """async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, str]]:
    port = free_port()
    # variants with measured qualities: there is something for the dials to choose
    options = settings("policy.name=modelless", script())
    with Service(["--device", "simulated", *options, "--http", f"127.0.0.1:{port}"]) as service:
        yield service, f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(running: tuple[Service, str], browser: Any) -> Iterator[Any]:
    """Yield the page, open; nothing may have gone wrong on it, and nothing may have left the machine."""
    service, url = running
    page = browser.new_context().new_page()
    problems: list[str] = []
    asked: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.wait_for_selector("#pulse.ready")
    yield page
    page.context.close()
    until(lambda: service.is_idle(1), 20, "an idle service after the test")
    # a browser itself notes each refusal of a request, and each one that failed because it was offline
    told = ("status of 400", "ERR_INTERNET_DISCONNECTED")
    assert not [text for text in problems if not any(known in text for known in told)]
    assert asked
    assert all(at.startswith((url, "data:", f"blob:{url}")) for at in asked)


def shown(page: Any, selector: str, text: str) -> None:
    """Wait until an element has a text in it."""
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=WAIT_MS)


def count(page: Any, number: int) -> None:
    """Wait until so many pictures hang in the gallery."""
    playwright.expect(page.locator("#gallery li")).to_have_count(number, timeout=WAIT_MS)


def slow(page: Any) -> None:
    """Ask for a picture of seconds."""
    page.fill("#prompt", "red apple")
    page.click("summary >> nth=0")
    page.fill("#steps", "150")
    page.select_option("#variant", "emoji-base")
    page.evaluate(f"document.querySelector('#size').append(new Option('{SIDE}x{SIDE}'))")
    page.select_option("#size", f"{SIDE}x{SIDE}")
    page.click("#make")
    page.wait_for_selector("#forming")


def test_a_picture_is_made_kept_and_made_again(page: Any, tmp_path: Path) -> None:
    page.fill("#prompt", "red apple")
    page.keyboard.press("Enter")
    count(page, 1)
    shown(page, "#shown", "were predicted")
    with page.expect_download() as coming:
        page.click("text=Download")
    target = tmp_path / coming.value.suggested_filename
    coming.value.save_as(target)
    assert target.name.startswith("red-apple-")
    with Image.open(io.BytesIO(target.read_bytes())) as image:
        assert image.text["parameters"].startswith("red apple"), "it says how it came to be"  # type: ignore[attr-defined]
    page.reload()
    count(page, 1)
    page.click("#gallery button")
    page.click("text=Again with this seed")
    count(page, 2)
    first, second = (page.locator("#gallery img").nth(i).evaluate(PIXELS) for i in (1, 0))
    assert first == second
    page.click("text=Remove")
    count(page, 1)


def test_the_dials_stand_on_the_plot_and_move_the_plan(page: Any) -> None:
    page.wait_for_selector("#plot .chosen")
    assert page.locator("#plot .point").count() > 2
    assert page.locator("#plot .front").count() == 1
    before = page.inner_text("#plan")
    page.locator("#good").fill("80")
    shown(page, "#plan", "0.80")
    assert page.inner_text("#plan") != before
    line, thumb = page.locator("#plot line.wish").bounding_box(), page.locator("#good").bounding_box()
    fifth = thumb["y"] + 8 + 0.2 * (thumb["height"] - 16)
    assert abs(line["y"] - fifth) < 3, "the line goes through the thumb"
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6)
    page.mouse.up()
    assert 25 <= int(page.input_value("#soon")) <= 35
    assert 35 <= int(page.input_value("#good")) <= 45
    assert page.inner_text("#soon-says").startswith("within ")


def test_a_picture_on_its_way_is_shown_and_cancelled(page: Any, running: tuple[Service, str]) -> None:
    service, _ = running
    slow(page)
    shown(page, "#says", "step ")
    page.keyboard.press("Escape")
    page.wait_for_selector("#now", state="hidden")
    until(lambda: service.is_idle(1), 10, "a cancelled request")
    assert page.locator("#gallery li").count() == 0
    shown(page, "#frame", "Cancelled")


def test_a_reload_finds_the_picture_that_was_begun(page: Any) -> None:
    slow(page)
    page.reload()
    page.wait_for_selector("#forming")
    assert page.is_disabled("#make")
    page.click("#cancel")
    page.wait_for_selector("#now", state="hidden")


def test_an_error_is_told_in_words_with_what_to_do(page: Any) -> None:
    page.fill("#prompt", "red apple")
    page.evaluate("document.querySelector('#seed').value = '99999999999999999999999'")
    page.evaluate("document.querySelector('#form').noValidate = true")
    page.click("#make")
    shown(page, "#trouble", "eed")
    page.click("summary >> nth=0")
    page.fill("#seed", "")
    page.context.set_offline(True)
    page.click("#make")
    shown(page, "#trouble", "does not answer. Is it running")
    page.context.set_offline(False)
    page.click("#make")
    count(page, 1)
    playwright.expect(page.locator("#trouble")).to_be_hidden()


def test_the_machine_is_shown_with_what_the_autoscaler_decided(
    page: Any, running: tuple[Service, str]
) -> None:
    report: StatusReport = running[0].status()
    reason = "asked for twice a minute"
    decided = msgspec.structs.replace(
        report, decisions=(Scaled(12.0, "load", "simulated-0", "emoji-xl", reason),)
    )
    shown(page, "#devices", "emoji-base")
    shown(page, "#devices", "GiB free")
    page.route("**/difs/v1/status", lambda route: route.fulfill(body=msgspec.json.encode(decided)))
    page.click("#scaling summary")
    shown(page, "#decisions", f"12 s ago: load emoji-xl on simulated-0: {reason}")


def test_it_can_be_used_on_a_phone_at_night_and_by_a_screen_reader(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.evaluate("""() => [...document.querySelectorAll('input, select, button, progress')]
        .filter(e => !(e.labels && e.labels.length || e.textContent.trim() || e.ariaLabel))
        .map(e => e.id)""")
    assert unnamed == []
    colour = "getComputedStyle(document.body).backgroundColor"
    day = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != day
    page.focus("#soon")
    page.keyboard.press("Home")
    assert page.get_attribute("#soon", "aria-valuetext").startswith("within ")
