"""docs/SEMANTICS.md and the tests of its promises say the same, word for word."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "SEMANTICS.md"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (.+) \|$")


def rows(text: str) -> list[tuple[str, str]]:
    """(name, sentence) of each row of the tables headed "promise"."""
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line == "| name | promise |":
            inside = True
        elif inside and (match := _ROW.match(line)):
            found.append((match[1], match[2]))
        elif inside and line != "|---|---|":
            raise ValueError(f"no row of promises: {line}")
    return found


def quotes(source: str) -> Iterator[tuple[str, str]]:
    """(name, sentence) of each `@promise` of a test."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "promise":
                name, sentence = (ast.literal_eval(a) for a in mark.args)
                yield name, sentence


PROMISES = rows(PAGE.read_text(encoding="utf-8"))
QUOTES = {
    quote: path.relative_to(ROOT)
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    for quote in quotes(path.read_text(encoding="utf-8"))
}


def test_no_two_promises_have_one_name() -> None:
    assert PROMISES
    assert [name for name, count in Counter(n for n, _ in PROMISES).items() if count > 1] == []


def test_every_promise_is_quoted_by_a_test() -> None:
    assert [name for name, sentence in PROMISES if (name, sentence) not in QUOTES] == []


def test_every_quote_is_on_the_page() -> None:
    known = set(PROMISES)
    assert [f"{path}: {q}" for q, path in QUOTES.items() if q not in known] == []


@pytest.mark.parametrize("name", sorted({n for n, _ in PROMISES}))
def test_a_promise_is_one_sentence(name: str) -> None:
    (sentence,) = [s for n, s in PROMISES if n == name]
    assert re.fullmatch(r"[A-Z`0-9].*[.]", sentence)
    assert not re.search(r"[.!?] [A-Z`]", sentence)
