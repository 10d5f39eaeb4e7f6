"""Each example in a docstring of the Python API, run as it stands.

A fresh home with a pipe `pipe` in an embedded store, `pipefs`, and pandas as `pd`, for each
docstring.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import pipefs
import pipefs.api

_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=True)
    for room in pkgutil.iter_modules(pipefs.api.__path__, "pipefs.api."):
        module = importlib.import_module(room.name)
        for found in finder.find(module, extraglobs={"pipefs": pipefs, "pd": pd}):
            if found.examples:
                yield found


@pytest.mark.parametrize("example", [pytest.param(e, id=e.name) for e in _examples()])
def test_the_example_of(
    example: doctest.DocTest, ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    pipe = pipefs.create("demo")
    example.globs["pipe"] = pipe
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    try:
        runner.run(example, out=failures.append)
    finally:
        pipe.close()
    assert not runner.failures, "".join(failures)


def test_d6_01_what_people_call_has_an_example() -> None:
    """Every public method of `Pipe` that does something says how it is called."""
    said = {e.name.rpartition(".")[2] for e in _examples()}
    plain = {"close", "url", "mode", "dir", "is_mounted", "replica", "meta"}
    alike = {"delete_files", "delete_files_local"}
    methods = {n for n in dir(pipefs.Pipe) if not n.startswith("_")}
    assert methods - said - plain - alike == set()
