"""Habits of d6tpipe's users that no one command has to itself: bars, what is remembered, codes."""

from __future__ import annotations

import inspect
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs import errors
from pipefs.cli.app import App, run
from pipefs.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture
def pipefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def sales(pipefs: Run, tmp_path: Path) -> Run:
    """A pipe with three files."""
    pipefs("create", "sales")
    (tmp_path / "src").mkdir()
    for name in "abc":
        (tmp_path / "src" / f"{name}.csv").write_bytes(name.encode() * 5_000_000)
    pipefs("put", "src", "sales/")
    return pipefs


def _on_a_terminal(*words: str) -> tuple[str, str]:
    """(standard output, what the terminal got of stderr)."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "90"}
    child = subprocess.Popen(
        [sys.executable, "-m", "pipefs.cli.main", *words],
        env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # EIO: the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert child.stdout is not None
    out = child.stdout.read()
    child.stdout.close()
    assert child.wait() == 0, (out, seen)
    return out, seen.decode(errors="replace")


def test_d6_71_a_bar_on_a_terminal_and_nothing_elsewhere(sales: Run, tmp_path: Path) -> None:
    out, seen = _on_a_terminal("get", "sales/", str(tmp_path / "there"))
    assert "getting" in seen
    assert "3 files" in seen
    assert "getting" not in out
    assert (tmp_path / "there" / "a.csv").stat().st_size == 5_000_000
    assert "getting" not in sales("get", "sales/", "again").stderr
    _, seen = _on_a_terminal("-q", "get", "sales/", str(tmp_path / "quiet"))
    assert seen == ""


def test_d6_72_what_was_in_step_is_remembered(sales: Run, tmp_path: Path) -> None:
    assert "3 files" in sales("pull", "sales").stdout
    assert "3 files" not in sales("pull", "sales").stdout
    records = tmp_path / "home" / "state" / "folders"
    assert any(records.iterdir())
    for file in records.iterdir():
        file.unlink()
    times = {p.name: p.stat().st_ctime_ns for p in (tmp_path / "home/pipes/sales").iterdir()}
    sales("pull", "sales")  # compared, not fetched
    after = {p.name: p.stat().st_ctime_ns for p in (tmp_path / "home/pipes/sales").iterdir()}
    assert after == times


def _all_errors() -> list[type[errors.PipefsError]]:
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    return [c for c in found if issubclass(c, errors.PipefsError)]


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda k: str(k.__name__))
def test_d6_75_an_error_is_told_and_ends_with_its_code(
    kind: type[errors.PipefsError], capsys: pytest.CaptureFixture[str]
) -> None:
    """d6tpipe printed what went wrong and ended with 0."""

    def fails() -> None:
        raise kind("it did not work", hint="Try this")

    assert run(fails, App()) == kind.exit_code != 0
    said = capsys.readouterr()
    assert said.err == "pipefs: it did not work\n        Try this\n"
    assert said.out == ""


def test_d6_75_codes_are_those_of_the_contract() -> None:
    assert {c.exit_code for c in _all_errors()} == {1, 2, 3, 4, 5, 6, 124}
