"""What doctor finds wrong with a home, and the command that it names for each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipefs import homecheck
from pipefs.doctor import Finding
from pipefs.home import Home

Run = Callable[..., Result]


def bad(home: Home, *, fix: bool = False) -> list[Finding]:
    """Room on the disk is the test machine's affair."""
    found = homecheck.check_home(home, fix=fix)
    return [f for f in found if f.level != "ok" and f.what != "disk"]


def test_a_home_that_is_well(run: Run, user_home: Home) -> None:
    assert bad(user_home) == []  # also before anything was made
    run("create", "a")
    run("cred", "set", "a", "--id", "AKIA", said="secret")
    found = {f.what: f.detail for f in homecheck.check_home(user_home)}
    assert found["pipes"] == "1 registered"
    assert found["stored keys"] == "of 1 pipe"
    assert {
        c["what"] for c in json.loads(run("doctor", "--json", code=None).stdout)["checks"]
    } >= set(found)


@pytest.mark.parametrize("file", ["config.toml", "profiles/team/profile.toml"])
def test_settings_that_cannot_be_read(run: Run, user_home: Home, file: str) -> None:
    run("profile", "create", "team")
    (user_home.config / file).write_text("regoin = 1\n[settings]\nregoin = 1")
    (found,) = bad(user_home)
    assert str(user_home.config / file) in found.detail
    assert found.todo
    assert str(user_home.config / file) in run("doctor", code=1).stdout


def test_keys_that_others_may_read(run: Run, user_home: Home) -> None:
    run("cred", "set", "a", "--id", "AKIA", said="secret")
    file = user_home.config / "credentials" / "a.toml"
    file.chmod(0o644)
    (found,) = bad(user_home)
    assert found.todo == f"chmod 600 {file}"
    assert bad(user_home, fix=True) == []
    assert file.stat().st_mode & 0o777 == 0o600


def test_encrypted_keys_whose_key_is_gone(run: Run, user_home: Home) -> None:
    run("cred", "set", "a", "--id", "AKIA", said="secret")
    run("cred", "encrypt", "--key-in", "file")
    (user_home.config / "credentials.key").unlink()
    (found,) = bad(user_home)
    assert "of a" in found.detail
    assert "pipefs cred set a" in found.todo


def test_a_store_that_is_gone(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "a", (tmp_path / "disk").as_uri())
    run("create", "b")
    shutil.rmtree(tmp_path / "disk")
    (found,) = bad(user_home)
    assert (found.what, found.level) == ("a", "bad")
    assert "pipefs remove a" in found.todo


def test_a_disk_that_is_not_plugged_in(run: Run, user_home: Home, tmp_path: Path) -> None:
    run("create", "a")
    run("config", "move", "stores", str(tmp_path / "big"))
    (tmp_path / "big").rename(tmp_path / "unplugged")
    what = {f.what: f for f in bad(user_home)}
    assert "which is not there" in what["stores"].detail
    assert "a" in what


def test_a_move_that_was_interrupted(run: Run, user_home: Home, tmp_path: Path) -> None:
    user_home.make()
    os.rename(user_home.cache, user_home.cache.with_name("cache.moving"))
    user_home.cache.symlink_to(tmp_path / "big")
    found = next(f for f in bad(user_home) if "interrupted" in f.detail)
    assert found.todo == f"pipefs config move cache {tmp_path / 'big'}"
    run(*found.todo.split()[1:])
    assert bad(user_home) == []
    os.rename(tmp_path / "big", user_home.cache.with_name("cache.moving"))
    fixed = [f for f in homecheck.check_home(user_home, fix=True) if f.fixed]
    assert ["is complete" in f.detail for f in fixed] == [True]
    assert (tmp_path / "big").is_dir()
    assert bad(user_home) == []


def test_a_disk_that_is_nearly_full(user_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    user_home.make()
    free = os.statvfs(user_home.state).f_bavail * os.statvfs(user_home.state).f_frsize

    def found() -> Finding:
        return next(f for f in homecheck.check_home(user_home) if f.what == "disk")

    monkeypatch.setattr(homecheck, "FULL_BYTES", 0)
    monkeypatch.setattr(homecheck, "LOW_BYTES", free * 2)
    assert found().level == "note"
    assert "free where" in found().detail
    assert found().todo
    monkeypatch.setattr(homecheck, "FULL_BYTES", free * 2)
    assert found().level == "bad"


def test_a_pipe_whose_file_is_damaged(run: Run, user_home: Home) -> None:
    run("create", "a")
    (user_home.config / "pipes" / "a.toml").write_text("url =")
    (found,) = bad(user_home)
    assert "a.toml" in found.detail
