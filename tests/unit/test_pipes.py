"""From a mount request to a plan: options of one mount, places, who may come in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipefs.errors import Refused, Unsupported, UsageError
from pipefs.home import Home, resolve_home
from pipefs.protocol import Mount
from pipefs.registry import Registry
from pipefsd import pipes
from pipefsd.pipes import Pipes


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)})
    home.make()
    Registry(home).add("sales", f"file://{tmp_path}/store", "0" * 16, {"quiet_period": "2s"})
    return home


def test_options_of_a_mount_count_for_that_mount_and_for_its_store(home: Home) -> None:
    target = Pipes(home).resolve(Mount("sales", options={"region": "eu-west-1", "umask": "077"}))
    assert target.settings.umask == 0o077
    assert target.pipe.settings is target.settings
    assert target.settings.quiet_period_s == 2.0
    assert Pipes(home).resolve(Mount("sales")).settings.umask == 0o022


def test_the_default_place_is_made_and_any_other_must_exist(home: Home) -> None:
    default = Pipes(home).resolve(Mount("sales")).plan
    assert (default.directory, default.explicit) == (str(home.mountpoint("sales")), False)
    chosen = Pipes(home).resolve(Mount("sales", "/mnt/x/")).plan
    assert (chosen.directory, chosen.explicit) == ("/mnt/x", True)
    Registry(home).update("sales", {"mountpoint": "/srv/sales"})
    kept = Pipes(home).resolve(Mount("sales")).plan
    assert (kept.directory, kept.explicit) == ("/srv/sales", True)


def test_a_snapshot_is_read_only_and_has_a_place_and_socket_of_its_own(home: Home) -> None:
    Registry(home).update("sales", {"mountpoint": "/srv/sales"})
    target = Pipes(home).resolve(Mount("sales", snapshot="v1"))
    assert target.plan.read_only and target.settings.read_only
    assert target.plan.label == "sales@v1"
    assert target.plan.directory == str(home.mountpoint("sales@v1"))
    assert target.socket_path != str(home.worker_socket("sales"))


def test_linux_has_both_transports_and_other_systems_libfuse_only(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(wanted: str) -> str:
        return Pipes(home).resolve(Mount("sales", transport=wanted)).plan.transport

    monkeypatch.setattr(sys, "platform", "linux")
    assert [of(wanted) for wanted in ("auto", "kernel", "libfuse")] == [
        *("kernel", "kernel", "libfuse")
    ]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [of(wanted) for wanted in ("auto", "libfuse")] == ["libfuse", "libfuse"]
    with pytest.raises(Unsupported, match="kernel"):
        of("kernel")


def test_a_transport_that_is_not_there_is_refused(home: Home) -> None:
    with pytest.raises(Unsupported, match="smoke"):
        Pipes(home).resolve(Mount("sales", transport="smoke"))


def test_a_relative_place_is_refused(home: Home) -> None:
    with pytest.raises(UsageError, match="absolute"):
        Pipes(home).resolve(Mount("sales", "here"))


def test_root_lets_others_in_and_nobody_else_does_unasked(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Pipes(home).resolve(Mount("sales")).plan.allow_other
    closed = Mount("sales", options={"allow_other": "no"})
    assert not Pipes(home).resolve(closed).plan.allow_other
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not Pipes(home).resolve(Mount("sales")).plan.allow_other


def test_allow_other_asks_the_machine_first_and_says_what_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(pipes, "FUSE_CONF", tmp_path / "fuse.conf")
    wish = Mount("sales", options={"allow_other": "yes"})
    with pytest.raises(Refused) as caught:
        Pipes(home).resolve(wish)
    assert "user_allow_other" in caught.value.hint
    (tmp_path / "fuse.conf").write_text("# yes\nuser_allow_other\n")
    assert Pipes(home).resolve(wish).plan.allow_other


def test_one_broken_pipe_does_not_keep_the_others_from_automount(home: Home) -> None:
    Registry(home).update("sales", {"automount": True})
    (home.config / "pipes" / "broken.toml").write_text("not toml [")
    assert Pipes(home).automount() == ["sales"]
