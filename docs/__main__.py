"""Writes the generated pages: `python -m docs`; with `--check` it only says which are outdated.

What is generated is never edited by hand: the code is the source. A test runs the check.
"""

import sys

from docs import pages


def main() -> None:
    """Write or check."""
    outdated = pages.outdated()
    if "--check" in sys.argv[1:]:
        sys.exit(f"outdated, run `python -m docs`: {', '.join(outdated)}" if outdated else 0)
    for name in outdated:
        path = pages.FOLDER / name
        path.write_text(pages.written(name), "utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
