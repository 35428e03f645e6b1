"""House rules that no other test can see: what an import costs, and what the code never calls."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import difs

ROOT = Path(difs.__file__).parent
HEAVY = ("accelerate", "diffusers", "numpy", "peft", "torch", "transformers")
FAST_S = 0.2
PICKLES = {"cloudpickle", "dill", "jsonpickle", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_MODULES = {*PICKLES, "multiprocessing", "yaml"}
FORBIDDEN_NAMES = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.hub", "torch.package", "torch.jit.load", "yaml.load", "np.load", "numpy.load"),
}
FORBIDDEN_WORDS = {"trust_remote_code", "allow_pickle", "weights_only", "shell"}
"""Arguments with which a library runs what it reads."""

PROBE = """
import json, sys, time
before = time.perf_counter()
{statement}
seconds = time.perf_counter() - before
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"seconds": seconds, "loaded": loaded}}))
"""


@cache
def imported(statement: str) -> tuple[float, frozenset[str]]:
    """Run an import in three fresh processes; return the least time and the modules it loads."""
    command = [sys.executable, "-c", PROBE.format(statement=statement)]
    found = [json.loads(subprocess.check_output(command, cwd=ROOT.parent)) for _ in range(3)]
    return min(run["seconds"] for run in found), frozenset(found[0]["loaded"])


@pytest.mark.parametrize(
    "statement", ["import difs", "from difs import Client, AsyncClient, DifsError", "import difs.cli"]
)
def test_neither_difs_nor_its_client_nor_its_command_line_loads_anything_heavy(statement: str) -> None:
    _, loaded = imported(statement)
    assert loaded.isdisjoint(HEAVY)
    assert "difs" in loaded


@pytest.mark.parametrize("statement", ["import difs.supervisor", "import difs.broker.__main__"])
def test_what_starts_before_the_actors_loads_nothing_heavy(statement: str) -> None:
    _, loaded = imported(statement)
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("statement", ["import difs"])
def test_import_difs_is_light(statement: str) -> None:
    seconds, loaded = imported(statement)
    assert seconds < FAST_S
    assert loaded.isdisjoint({"asyncio", "msgspec", "zmq"}), "the public names load on first use"


def test_the_public_names_are_there_and_no_others() -> None:
    assert [getattr(difs, name) for name in difs.__all__]
    with pytest.raises(AttributeError, match="no attribute 'surprise'"):
        difs.surprise  # noqa: B018


# ---- what the code never does -------------------------------------------------------------------

FILES = sorted(ROOT.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def modules_of(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names of all modules that a file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]


def names_of(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a file uses, called or not."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield ast.unparse(node)


def words_of(tree: ast.Module) -> Iterator[str]:
    """Yield the names of arguments that calls give, and of keys that may become such."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg
        elif isinstance(node, ast.Dict):
            yield from (
                k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)
            )


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_can_run_what_it_reads(path: Path) -> None:
    assert FORBIDDEN_MODULES.isdisjoint(modules_of(tree_of(path)))
    assert FORBIDDEN_NAMES.isdisjoint(names_of(tree_of(path)))
    assert FORBIDDEN_WORDS.isdisjoint(words_of(tree_of(path)))


BESIDE = [p for d in ("bench", "examples", "model_repo") for p in sorted((ROOT.parent / d).rglob("*.py"))]


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: path.relative_to(ROOT.parent).as_posix())
def test_nothing_beside_the_package_pickles(path: Path) -> None:
    assert PICKLES.isdisjoint(modules_of(tree_of(path)))
    assert {"torch.load", "eval", "exec"}.isdisjoint(names_of(tree_of(path)))
    assert {"trust_remote_code", "allow_pickle"}.isdisjoint(words_of(tree_of(path)))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_lives_in_it(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


def test_these_rules_find_what_they_look_for() -> None:
    bad = ast.parse(
        "def f():\n    import pickle as p\n    from multiprocessing import x\n    torch.load(eval('1'))"
    )
    assert set(modules_of(bad)) >= {"pickle", "multiprocessing"}
    assert set(names_of(bad)) >= {"torch.load", "eval"}
    worse = ast.parse("f(trust_remote_code=True)\ng(**{'allow_pickle': True})")
    assert set(words_of(worse)) >= {"trust_remote_code", "allow_pickle"}
    assert len(FILES) > 30
    assert len(BESIDE) > 20
