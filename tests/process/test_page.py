"""The page in a real browser: a picture is made, dials move the plan, cancel, the gallery stays.

Needs Playwright (`pip install playwright`) and a chromium on the path; skipped where one is missing.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.service import Service, free_port, script, settings, until

pytestmark = pytest.mark.process

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if BROWSER is None:
    pytest.skip("no chromium is installed", allow_module_level=True)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, str]]:
    port = free_port()
    # two variants with measured qualities: there is something for the dials to choose
    options = settings("policy.name=modelless", script())
    with Service(["--device", "simulated", *options, "--http", f"127.0.0.1:{port}"]) as service:
        yield service, f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(running: tuple[Service, str]) -> Iterator[Any]:
    """Yield the page, open; nothing may have gone wrong on it, and nothing may have left the machine."""
    _, url = running
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context().new_page()
        problems: list[str] = []
        asked: list[str] = []
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.set_default_timeout(20_000)
        yield page
        browser.close()
    # a browser itself notes each refusal of a request
    assert not [text for text in problems if "status of 400" not in text]
    assert all(at.startswith((url, "data:", f"blob:{url}")) for at in asked)


def test_a_picture_is_made_and_a_reload_keeps_it(page: Any) -> None:
    page.fill("#prompt", "red apple")
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery li img")
    assert "seed" in page.inner_text("#gallery .facts")
    page.reload()
    page.wait_for_selector("#gallery li img")
    assert page.locator("#gallery li").count() == 1
    page.click("text=Again with this seed")
    playwright.expect(page.locator("#gallery li")).to_have_count(2, timeout=20_000)
    page.click("text=Remove >> nth=0")
    playwright.expect(page.locator("#gallery li")).to_have_count(1)


def test_the_dials_move_the_plan(page: Any) -> None:
    page.fill("#prompt", "red apple")
    page.wait_for_selector("#plot .chosen")
    before = page.inner_text("#plan")
    page.locator("#good").fill("1")
    page.locator("#soon").fill("0")
    playwright.expect(page.locator("#plan")).not_to_have_text(before)
    assert page.inner_text("#soon-says").startswith("in ")


def test_a_picture_on_its_way_is_shown_and_cancelled(page: Any, running: tuple[Service, str]) -> None:
    service, _ = running
    page.fill("#prompt", "red apple")
    page.click("summary")
    page.fill("#steps", "150")
    page.select_option("#variant", "emoji-base")
    page.evaluate("document.querySelector('#size').lastElementChild.value = '512x512'")
    page.locator("#size").select_option("512x512")
    page.click("#make")
    page.wait_for_selector("#forming:visible")
    assert "step" in page.inner_text("#says")
    page.keyboard.press("Escape")
    page.wait_for_selector("#now", state="hidden")
    until(lambda: service.is_idle(1), 10, "a cancelled request")
    assert page.locator("#gallery li").count() == 0


def test_an_error_is_told_in_words(page: Any) -> None:
    page.fill("#prompt", "red apple")
    page.evaluate("document.querySelector('#seed').value = '99999999999999999999999'")
    page.evaluate("document.querySelector('#form').noValidate = true")
    page.click("#make")
    page.wait_for_selector("#trouble:visible")
    assert "seed" in page.inner_text("#trouble")


def test_it_can_be_used_on_a_phone_and_by_a_screen_reader(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.evaluate("""() => [...document.querySelectorAll('input, select, button')]
        .filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.id)""")
    assert unnamed == []
