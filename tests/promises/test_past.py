"""The past of a directory, inside it: what `.snapshots` promises, on every transport."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import uuid
from pathlib import Path

from tests.promises.promised import Twin, promise, tried


def _filled(folder: Path) -> None:
    """Something of every kind."""
    (folder / "d").mkdir()
    (folder / "d" / "a").write_bytes(b"bytes" * 1000)
    (folder / "empty").touch()
    os.chmod(folder / "empty", 0o640)
    os.chown(folder / "empty", 12, 34)
    os.symlink("d/a", folder / "link")
    os.link(folder / "d" / "a", folder / "also")
    os.mkfifo(folder / "fifo")
    os.setxattr(folder / "d" / "a", "user.x", b"y")
    os.utime(folder / "d" / "a", ns=(10**18, 10**18 + 1))
    os.utime(folder / "d", ns=(10**18, 10**18 + 2))


def _shown(folder: Path) -> dict[str, object]:
    """What is told of each path below a folder."""
    out: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        st = path.lstat()
        what: object = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        if path.is_symlink():
            what = os.readlink(path)
        attributes = {n: os.getxattr(path, n) for n in os.listxattr(path, follow_symlinks=False)}
        times = None if path.is_symlink() else st.st_mtime_ns
        size = None if path.is_dir() else st.st_size
        name = str(path.relative_to(folder))
        out[name] = (what, st.st_mode, st.st_uid, st.st_gid, times, size, attributes)
    return out


def _take(folder: Path) -> Path:
    """A snapshot of a folder; where it is."""
    made = folder / ".snapshots" / f"t{uuid.uuid4().hex[:8]}"
    made.mkdir()
    return made


@promise(
    "past-tree",
    "A snapshot in `.snapshots` shows each file, link and special file as it was "
    "when it was taken: bytes, size, mode, owner, times and extended attributes.",
)
def test_a_snapshot_shows_everything_as_it_was(twin: Twin) -> None:
    _filled(twin.ours)
    wanted = _shown(twin.ours)
    past = _take(twin.ours)
    for path in list(twin.ours.iterdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (twin.ours / "d").write_bytes(b"a file now")
    assert _shown(past) == wanted
    assert (past / "also").stat().st_ino == (past / "d" / "a").stat().st_ino


@promise(
    "past-read-only",
    "Below `.snapshots` every call that would change something is `EROFS`.",
)
def test_nothing_of_the_past_can_be_changed(twin: Twin) -> None:
    _filled(twin.ours)
    past = _take(twin.ours)
    file, new = past / "d" / "a", past / "d" / "new"
    calls = (
        lambda: file.write_bytes(b"x"),
        lambda: os.truncate(file, 0),
        new.touch,
        new.mkdir,
        lambda: new.symlink_to("a"),
        lambda: os.mkfifo(new),
        lambda: os.link(file, new),
        file.unlink,
        (past / "d").rmdir,
        lambda: file.rename(new),
        lambda: (twin.ours / "empty").rename(new),
        lambda: os.chmod(file, 0o600),
        lambda: os.chown(file, 1, 1),
        lambda: os.utime(file),
        lambda: os.setxattr(file, "user.z", b"1"),
        lambda: os.removexattr(file, "user.x"),
    )
    assert [tried(call) for call in calls] == ["EROFS"] * len(calls)
    assert file.read_bytes() == b"bytes" * 1000


@promise(
    "past-hidden",
    "`.snapshots` is in no listing, so that `find`, `cp -a`, `rsync` and `rm -r` of "
    "a directory never walk into its past.",
)
def test_who_walks_a_directory_does_not_meet_its_past(twin: Twin) -> None:
    _filled(twin.ours)
    past = _take(twin.ours)
    found = subprocess.run(["find", twin.ours], check=True, capture_output=True, text=True).stdout
    assert ".snapshots" not in found
    copy = twin.ours.parent / f"{twin.ours.name}-copy"
    subprocess.run(["cp", "-a", twin.ours, copy], check=True)
    assert _shown(copy) == _shown(twin.ours)
    shutil.rmtree(copy)
    assert (past / "d" / "a").exists()


@promise(
    "past-inodes",
    "An inode number of the past is never that of a live file.",
)
def test_a_file_and_its_past_are_two_files(twin: Twin) -> None:
    _filled(twin.ours)
    past = _take(twin.ours)
    live = {p.lstat().st_ino for p in twin.ours.rglob("*")}
    old = {p.lstat().st_ino for p in past.rglob("*")}
    assert not live & old
    subprocess.run(["cp", past / "d" / "a", twin.ours / "d" / "a"], check=True)


@promise(
    "past-names",
    "In `.snapshots` a tag, an id of six digits or more, `latest` and `@TIME` mean "
    "a moment of the directory's path; what did not exist then is `ENOENT`.",
)
def test_a_moment_has_several_names(twin: Twin) -> None:
    (twin.ours / "a").write_bytes(b"old")
    past = _take(twin.ours)
    snapshots = twin.ours / ".snapshots"
    assert past.name in os.listdir(snapshots)
    assert os.readlink(snapshots / "latest") == past.name
    assert (snapshots / "latest" / "a").read_bytes() == b"old"
    assert tried((snapshots / "nothing").stat) == "ENOENT"
    assert tried((snapshots / "@9999-01-01").stat) == "ENOENT"
    assert tried((snapshots / "@not-a-time").stat) == "ENOENT"
    later = twin.ours / "later"
    later.mkdir()
    assert tried((later / ".snapshots" / past.name).stat) == "ENOENT"
    moment = os.readlink(snapshots / "@1s")
    assert moment.startswith("@20")


@promise(
    "past-make",
    "`mkdir` in `.snapshots` takes a snapshot of its directory, and `rmdir` forgets "
    "one, but `EPERM` where it is protected.",
)
def test_making_and_removing_names_in_it(twin: Twin) -> None:
    (twin.ours / "a").write_bytes(b"x")
    past = _take(twin.ours)
    assert tried(past.mkdir) == "EEXIST"
    assert tried((past.parent / "latest").mkdir) == "EEXIST"
    assert tried((past.parent / "abcdef12").mkdir) == "EINVAL"
    past.rmdir()
    assert tried(past.stat) == "ENOENT"
    assert tried(past.rmdir) == "ENOENT"


@promise(
    "past-copy",
    "A copy of a file of the past has its bytes and attributes, wherever it is copied to.",
)
def test_a_copy_of_the_past_is_as_the_past(twin: Twin) -> None:
    _filled(twin.ours)
    (twin.ours / "big").write_bytes(os.urandom(3 << 20))
    wanted = _shown(twin.ours)
    past = _take(twin.ours)
    shutil.rmtree(twin.ours / "d")
    (twin.ours / "big").write_bytes(b"changed")
    for target in (twin.ours.parent / f"{twin.ours.name}-from", twin.ext4 / "from"):
        subprocess.run(["cp", "-a", past, target], check=True)
        assert _shown(target) == wanted
    assert stat.S_ISFIFO((twin.ext4 / "from" / "fifo").lstat().st_mode)
