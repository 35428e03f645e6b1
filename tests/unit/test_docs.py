"""The pages of docs/ cannot drift: generated ones are current, commands parse, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from difs.cli.app import app
from difs.policy.base import Admit, Options
from docs import commands, pages
from tests.builders import device_view, generate, view

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
MAIN = typer.main.get_command(app)
BY_NAME = dict(commands.walk(MAIN))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def calls() -> Iterator[tuple[str, list[str]]]:
    """Yield the page and the words of every `difs ...` in a block of commands."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))
        for line in re.findall(r"^(?: {4}|\t)(?:\.venv/bin/)?(difs .*)$", text, re.MULTILINE):
            for one in re.sub(r"\s+#.*", "", line).split(";"):
                if one.count("'") % 2:
                    continue  # a text that goes on in the next line
                words = shlex.split(one)
                if words[:1] == ["difs"] and "..." not in words:
                    yield page.name, words[1:]


def parse(words: list[str]) -> None:
    """Parse a command line as `difs` does, without running it; raises what typer raises."""
    context = MAIN.make_context("difs", list(words))
    command: Any = MAIN
    rest: list[str] = [*context._protected_args, *context.args]
    while hasattr(command, "commands") and (rest or not command.invoke_without_command):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*context._protected_args, *context.args]


@pytest.mark.parametrize("name", [*pages.PAGES, "ARCHITECTURE.md"])
def test_generated_pages_say_what_the_code_says(name: str) -> None:
    assert (pages.FOLDER / name).read_text("utf-8") == pages.written(name), "run `python -m docs`"


def test_every_command_is_on_the_page_of_commands() -> None:
    told = re.findall(
        r"^## `difs ([a-z -]+?)(?: [\[A-Za-z].*)?`$", (ROOT / "docs/CLI.md").read_text("utf-8"), re.M
    )
    assert len(told) == len(BY_NAME)


def test_every_setting_is_on_the_page_of_settings() -> None:
    settings = (ROOT / "configs/default.toml").read_text("utf-8")
    keys = re.findall(r"^(\"?[\w.]+\"?) = ", settings, re.MULTILINE)
    told = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/CONFIG.md").read_text("utf-8"), re.MULTILINE)
    assert told == [key.strip('"') for key in keys]


@pytest.mark.parametrize(
    ("page", "words"),
    list(calls()),
    ids=lambda found: " ".join(found) if isinstance(found, list) else found,
)
def test_every_command_in_the_docs_is_one_that_difs_takes(
    page: str, words: list[str], tmp_path: Path
) -> None:
    parse([there(word, tmp_path) for word in words])


def there(word: str, folder: Path) -> str:
    """Return a word; of a file or folder that has to be there, the path of one that is."""
    path = folder / Path(word).name
    if word.endswith((".jsonl", ".toml", ".csv", ".json")) or (word.startswith("~") and path.suffix):
        path.touch()
    elif word.startswith("~"):
        path.mkdir()
    else:
        return word
    return str(path)


def test_a_command_that_is_none_is_found_out() -> None:
    with pytest.raises(Exception, match=r"(?i)no such"):
        parse(["generate", "apple", "--lateness", "3"])
    with pytest.raises(Exception, match=r"(?i)no such"):
        parse(["paint", "apple"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


def test_the_policy_of_the_guide_decides() -> None:
    [source] = blocks(ROOT / "docs/guides/POLICIES.md", "python")
    known: dict[str, Any] = {}
    exec(source, known)
    short, long = device_view("cpu", backlog_s=1.0), device_view("cpu-1", backlog_s=9.0)
    decision = known["Newest"](Options()).decide(view(long, short), generate())
    assert isinstance(decision, Admit)
    assert (decision.plan.device, decision.plan.policy) == ("cpu", "newest")
