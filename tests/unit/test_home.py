"""Folders: where they are, who may see them, and that sockets can be bound in them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pipefs.errors import NotFound, Refused, UsageError
from pipefs.home import SOCKET_PATH_LIMIT_BYTES, make_private, resolve_home
from pipefs.mountinfo import mount_of, parse_mountinfo, pipefs_mount_of
from pipefs.protocol import MountItem
from pipefs.target import Target, parse_target

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:41 / /home/me/pipes/my\\040sales rw,nosuid - fuse.pipefs sales rw,user_id=0
31 22 0:42 / /home/me/pipes rw - tmpfs tmpfs rw
"""


def test_pipefs_home_holds_everything(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path)})
    parts = (home.config, home.state, home.cache, home.run, home.mountpoint("x"), home.stores)
    names = [str(p.relative_to(tmp_path)) for p in parts]
    assert names == ["config", "state", "cache", "run", "mnt/x", "stores"]


def test_user_folders_follow_xdg(tmp_path: Path) -> None:
    env = {"HOME": "/home/me", "XDG_CONFIG_HOME": "/cfg", "XDG_RUNTIME_DIR": str(tmp_path)}
    home = resolve_home(env=env)
    assert home.config == Path("/cfg/pipefs")
    assert home.cache == Path("/home/me/.cache/pipefs")
    assert home.embedded_store("x") == Path("/home/me/.local/share/pipefs/stores/x")
    assert home.mountpoint("x") == Path("/home/me/pipes/x")
    assert home.run == tmp_path / "pipefs"


def test_system_folders_are_those_of_the_contract() -> None:
    home = resolve_home(system=True, env={})
    assert [str(p) for p in (home.config, home.state, home.cache, home.run, home.mounts)] == [
        "/etc/pipefs",
        "/var/lib/pipefs",
        "/var/cache/pipefs",
        "/run/pipefs",
        "/srv/pipes",
    ]


def test_a_profile_shares_nothing_but_cache_and_mount_points(tmp_path: Path) -> None:
    env = {"PIPEFS_HOME": str(tmp_path)}
    plain, team = resolve_home(env=env), resolve_home(profile="team", env=env)
    assert plain.cache == team.cache
    assert plain.mountpoint("x") == team.mountpoint("x")
    for part in ("config", "state", "run", "stores"):
        assert getattr(plain, part) != getattr(team, part)
    assert plain.supervisor_socket != team.supervisor_socket


def test_folders_are_private(tmp_path: Path) -> None:
    home = resolve_home(env={"PIPEFS_HOME": str(tmp_path / "h")})
    home.make()
    for folder in (home.config, home.state, home.cache, home.run, home.logs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o755)
    make_private(tmp_path / "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    theirs = Path("/usr")  # For root, who owns that one, a folder given away.
    if os.geteuid() == 0:
        theirs = tmp_path / "x"
        theirs.mkdir()
        os.chown(theirs, 12345, 12345)
    with pytest.raises(Refused, match="not a folder of yours"):
        make_private(theirs)


def test_a_socket_can_be_bound_however_deep_the_home_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    home = resolve_home(env={"PIPEFS_HOME": str(deep)})
    again = resolve_home(env={"PIPEFS_HOME": str(deep), "TMPDIR": "/elsewhere"})
    for name, snapshot in (("x" * 63, ""), ("x" * 63, "t" * 128)):
        path = home.worker_socket(name, snapshot)
        assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES
        assert path == again.worker_socket(name, snapshot)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        path.unlink()
    assert home.supervisor_socket.parent == path.parent
    path.parent.rmdir()


@pytest.mark.parametrize("text", ["relative", "./x"])
def test_a_relative_pipefs_home_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="absolute"):
        resolve_home(env={"PIPEFS_HOME": text})


@pytest.mark.parametrize("name", ["", ".x", "a/b", "..", "a" * 64, "-x", "ä"])
def test_names_follow_the_rule(name: str) -> None:
    from pipefs.home import check_name

    with pytest.raises(UsageError, match="cannot name a pipe"):
        check_name(name)


def test_a_path_belongs_to_the_deepest_and_last_mount() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    inside = pipefs_mount_of("/home/me/pipes/my sales/a", mounts)
    assert inside is not None
    assert (inside.source, inside.connection) == ("sales", 41)
    assert pipefs_mount_of("/home/me/pipes/my sales2", mounts) is None
    above = mount_of("/home/me", mounts)
    assert above is not None
    assert above.fstype == "ext4"


SALES = MountItem("sales", "/home/me/pipes/my sales", 7, "/run/x.sock")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("sales", Target("sales")),
        ("sales@v1/a/b", Target("sales", "v1", "a/b")),
        ("sales@live", Target("sales")),
        ("sales/a//b/", Target("sales", None, "a/b")),
        ("sales@@2h", Target("sales", "@2h")),
        (".", Target("sales", None, "q")),
        ("./x", Target("sales", None, "q/x")),
        ("..", Target("sales")),
        ("/home/me/pipes/my sales/.snapshots/v1/a", Target("sales", "v1", "a")),
        ("/home/me/pipes/my sales/d/.snapshots/v1/a", Target("sales", "v1", "d/a")),
    ],
)
def test_target_is_a_name_or_a_place_in_a_mount(text: str, target: Target) -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    cwd = "/home/me/pipes/my sales/q"
    assert parse_target(text, [SALES], cwd=cwd, mountinfo=mounts) == target


@pytest.mark.parametrize("text", ["/home/me/x", "/home/me/pipes/x"])
def test_a_path_outside_every_mount_is_not_found(text: str) -> None:
    with pytest.raises(NotFound, match="not inside"):
        parse_target(text, [SALES], mountinfo=parse_mountinfo(MOUNTINFO))


@pytest.mark.parametrize("text", ["sales@", "@v1", "sales/../x", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)
