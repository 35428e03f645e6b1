"""Which pages are generated, and from what; nothing is written here."""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs import commands, reference, states

FOLDER = Path(__file__).parent

PAGES: Mapping[str, Callable[[], str]] = {
    "CONFIG.md": reference.config_page,
    "CLI.md": commands.page,
    "ERRORS.md": reference.errors_page,
    "MESSAGES.md": reference.messages_page,
}
"""Pages that are generated as a whole."""


def written(name: str) -> str:
    """Return what a page should say."""
    if name in PAGES:
        return PAGES[name]()
    return states.filled((FOLDER / name).read_text("utf-8"))


def outdated() -> list[str]:
    """Return the pages whose files say something else than the code."""
    names = [*PAGES, "ARCHITECTURE.md"]
    return [name for name in names if _text(name) != written(name)]


def _text(name: str) -> str:
    path = FOLDER / name
    return path.read_text("utf-8") if path.is_file() else ""
