"""`pipefs cred`: what it takes, says and prints."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli

Run = Callable[..., Result]
ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalr'XUtn$FEMI/K7MDENG"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def go(*words: str, code: int = 0, said: str = "", **env: str) -> Result:
        variables = {"PIPEFS_HOME": str(tmp_path / "home"), **env}
        done = CliRunner().invoke(cli, words, env=variables, input=said)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert SECRET not in done.stdout + done.stderr or words[:2] == ("cred", "env")
        return done

    return go


def test_d6_61_set_show_remove(run: Run) -> None:
    done = run("cred", "set", "sales", "--id", ID, said=SECRET + "\n")
    assert done.stdout.startswith("sales  reads with AKIA…MPLE · writes with AKIA…MPLE")
    assert "not encrypted" in done.stdout
    assert "pipefs cred encrypt" in done.stdout
    assert run("cred", "show").stdout.startswith("sales  reads with AKIA…MPLE")
    listed = json.loads(run("cred", "show", "--json").stdout)["credentials"]
    assert listed == [
        {"name": "sales", "read": "AKIA…MPLE", "write": "AKIA…MPLE", "encrypted": False}
    ]
    assert run("cred", "remove", "sales", code=4).stderr.startswith("pipefs: This forgets")
    run("-y", "cred", "remove", "sales")
    assert "cred set sales" in run("cred", "show", "sales", code=3).stderr


def test_d6_61_sides_are_set_one_by_one(run: Run) -> None:
    done = run("cred", "set", "sales", "--read", "--id", ID, said=SECRET)
    assert "READ-ONLY" in done.stdout
    done = run("cred", "set", "sales", "--write", "--id", "AKIAWRITERSKEY0000", said="other")
    assert "reads with AKIA…MPLE · writes with AKIA…0000" in done.stdout
    assert "READ-ONLY" not in done.stdout


def test_d6_46_credentials_come_from_json_yaml_and_the_environment(
    run: Run, tmp_path: Path
) -> None:
    split = {"read": {"key": ID, "secret": SECRET}, "write": {"key": "AKIAW", "secret": "x"}}
    file = tmp_path / "creds.json"
    file.write_text(json.dumps({"credentials": split}))
    assert "writes with AKIAW" in run("cred", "set", "a", "--from", str(file)).stdout
    file = tmp_path / "creds.yaml"
    file.write_text(f"read:\n  aws_access_key_id: {ID}\n  aws_secret_access_key: {SECRET}\n")
    assert "READ-ONLY" in run("cred", "set", "b", "--from", str(file)).stdout
    env = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": ""}
    run("cred", "set", "c", "--from", "env", **env)
    bad = tmp_path / "bad.json"
    bad.write_text("[")
    assert "neither JSON" in run("cred", "set", "d", "--from", str(bad), code=2).stderr
    assert "there is no file" in run("cred", "set", "d", "--from", "/none", code=2).stderr


def test_a_missing_id_is_asked_for_only_on_a_terminal(run: Run) -> None:
    done = run("cred", "set", "sales", code=2, said="x")
    assert "--id ID" in done.stderr


def test_d6_65_encrypt_and_rotate(run: Run, tmp_path: Path) -> None:
    run("cred", "set", "sales", "--id", ID, said=SECRET)
    assert "1 pipe encrypted · key in " in run("cred", "encrypt").stdout
    assert "encrypted, key in" in run("cred", "show").stdout
    assert "encrypted anew" in run("cred", "rotate").stdout
    key = tmp_path / "home" / "config" / "credentials.key"
    key.unlink()
    done = run("cred", "show", "sales", code=5)
    assert "which is not here" in done.stderr
    assert "pipefs cred set sales" in done.stderr


def _evaluated(shell: list[str], lines: str) -> dict[str, str]:
    script = f"{lines}\nenv -0"
    done = subprocess.run(
        [*shell, "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True
    )
    return dict(p.split("=", 1) for p in done.stdout.decode().split("\0") if "=" in p)


@pytest.fixture
def pipe(run: Run, tmp_path: Path) -> str:
    """A pipe in a store that needs no keys: they are printed all the same."""
    run("create", "sales", (tmp_path / "store").as_uri(), "-o", "region=eu-central-1")
    run("cred", "set", "sales", "--read", "--id", ID, said=SECRET)
    return "sales"


def test_d6_63_a_shell_takes_the_lines(run: Run, pipe: str) -> None:
    done = run("cred", "env", pipe)
    found = _evaluated(["sh"], done.stdout)
    assert found["AWS_ACCESS_KEY_ID"] == ID
    assert found["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert found["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert done.stderr.startswith("try: aws s3 ls ")


def test_d6_63_windows_shells_have_their_own_words(run: Run, pipe: str) -> None:
    lines = run("cred", "env", pipe, "--shell", "cmd").stdout.splitlines()
    assert lines[0] == f'SET "AWS_ACCESS_KEY_ID={ID}"'
    lines = run("cred", "env", pipe, "--shell", "powershell").stdout.splitlines()
    assert lines[1] == "$Env:AWS_SECRET_ACCESS_KEY = 'wJalr''XUtn$FEMI/K7MDENG'"
    lines = run("cred", "env", pipe, "--shell", "fish").stdout.splitlines()
    assert lines[1] == r"set -gx AWS_SECRET_ACCESS_KEY 'wJalr\'XUtn$FEMI/K7MDENG'"


def test_d6_63_json_is_what_credential_process_wants(run: Run, pipe: str) -> None:
    found = json.loads(run("cred", "env", pipe, "--json").stdout)
    assert found == {"Version": 1, "AccessKeyId": ID, "SecretAccessKey": SECRET}


def test_d6_63_without_stored_keys_those_of_boto_are_printed(run: Run, tmp_path: Path) -> None:
    run("create", "plain", (tmp_path / "other").as_uri())
    env = {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    found = json.loads(run("cred", "env", "plain", "--json", **env).stdout)
    assert (found["AccessKeyId"], found["SessionToken"]) == ("AKIAENV", "t")


def test_a_side_that_is_not_stored_is_refused(run: Run, pipe: str) -> None:
    done = run("cred", "env", pipe, "--write", code=3)
    assert "cred set sales --write" in done.stderr
