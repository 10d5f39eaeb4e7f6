"""What a shell suggests: through click's own classes, and once in a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete, ZshComplete
from click.testing import CliRunner

from pipefs.cli.completion import VARIABLE, Bash
from pipefs.cli.main import cli

Suggest = Callable[..., list[str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pipes `sales` with two snapshots and `prices`, and the profile `team` with `eu`."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE", raising=False)
    (tmp_path / "aws").write_text("[default]\n[profile lab]\nregion = x\n")
    for line in (
        "create sales",
        "create prices",
        "snapshot sales v1",
        "snapshot sales v1.1",
        "profile create team",
        "--profile team create eu",
    ):
        done = CliRunner().invoke(cli, line.split())
        assert done.exit_code == 0, (line, done.stderr)
    return tmp_path / "home"


@pytest.fixture
def suggest(home: Path) -> Suggest:
    def go(line: str, shell: type[ShellComplete] = Bash) -> list[str]:
        *words, last = line.split(" ")
        found = shell(cli, {}, "pipefs", VARIABLE).get_completions(words, last)
        return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]

    return go


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("snapsh", ["snapshot", "snapshots"]),
        ("cred en", ["encrypt", "env"]),
        ("show s", ["sales"]),
        ("show ", ["prices", "sales"]),
        ("ls sa", ["sales"]),
        ("mount sales pr", ["prices"]),
        ("ls sales@v", ["sales@v1.1", "sales@v1"]),
        ("protect sales@la", ["sales@latest"]),
        ("ls sales@@", ["sales@@yesterday", "sales@@2h"]),
        ("restore sales v", ["v1.1", "v1"]),
        ("checkout sales l", ["latest", "live"]),
        ("set sales cache_", ["cache_limit="]),
        ("set sales automount=", ["automount=yes", "automount=no"]),
        ("set sales engine=o", ["engine=obstore"]),
        ("set sales parent=", ["parent=prices", "parent=sales"]),
        ("create x -o sna", ["snapdir="]),
        ("profile set team regi", ["region="]),
        ("config re", ["read_only=", "refresh_interval=", "region=", "requester_pays="]),
        ("config ", None),
        ("config set engine=b", ["engine=boto3"]),
        ("config show regi", ["region"]),
        ("config move ", ["cache", "pipes", "stores"]),
        ("cp sales@v1.", ["sales@v1.1"]),
        ("profile show ", ["team"]),
        ("--profile t", ["team"]),
        ("--profile team show ", ["eu"]),
        ("create x --aws-profile ", ["default", "lab"]),
        ("mount sales --transport k", ["kernel"]),
        ("create n", []),
        ("ls ./x", ["<file>"]),
        ("ls sales/x", []),
        ("set -f ", ["<file>"]),
        ("put ", ["<file>"]),
        ("--profile nobody show ", []),
    ],
)
def test_suggestions(suggest: Suggest, line: str, found: list[str] | None) -> None:
    if found is None:  # commands and settings
        assert {"import", "move", "cache_limit="} <= set(suggest(line))
    else:
        assert suggest(line) == found


def test_a_new_pipe_has_nothing_of_an_old_one_of_its_name(suggest: Suggest) -> None:
    assert "sales@v1" in suggest("ls sales@")
    assert CliRunner().invoke(cli, ["-y", "remove", "sales", "--purge"]).exit_code == 0
    assert CliRunner().invoke(cli, ["create", "sales"]).exit_code == 0
    assert suggest("ls sales@") == ["sales@latest", "sales@live"]


def test_settings_come_with_what_they_are_about(home: Path) -> None:
    shell = ZshComplete(cli, {}, "pipefs", VARIABLE)
    found = shell.get_completions(["set", "sales"], "quiet")
    assert [(i.value, i.help) for i in found] == [("quiet_period=", "rest before an upload")]


def test_what_cannot_be_read_suggests_nothing(suggest: Suggest, home: Path) -> None:
    for file in (home / "cache" / "names").iterdir():
        file.write_bytes(b"[1, \xff")
    assert suggest("ls sales@") == ["sales@latest", "sales@live"]
    (home / "config" / "config.toml").write_text("[")
    assert suggest("show ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    done = CliRunner().invoke(cli, ["completion"], env={"SHELL": f"/bin/{shell}"})
    assert done.exit_code == 2
    assert f"pipefs completion {shell}" in done.stderr


def test_in_a_real_bash(home: Path, tmp_path: Path) -> None:
    """Bash's own splitting of words at @ and = is undone; nothing heavy is imported on the way."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pipefs"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pipefs.cli.main as m\n"
        "try: m.cli.main(prog_name='pipefs')\n"
        "finally:\n"
        "    heavy = {'boto3', 'lmdb', 'pandas', 'obstore', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    program.chmod(0o755)
    script = r"""
eval "$(pipefs completion bash)"
try() { COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2))
    _pipefs_completion pipefs; echo "${COMPREPLY[@]}"; }
try "pipefs ls sales@v" pipefs ls sales @ v
try "pipefs ls sales@" pipefs ls sales @
try "pipefs set sales automount=y" pipefs set sales automount = y
try "pipefs show p" pipefs show p
try "pipefs show " pipefs show ""
"""
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "v1.1 v1",
        "v1.1 v1 latest live",
        "yes",
        "prices",
        "prices sales",
    ]
