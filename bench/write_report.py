"""Writes docs/BENCHMARKS.md and its pictures from the newest of each result in bench/results/.

    python -m bench.write_report

A test holds the page against the committed results: after a bench, run this and commit both.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.report import RESULTS
from bench.report_page import page
from bench.results_kept import Result, newest, purpose

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PICTURES = "benchmarks"
"""A folder in docs/: what is drawn here. Other pictures lie beside their results."""


def plots(results: Sequence[Result]) -> dict[str, str]:
    """Return the picture of each result that has one, from docs/; those drawn here first."""
    found = {
        r.name: f"../bench/results/{r.path.stem}.png"
        for r in results
        if r.path.with_suffix(".png").is_file()
    }
    if any(result.goals for result in results):
        found["goals"] = f"{PICTURES}/goals.png"
    if any(result.name == "beside" and result.figures["systems"] for result in results):
        found["beside"] = f"{PICTURES}/beside.png"
    return found


def text(results: Sequence[Result]) -> str:
    """Return the page."""
    return page(results, {r.command: purpose(r.command, ROOT) for r in results}, plots(results))


def draw(results: Sequence[Result], folder: Path) -> None:
    """Draw the pictures that `plots` names and that lie beside no result."""
    from bench import report_plots

    folder.mkdir(exist_ok=True)
    wanted = plots(results)
    if "goals" in wanted:
        report_plots.draw_goals(results, folder / "goals.png")
    for result in results:
        if wanted.get(result.name) == f"{PICTURES}/beside.png":
            report_plots.draw_beside(result.figures, folder / "beside.png")


def main() -> None:
    """Read, draw, write."""
    if find_spec("matplotlib") is None:
        sys.exit("the report's pictures need matplotlib: pip install 'difs[plot]'")
    results = newest(RESULTS.glob("*.json"))
    draw(results, DOCS / PICTURES)
    target = DOCS / "BENCHMARKS.md"
    target.write_text(text(results), "utf-8")
    print(target)


if __name__ == "__main__":
    main()
