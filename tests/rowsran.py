"""docs/ROWS.md and the tests that it names: they are there, and in a run of all tests they passed.

A table of promises is worth what its tests did last time. So pytest notes what passed; at the end
of a run of everything, a row whose test was skipped, renamed or lost makes the run fail. In a run
of some tests only `tests/layout/test_rows.py` looks, whether they are there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

TABLE = Path("docs", "ROWS.md")
_ROW = re.compile(r"^\| ([A-Z0-9]+-\d\d) \|.*\| ([^|]*) \|$")


def rows(text: str) -> dict[str, list[str]]:
    """Row id → tests, as `path::name`. Raises `ValueError` for a row that is there twice."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := _ROW.match(line):
            if match[1] in found:
                raise ValueError(f"{match[1]} is there twice")
            found[match[1]] = re.findall(r"`([^`]+)`", match[2])
    return found


def missing(table: Mapping[str, Iterable[str]], there: Iterable[str]) -> dict[str, list[str]]:
    """Row → its tests that are not among these; for a row without a test an empty list."""
    known = set(there)
    lost = {row: [t for t in tests if t not in known] for row, tests in table.items()}
    return {row: tests for row, tests in lost.items() if tests or not table[row]}


def found_in(root: Path, paths: Iterable[str]) -> set[str]:
    """`path::name` of every test in these files; a file that is missing has none."""
    found = set()
    for path in set(paths):
        if (root / path).is_file():
            tree = ast.parse((root / path).read_text(encoding="utf-8"))
            found |= {
                f"{path}::{node.name}"
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            }
    return found


class Ran:
    """A plugin that notes what passed; under xdist the controller sees the reports of all."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._passed: set[str] = set()
        self._lost: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid.partition("[")[0])

    def _is_of_all(self, session: pytest.Session) -> bool:
        options = self._config.option
        narrowed = any(
            getattr(options, name, None)
            for name in ("keyword", "markexpr", "lf", "deselect", "ignore", "collectonly")
        )
        stopped = session.shouldstop or session.shouldfail
        everything = [str(Path(a).resolve()) for a in self._config.args]
        return not narrowed and not stopped and everything == [str(self._config.rootpath / "tests")]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        table = self._config.rootpath / TABLE
        # A worker ran a part.
        if hasattr(self._config, "workerinput") or not table.exists():
            return
        if not self._is_of_all(session):
            return
        self._lost = missing(rows(table.read_text(encoding="utf-8")), self._passed)
        if self._lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for row, tests in self._lost.items():
            what = ", ".join(tests) or "no test is named"
            terminalreporter.write_line(f"{TABLE}: {row} was not shown: {what}", red=True)
