"""Extended attributes and access lists: on a mount, on the other machine, after a fresh start."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipefsd.extended import MAX_TOTAL_BYTES
from tests.mounted import NOBODY, Home, eventually
from tests.seaweed import SeaweedServer

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@dataclass
class Pair:
    """One pipe on two machines, with access lists; other users can reach the mounts."""

    a: Home
    b: Home
    url: str

    @property
    def here(self) -> Path:
        return self.a.base / "p"

    @property
    def there(self) -> Path:
        return self.b.base / "p"


@pytest.fixture(scope="module")
def pair(seaweed: SeaweedServer) -> Iterator[Pair]:
    a, b = Home(seaweed.environment()), Home(seaweed.environment())
    pair = Pair(a, b, f"s3://{seaweed.make_bucket()}/p")
    try:
        for home, place in ((a, pair.here), (b, pair.there)):
            home.base.chmod(0o755)
            place.mkdir()
            home.create("p", pair.url, "acl=yes", "quiet_period=0")
            home.run("mount", "p", str(place))
        yield pair
    finally:
        a.close()
        b.close()


def _run(*command: str | Path, uid: int = 0) -> subprocess.CompletedProcess[str]:
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    return subprocess.run(
        [*drop, *command], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )


def _list_of(path: Path, *options: str) -> list[str]:
    done = _run("getfacl", "-cpnE", *options, path)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def _setfacl(*words: str | Path) -> None:
    done = _run("setfacl", *words)
    assert done.returncode == 0, done.stderr


def _has(path: Path, wanted: dict[str, bytes]) -> bool:
    """Whether the attributes are these. One may go between the list and its value."""
    with contextlib.suppress(OSError):
        return _all_of(path) == wanted
    return False


def _all_of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


# --- extended attributes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "flags", "code"),
    [
        ("user.old", b"x", os.XATTR_CREATE, errno.EEXIST),
        ("user.new", b"x", os.XATTR_REPLACE, errno.ENODATA),
        ("user.", b"x", 0, errno.EINVAL),
        ("user.pipefs.state", b"clean", 0, errno.EPERM),
        ("user.pipefs.new", b"x", 0, errno.EPERM),
        ("security.label", b"x", 0, errno.EOPNOTSUPP),
        ("system.new", b"x", 0, errno.EOPNOTSUPP),
        ("strange.new", b"x", 0, errno.EOPNOTSUPP),
        ("user." + "n" * 251, b"x", 0, errno.ERANGE),
        ("user.big", bytes(65537), 0, errno.E2BIG),
    ],
)
def test_what_cannot_be_set_is_refused_as_ext4_does(
    pair: Pair, name: str, value: bytes, flags: int, code: int
) -> None:
    path = pair.here / "refused"
    path.touch()
    os.setxattr(path, "user.old", b"1")
    with pytest.raises(OSError) as caught:
        os.setxattr(path, name, value, flags)
    assert caught.value.errno == code
    assert _all_of(path) == {"user.old": b"1"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("user.no", errno.ENODATA),
        ("user.pipefs.version", errno.EPERM),
        ("trusted.no", errno.ENODATA),
        ("security.no", errno.EOPNOTSUPP),
        ("strange.no", errno.EOPNOTSUPP),
    ],
)
def test_what_is_not_there_cannot_be_removed(pair: Pair, name: str, code: int) -> None:
    path = pair.here / "removed"
    path.touch()
    with pytest.raises(OSError) as caught:
        os.removexattr(path, name)
    assert caught.value.errno == code


def test_one_file_has_room_for_a_bounded_sum_of_attributes(pair: Pair) -> None:
    path = pair.here / "full"
    path.touch()
    os.setxattr(path, "user.a", bytes(65536))
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.b", bytes(MAX_TOTAL_BYTES - 65536))
    assert caught.value.errno == errno.ENOSPC
    os.setxattr(path, "user.a", b"small now", os.XATTR_REPLACE)
    os.setxattr(path, "user.b", bytes(65536))
    assert os.listxattr(path) == ["user.a", "user.b"]


def test_user_attributes_are_for_files_and_directories_only(pair: Pair) -> None:
    link, fifo = pair.here / "a-link", pair.here / "a-fifo"
    link.symlink_to("nowhere")
    os.mkfifo(fifo)
    for path in (link, fifo):
        with pytest.raises(PermissionError):
            os.setxattr(path, "user.x", b"1", follow_symlinks=False)
    os.setxattr(link, "trusted.x", b"1", follow_symlinks=False)
    assert os.listxattr(link, follow_symlinks=False) == ["trusted.x"]


def test_trusted_attributes_are_for_root_only(pair: Pair) -> None:
    path = pair.here / "trusted"
    path.touch()
    path.chmod(0o666)
    os.setxattr(path, "trusted.secret", b"1")
    os.setxattr(path, "user.open", b"2")
    shown = _run("getfattr", "-d", "-m", "-", path, uid=NOBODY)
    assert "user.open" in shown.stdout
    assert "secret" not in shown.stdout
    assert _run("setfattr", "-n", "trusted.mine", "-v", "1", path, uid=NOBODY).returncode != 0
    assert _all_of(path) == {"trusted.secret": b"1", "user.open": b"2"}


def test_attributes_and_lists_are_on_the_other_machine_and_after_a_fresh_start(pair: Pair) -> None:
    here, there = pair.here / "kept", pair.there / "kept"
    (here / "inner").mkdir(parents=True)
    (here / "file").write_bytes(b"content")
    for path in (here, here / "file"):
        os.setxattr(path, "user.note", b"\x00\xff any bytes\n")
        os.setxattr(path, b"user.\xff\n", b"")
        os.setxattr(path, "trusted.t", b"t")
        _setfacl("-m", f"u:{NOBODY}:rw,g:12:r", path)
    _setfacl("-d", "-m", f"u:{NOBODY}:rwx", here / "inner")
    names = ("", "file", "inner")
    expected = {name: _all_of(here / name) for name in names}
    assert len(expected["file"]) == 4
    pair.a.flush("p")

    def same() -> bool:
        with suppress(FileNotFoundError):
            return {name: _all_of(there / name) for name in names} == expected
        return False

    eventually(same, "the other machine has them")
    assert _list_of(there / "file") == _list_of(here / "file")
    os.removexattr(there / "file", "user.note")
    (there / "file").chmod(0o600)
    eventually(lambda: "user.note" not in os.listxattr(here / "file"), "the removal is seen")
    eventually(lambda: "mask::---" in _list_of(here / "file"), "the mode is the list's mask")
    expected = {name: _all_of(there / name) for name in names}
    pair.a.umount("p")
    shutil.rmtree(pair.a.home / "cache")
    shutil.rmtree(pair.a.state("p"))
    pair.a.run("mount", "p", str(pair.here))
    assert {name: _all_of(here / name) for name in names} == expected


def test_attributes_that_two_machines_set_at_once_are_both_kept(pair: Pair) -> None:
    here, there = pair.here / "both", pair.there / "both"
    here.write_text("x")
    for name in ("user.old", "user.gone"):
        os.setxattr(here, name, b"1")
    pair.a.flush("p")
    eventually(lambda: there.exists() and len(os.listxattr(there)) == 2, "both have it")
    os.setxattr(here, "user.a", b"here")
    os.removexattr(here, "user.gone")
    os.setxattr(there, "user.b", b"there")
    expected = {"user.old": b"1", "user.a": b"here", "user.b": b"there"}
    for path in (here, there):
        eventually(lambda path=path: _has(path, expected), f"{path} has them all")


def test_what_pipefs_knows_of_a_file_is_found_by_name_and_never_listed(
    pair: Pair, seaweed: SeaweedServer
) -> None:
    bucket = pair.url.removeprefix("s3://").removesuffix("/p")
    digest = hashlib.sha256(b"x").hexdigest()
    seaweed.client().put_object(
        Bucket=bucket, Key="p/told", Body=b"x", Metadata={"sha256": digest, "xxh3": "0" * 16}
    )
    pair.a.run("refresh", "p", "--full")
    path = pair.here / "told"
    assert os.listxattr(path) == []
    assert os.getxattr(path, "user.pipefs.state") == b"clean"
    assert os.getxattr(path, "user.pipefs.sha256") == digest.encode()
    assert os.getxattr(path, "user.pipefs.xxh3") == b"0" * 16
    path.write_bytes(b"y")
    for name in ("sha256", "xxh3", "nonsense"):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, f"user.pipefs.{name}")
        assert caught.value.errno == errno.ENODATA
    pair.a.flush("p")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.pipefs.sha256")
    assert caught.value.errno == errno.ENODATA


def test_a_file_that_the_store_refuses_is_failed_until_it_is_taken(home: Home) -> None:
    store = home.base / "store"
    store.mkdir()
    home.create("p", f"file://{store}", "quiet_period=0")
    path = home.mount("p") / "file"
    subprocess.run(["mount", "--bind", store, store], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
    try:
        path.write_bytes(b"x")
        eventually(lambda: os.getxattr(path, "user.pipefs.state") == b"failed", "it is failed")
    finally:
        subprocess.run(["umount", store], check=True)
    home.flush("p")
    eventually(lambda: os.getxattr(path, "user.pipefs.state") == b"clean", "it is clean")


def test_copies_with_attributes_and_lists_settle(pair: Pair, tmp_path: Path) -> None:
    source, target = tmp_path / "source", pair.here / "copies"
    (source / "dir").mkdir(parents=True)
    (source / "file").write_bytes(b"content")
    os.setxattr(source / "file", "user.note", b"1")
    os.setxattr(source / "dir", "user.note", b"2")
    _setfacl("-m", "u:7:rw", source / "file")
    _setfacl("-d", "-m", "g:8:rx", source / "dir")
    wanted = {name: _all_of(source / name) for name in ("file", "dir")}
    assert _run("cp", "-a", source, target).stderr == ""
    assert {name: _all_of(target / name) for name in wanted} == wanted
    for number in (1, 2):
        done = _run("rsync", "-aHAXi", f"{source}/", f"{pair.here}/synced/")
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (number == 1), "the second time there is nothing to do"
    assert {name: _all_of(pair.here / "synced" / name) for name in wanted} == wanted
    back = _run("rsync", "-aHAXi", f"{pair.here}/synced/", f"{source}/")
    assert (back.returncode, back.stdout, back.stderr) == (0, "", "")


# --- access lists ----------------------------------------------------------------------------


def test_a_list_lets_in_whom_it_names_as_far_as_its_mask(pair: Pair) -> None:
    path = pair.here / "guarded"
    path.write_text("for some")
    path.chmod(0o640)
    assert _run("cat", path, uid=NOBODY).returncode != 0
    _setfacl("-m", f"u:{NOBODY}:rw", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert _run("cat", path, uid=NOBODY).stdout == "for some"
    assert _run("dd", f"of={path}", "count=0", "conv=notrunc", uid=NOBODY).returncode == 0
    path.chmod(0o640)
    assert _list_of(path) == [
        *("user::rw-", f"user:{NOBODY}:rw-", "group::r--", "mask::r--", "other::---")
    ]
    assert _run("dd", f"of={path}", "count=0", "conv=notrunc", uid=NOBODY).returncode != 0
    _setfacl("-b", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listxattr(path) == []
    assert _run("cat", path, uid=NOBODY).returncode != 0


def test_a_list_set_elsewhere_counts_here_at_once(pair: Pair) -> None:
    here, there = pair.here / "moved", pair.there / "moved"
    here.write_text("x")
    here.chmod(0o600)
    pair.a.flush("p")
    eventually(there.exists, "the other machine has it")
    assert _run("cat", here, uid=NOBODY).returncode != 0
    _setfacl("-m", f"u:{NOBODY}:r", there)
    eventually(lambda: os.listxattr(here) == [ACCESS], "the list is here")
    assert _run("cat", here, uid=NOBODY).stdout == "x"


def test_a_list_that_is_a_mode_is_none(pair: Pair) -> None:
    path = pair.here / "plain"
    path.touch()
    _setfacl("-m", "u::rwx,g::rx,o::-", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert os.listxattr(path) == []


def test_default_lists_are_handed_down_in_place_of_the_umask(pair: Pair) -> None:
    top = pair.here / "top"
    top.mkdir()
    _setfacl("-d", "-m", f"u:{NOBODY}:rwx", top)
    script = "umask 077; mkdir sub; : >file; mkfifo fifo; ln -s x link; mkdir -m 700 narrow"
    assert _run("sh", "-c", f"cd {top} && {script}").returncode == 0
    named = f"user:{NOBODY}:rwx"
    assert named in _list_of(top / "file")
    assert "mask::rw-" in _list_of(top / "file")
    assert "mask::rw-" in _list_of(top / "fifo")
    assert "mask::---" in _list_of(top / "narrow")
    assert _list_of(top / "sub", "-d") == _list_of(top, "-d")
    assert os.listxattr(top / "link", follow_symlinks=False) == []
    nameless = os.open(top, os.O_TMPFILE | os.O_RDWR, 0o666)
    assert named in _list_of(Path(f"/proc/{os.getpid()}/fd/{nameless}"))
    os.close(nameless)
    assert _run("touch", top / "sub" / "by-nobody", uid=NOBODY).returncode == 0
    _setfacl("-k", top)
    assert _run("sh", "-c", f"umask 077; : >{top}/after").returncode == 0
    assert stat.S_IMODE((top / "after").stat().st_mode) == 0o600
    assert DEFAULT not in os.listxattr(top)


def test_only_the_owner_sets_a_list_and_only_its_group_keeps_set_gid(pair: Pair) -> None:
    path = pair.here / "theirs"
    path.touch()
    path.chmod(0o2775)
    assert _run("setfacl", "-m", "u:1:r", path, uid=NOBODY).returncode != 0
    os.chown(path, NOBODY, 1234)
    path.chmod(0o2775)
    assert _run("setfacl", "-m", "u:1:r", path, uid=NOBODY).returncode == 0
    assert path.stat().st_mode & stat.S_ISGID == 0
    file = _run("setfacl", "-d", "-m", "u:1:r", path, uid=NOBODY)
    assert file.returncode != 0, "default lists are for directories"


def test_without_the_setting_lists_are_refused_and_known_ones_give_no_more_rights(
    pair: Pair,
) -> None:
    path, there = pair.here / "unenforced", pair.there / "unenforced"
    path.write_text("x")
    path.chmod(0o604)
    _setfacl("-m", f"u:{NOBODY}:rw,m::rw", path)
    pair.a.flush("p")
    eventually(there.exists, "the other machine has it")
    pair.b.umount("p")
    pair.b.run("mount", "p", str(pair.there), "-o", "acl=no")
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o664
        assert stat.S_IMODE(there.stat().st_mode) == 0o604, "the group has its own bits only"
        assert os.listxattr(there) == []
        done = _run("setfacl", "-m", "u:1:r", there)
        assert "not supported" in done.stderr
        there.chmod(0o604)
    finally:
        pair.b.umount("p")
        pair.b.run("mount", "p", str(pair.there))
    assert f"user:{NOBODY}:rw-" in _list_of(there), "it is still kept"
