"""The command line in this process, in a home of its own; a test file may have its own `run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.home import Home, resolve_home

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pipefs WORDS…` in `tmp_path`, which is the user's home as well; `code` is the exit code
    that it must have (None: any), `said` what is typed."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str, code: int | None = 0, said: str = "") -> Result:
        env = {"PIPEFS_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
        done = CliRunner().invoke(cli, words, env=env, input=said)
        assert code in (None, done.exit_code), (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def user_home(tmp_path: Path) -> Home:
    """The folders of `run`."""
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path / "home")})
