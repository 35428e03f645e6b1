"""Draws the two pictures that README shows: `python -m docs.pictures` (a minute; needs difs[plot]).

Both are of a service that really runs, with the embedded family: `status.svg` is what
`difs status --watch` shows while six callers ask it for pictures and its memory has room for part of
the family, and `tradeoff.png` is what `difs plot tradeoff` draws.
"""

import contextlib
import io
import threading
import time

from rich.console import Console
from rich.terminal_theme import MONOKAI

from difs import Client, DifsError, charts, status_view
from difs.private import PrivateService
from docs.pages import FOLDER

PROMPT, LATENCY_S = "red apple", 0.3
ASKED_S = 20.0
CALLERS: tuple[dict[str, object], ...] = (
    {"quality": "best"},
    {"latency_s": 1.0},
    {"quality": 0.5},
    {"variant": "emoji-xl", "steps": 12},
    {"variant": "emoji-small", "steps": 8},
    {"variant": "emoji-base", "steps": 20, "n": 4},
)
FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""
"""rich's own frame, without the font that it would fetch from the network."""


def ask(address: str, wishes: dict[str, object], until: float) -> None:
    """Ask for one picture after the other."""
    with Client(address) as client:
        while time.monotonic() < until:
            with contextlib.suppress(DifsError):
                client.generate(PROMPT, **wishes).release()  # type: ignore[arg-type]


def main() -> None:
    """Draw both."""
    options = ["--set", 'actors.memory_budget="700MiB"', "--set", 'autoscaler.headroom="64MiB"']
    with PrivateService(options) as service, Client(service.address) as client:
        while any(device.loading for device in client.status().devices):
            time.sleep(0.5)
        until = time.monotonic() + ASKED_S
        callers = [
            threading.Thread(target=ask, args=(service.address, wishes, until)) for wishes in CALLERS
        ]
        for caller in callers:
            caller.start()
        time.sleep(ASKED_S - 2.0)
        seen = client.status()
        for caller in callers:
            caller.join()
        points = client.explain(PROMPT, survey=True, latency_s=LATENCY_S).points
    charts.tradeoff(FOLDER / "tradeoff.png", PROMPT, points, LATENCY_S)
    console = Console(record=True, width=118, file=io.StringIO(), highlight=False)
    console.print(status_view.render(seen))
    console.save_svg(
        str(FOLDER / "status.svg"), title="difs status --watch", theme=MONOKAI, code_format=FRAME
    )
    print("wrote docs/tradeoff.png, docs/status.svg")


if __name__ == "__main__":
    main()
