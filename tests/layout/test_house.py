"""Rules of the house that no other tool keeps. `.importlinter` keeps who may import whom."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.cli.main import SECTIONS
from pipefs.version import VERSION

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for top in ("pipefs", "daemon") for p in (ROOT / top).rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 40


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring: a promise is not length."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES
    long = {f.name: _length(f) for f in _functions(ast.parse(text)) if _length(f) > FUNCTION_LINES}
    assert long == {}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.stat().st_size], ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_module_is_called_daemon() -> None:
    # A package of that name would shadow the PyPI package python-daemon.
    assert not (ROOT / "daemon" / "__init__.py").exists()


def _setup_argument(name: str) -> object:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (found,) = (
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
        for keyword in node.keywords
        if keyword.arg == name
    )
    return ast.literal_eval(found)


def test_version_is_the_same_everywhere() -> None:
    assert _setup_argument("version") == VERSION


def test_changelog_is_open_for_what_comes_next() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heads[0] == "Unreleased"


def test_setup_lists_every_package() -> None:
    folders = {p.parent for p in SOURCES}
    packages = {".".join(f.relative_to(ROOT).parts).removeprefix("daemon.") for f in folders}
    # No code: the unit files of systemd/, as they lie in an installed package.
    assert _setup_argument("packages") == sorted({*packages, "pipefs.systemd"})


def test_every_package_has_an_init() -> None:
    assert [_name(p.parent) for p in SOURCES if not (p.parent / "__init__.py").exists()] == []


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


HEAVY = ["boto3", "botocore", "obstore", "awscrt", "lmdb", "watchdog", "fuse", "pandas", "pipefsd"]


@pytest.mark.parametrize("module", ["pipefs", "pipefs.cli.main"])
def test_importing_is_cheap_and_starts_no_thread(module: str) -> None:
    said = _run(
        f"import json, sys, threading, {module}\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules]\n"
        "print(json.dumps([threading.active_count(), heavy]))"
    )
    assert json.loads(said) == [1, []]


def test_importing_any_room_of_the_library_starts_no_thread() -> None:
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in SOURCES
        if p.is_relative_to(ROOT / "pipefs")
    ]
    said = _run(
        "import importlib, sys, threading\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print(threading.active_count(), 'fuse' in sys.modules, 'pipefsd' in sys.modules)"
    )
    assert said.split() == ["1", "False", "False"]


def test_every_command_of_the_readme_exists() -> None:
    known = {name for _, _, table in SECTIONS for name in table}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^\$ pipefs ([a-z-]+)", text, re.MULTILINE))
    assert used
    assert used <= known
