"""Whose files they are, who may do what with them, and what the settings change about it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import NOBODY, Home
from tests.seaweed import SeaweedServer


def _as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )


@pytest.fixture
def shared() -> Iterator[Home]:
    """A machine whose mounts other users can reach."""
    home = Home()
    try:
        home.base.chmod(0o755)
        (home.base / "place").mkdir()
        home.create("q")
        yield home
    finally:
        home.close()


def test_other_users_are_let_in_and_held_to_the_permissions(shared: Home) -> None:
    place = shared.base / "place"
    shared.run("mount", "q", str(place))
    (place / "public").write_text("for all")
    (place / "private").write_text("for root")
    (place / "private").chmod(0o600)
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    assert _as_nobody("cat", place / "public").stdout == "for all"
    assert "Permission denied" in _as_nobody("cat", place / "private").stderr
    assert "Permission denied" in _as_nobody("touch", place / "public2").stderr
    assert _as_nobody("touch", place / "open/mine").returncode == 0
    assert (place / "open/mine").stat().st_uid == NOBODY
    assert _as_nobody("chmod", "600", place / "public").returncode != 0
    shared.umount("q")
    shared.run("mount", "q", str(place), "-o", "allow_other=no")
    assert "Permission denied" in _as_nobody("cat", place / "public").stderr


def test_the_owner_setting_decides_whose_files_they_are(shared: Home) -> None:
    place = shared.base / "place"
    shared.run("mount", "q", str(place))
    (place / "x").write_text("x")
    os.chown(place / "x", 1234, 1235)
    assert ((place / "x").stat().st_uid, (place / "x").stat().st_gid) == (1234, 1235)
    shared.flush("q")
    shared.umount("q")
    user, group = pwd.getpwuid(NOBODY).pw_name, grp.getgrgid(NOBODY).gr_name
    for owner, shown in [
        ("mounter", (os.getuid(), os.getgid())),
        ("stored", (1234, 1235)),
        (f"{user}:{group}", (NOBODY, NOBODY)),
    ]:
        shared.run("mount", "q", str(place), "-o", f"owner={owner}")
        found = (place / "x").stat()
        assert (found.st_uid, found.st_gid) == shown
        shared.umount("q")


def test_an_owner_nobody_knows_is_refused_with_the_alternatives(shared: Home) -> None:
    done = shared.run("mount", "q", "-o", "owner=nosuchuser:nosuchgroup", code=2)
    assert "no such user or group" in done.stderr
    assert "owner=stored" in done.stderr
    assert shared.mounts() == []


def test_the_umask_setting_counts_for_objects_without_a_mode(
    seaweed: SeaweedServer, bucket: str
) -> None:
    seaweed.client().put_object(Bucket=bucket, Key="p/foreign", Body=b"x")
    home = Home(seaweed.environment())
    try:
        home.create("p", f"s3://{bucket}/p", "umask=027")
        path = home.mount("p")
        assert stat.S_IMODE((path / "foreign").stat().st_mode) == 0o640
        (path / "ours").touch()
        (path / "ours").chmod(0o755)
        assert stat.S_IMODE((path / "ours").stat().st_mode) == 0o755
    finally:
        home.close()
