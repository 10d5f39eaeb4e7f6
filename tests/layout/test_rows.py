"""docs/ROWS.md: each row has tests, and they are there. Whether they ran: `tests/rowsran.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rowsran import TABLE, found_in, missing, rows

ROOT = Path(__file__).parents[2]
TAKEN_OVER = {
    "D6": set(range(1, 76)) - {33, 34, 41, 42, 43, 47, 48, 56, 57, 58, 59, 60, 62, 66, 67, 69, 74},
    "DK": set(range(1, 30)),
    "T4": set(range(1, 25)) - {19, 21},
}
"""What is done, by system. The other numbers are in the table's last section, in words."""


def test_the_table_has_every_row_that_is_done() -> None:
    wanted = {f"{name}-{n:02}" for name, numbers in TAKEN_OVER.items() for n in numbers}
    assert set(rows((ROOT / TABLE).read_text(encoding="utf-8"))) == wanted


def test_every_row_has_tests_and_they_are_there() -> None:
    table = rows((ROOT / TABLE).read_text(encoding="utf-8"))
    there = found_in(ROOT, (t.partition("::")[0] for tests in table.values() for t in tests))
    assert missing(table, there) == {}


_TESTS = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_d6_01_a(n):
    assert n

{mark}
def test_d6_02_b():
    pass
"""
_ROWS = """
| row | capability | here | tests |
|---|---|---|---|
| D6-01 | a | `a` | `tests/test_a.py::test_d6_01_a` |
| D6-02 | a \\| b | `b` | `tests/test_a.py::test_d6_02_b` `tests/test_a.py::test_d6_01_a` |
"""


@pytest.mark.parametrize(
    ("mark", "words", "code", "said"),
    [
        ("", ["tests", "-n1"], 0, ""),
        ("@pytest.mark.skip", ["tests", "-n1"], 1, "D6-02 was not shown: tests/test_a.py::test_d6"),
        ("@pytest.mark.skip", ["tests", "-k", "a"], 0, ""),
    ],
    ids=["all ran", "one was skipped", "some tests only"],
)
def test_a_run_of_all_fails_when_a_row_was_not_shown(
    tmp_path: Path, mark: str, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / TABLE).write_text(_ROWS)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(_TESTS.format(mark=mark))
    (tmp_path / "conftest.py").write_text(
        "from tests_rowsran import Ran\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(Ran(config))\n"
    )
    (tmp_path / "tests_rowsran.py").write_text((ROOT / "tests" / "rowsran.py").read_text("utf-8"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", tmp_path, "-p", "no:cacheprovider", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert said in done.stdout


def test_a_row_without_a_test_is_named() -> None:
    assert missing({"D6-01": [], "D6-02": ["a::b"]}, {"a::b"}) == {"D6-01": []}
    with pytest.raises(ValueError, match="twice"):
        rows("| D6-01 | a | b | `c::d` |\n| D6-01 | a | b | `c::d` |")
