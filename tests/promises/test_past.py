"""What `.snapshots` promises, on every transport."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.mounted import eventually
from tests.promises.conftest import TRANSPORTS, Place, numbers
from tests.promises.promised import NOBODY, acting_as, opened, promise, tried
from tests.promises.test_elsewhere import looked_at, make_tree

MIB = 1 << 20


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), (words, done)
    return done.stdout


def filled(folder: Path) -> None:
    """Something of every kind."""
    (folder / "d").mkdir()
    (folder / "d" / "a").write_bytes(b"bytes" * 1000)
    (folder / "empty").touch()
    (folder / "link").symlink_to("d/a")
    os.link(folder / "d" / "a", folder / "also")
    os.mkfifo(folder / "fifo")
    os.setxattr(folder / "d" / "a", "user.x", b"y")


def emptied(folder: Path) -> None:
    for path in list(folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def shown(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """All that is told of what is below a folder; the link counts of directories are left out."""
    return {
        path: (mode, *(() if st_is_dir(mode) else (nlink,)), uid, gid, *rest)
        for path, (mode, uid, gid, nlink, *rest) in looked_at(folder).items()
    }


def st_is_dir(mode: object) -> bool:
    return isinstance(mode, int) and mode & 0o170000 == 0o040000


# --- what it shows ---------------------------------------------------------------------------


@promise(
    "past-tree",
    "A snapshot in `.snapshots` shows each file, link and special file as it was when it was "
    "taken: bytes, size, mode, owner, times, hard links and extended attributes; the link count "
    "of a directory is 1 (not counted).",
)
def test_a_snapshot_shows_everything_as_it_was(place: Place, folder: Path) -> None:
    make_tree(folder, 255, lists=place.transport == "passthrough")
    wanted = shown(folder)
    past = place.take(folder)
    emptied(folder)
    (folder / "small").mkdir()
    assert shown(past) == wanted
    (folder / "small").rmdir()
    assert {p.stat().st_nlink for p in (past, *past.glob("*")) if p.is_dir()} == {1}
    place.remount()
    assert shown(past) == wanted


@promise(
    "past-immutable",
    "What a snapshot shows never changes, whatever is written, renamed or removed since, here, on "
    "another machine or by other tools.",
)
def test_a_snapshot_never_changes(place: Place, folder: Path) -> None:
    for name in ("written", "cut", "renamed", "removed", "put"):
        (folder / name).write_bytes(name.encode() * 1000)
    past = place.take(folder)
    wanted = shown(past)
    with opened(folder / "written", os.O_RDWR) as fd:
        os.pwrite(fd, b"CHANGED", 3)
        assert shown(past) == wanted
    os.truncate(folder / "cut", 3)
    (folder / "renamed").rename(folder / "moved")
    (folder / "removed").unlink()
    (place.store / folder.name / "put").write_bytes(b"by another tool")
    place.home.run("refresh", "p", "--full")
    place.home.flush("p")
    folder.rename(folder.parent / f"{folder.name}-moved")
    folder.mkdir()
    assert shown(past) == wanted
    place.remount()
    assert shown(past) == wanted


@promise(
    "past-inodes",
    "An inode number of the past is never that of a live file, and stays with its file through "
    "remounts.",
)
def test_a_file_and_its_past_are_two_files(place: Place, folder: Path) -> None:
    filled(folder)
    past = place.take(folder)
    live = {p.lstat().st_ino for p in (folder, *folder.rglob("*"))}
    old = {p: p.lstat().st_ino for p in (past, *past.rglob("*"))}
    assert not live & set(old.values())
    assert len(set(old.values())) == len(old) - 1  # `also` and `d/a` are one file
    run("cp", past / "d" / "a", folder / "d" / "a")
    place.remount()
    assert {p: p.lstat().st_ino for p in old} == old


# --- what cannot be done ---------------------------------------------------------------------


@promise(
    "past-read-only",
    "Below `.snapshots` every call that would change something is `EROFS`.",
)
def test_nothing_of_the_past_can_be_changed(place: Place, folder: Path) -> None:
    filled(folder)
    past = place.take(folder)
    wanted = shown(past)
    for inside in (folder / ".snapshots", past, past / "d"):
        assert _changes(inside, folder / "empty") == {}
    file, snapshots = past / "d" / "a", past.parent
    calls = [
        lambda: os.open(file, os.O_WRONLY),
        lambda: os.open(file, os.O_RDWR | os.O_APPEND),
        lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.x", b"1"),
        lambda: os.removexattr(file, "user.x"),
        file.unlink,
        lambda: file.rename(past / "d" / "b"),
        lambda: file.rename(folder / "b"),
        lambda: past.rename(snapshots / "another-tag"),
        lambda: past.rename(folder / "b"),
        (past / "d").rmdir,
        (past / "link").unlink,
        (snapshots / "latest").unlink,
        lambda: (past / "new").mkdir(),
        snapshots.rmdir,
        lambda: snapshots.rename(folder / "b"),
        lambda: (folder / "d").rename(folder / ".snapshots"),
    ]
    assert [tried(call) for call in calls] == ["EROFS"] * len(calls)
    assert tried(os.link, file, folder / "b") == "EXDEV"
    assert shown(past) == wanted


def _changes(inside: Path, live: Path) -> dict[str, object]:
    """What changed or failed with another error, of everything that can be tried on a directory."""
    new = inside / "new"
    tries = {
        "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
        "mknod": lambda: os.mknod(new),
        "fifo": lambda: os.mkfifo(new),
        "symlink": lambda: new.symlink_to("x"),
        "link": lambda: os.link(live, new),
        "rename": lambda: live.rename(new),
        "rename a directory": lambda: (live.parent / "d").rename(new),
        "chmod": lambda: inside.chmod(0o700),
        "chown": lambda: os.chown(inside, 1, 1),
        "utime": lambda: os.utime(inside, (1, 1)),
        "setxattr": lambda: os.setxattr(inside, "user.x", b"1"),
    }
    found = {name: tried(call) for name, call in tries.items()}
    return {name: what for name, what in found.items() if what != "EROFS"}


@promise(
    "past-hidden",
    "`.snapshots` is in no listing, so that `find`, `du`, `cp -a`, `rsync` and `rm -r` of a "
    "directory never walk into its past.",
)
def test_who_walks_a_directory_does_not_meet_its_past(place: Place, folder: Path) -> None:
    filled(folder)
    past = place.take(folder)
    assert (folder / "d" / ".snapshots").is_dir()
    wanted = shown(folder)
    for walk in (("find", folder), ("du", "-a", folder), ("ls", "-laR", folder)):
        assert ".snapshots" not in run(*walk)
    for copy in (("cp", "-a", folder), ("rsync", "-aHX", "--modify-window=-1", f"{folder}/")):
        target = place.home.base / f"copy{next(numbers)}"
        run(*copy, target)
        assert shown(target) == wanted
    run("rm", "-r", folder)
    assert not folder.exists()
    folder.mkdir()
    assert shown(past) == wanted


@promise(
    "past-visible",
    "With `snapdir=visible` the root of the mount lists `.snapshots`, and `rmdir` in it is "
    "`EPERM`, because `rm -r` of the mount would call it.",
)
def test_a_visible_past_outlives_a_removal_of_everything(place: Place) -> None:
    home, name = place.home, f"v{next(numbers)}"
    root = home.base / name
    root.mkdir()
    home.create(name, "", "snapdir=visible")
    home.run("mount", name, str(root), *TRANSPORTS[place.transport])
    (root / "d").mkdir()
    (root / "d" / "a").write_text("kept")
    (root / ".snapshots" / "v1").mkdir()
    (root / ".snapshots" / "empty-tag").mkdir()
    assert sorted(os.listdir(root)) == [".snapshots", "d"]
    assert os.listdir(root / "d") == ["a"]
    assert tried((root / ".snapshots" / "v1").rmdir) == "EPERM"
    done = subprocess.run(["rm", "-rf", root], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert os.listdir(root) == [".snapshots"]
    assert (root / ".snapshots" / "v1" / "d" / "a").read_text() == "kept"
    assert tried((root / ".snapshots").rmdir) == "EROFS"
    home.umount(name)


# --- its names -------------------------------------------------------------------------------


@promise(
    "past-names",
    "In `.snapshots` a tag, an id of six digits or more, `latest` and `@TIME` mean a moment of "
    "the directory's path; what did not exist then is `ENOENT`.",
)
def test_a_moment_has_several_names(place: Place, folder: Path) -> None:
    (folder / "a").write_bytes(b"old")
    past = place.take(folder)
    snapshots = folder / ".snapshots"
    assert past.name in os.listdir(snapshots)
    for nothing in ("nothing", "@9999-01-01", "@not-a-time", "fffffffffff", "-", "x" * 255):
        assert tried((snapshots / nothing).stat) == "ENOENT"
    assert tried((snapshots / ("x" * 256)).stat) == "ENAMETOOLONG"
    assert tried((past / ".snapshots").stat) == "ENOENT"
    assert tried((folder / "a" / ".snapshots").stat) == "ENOTDIR"
    moment = os.readlink(snapshots / "@1s")
    assert moment.startswith("@20")
    later = folder / "later"
    later.mkdir()
    assert tried((later / ".snapshots" / past.name).stat) == "ENOENT"
    assert past.name not in os.listdir(later / ".snapshots")
    whole = place.take(place.root)
    assert (later / ".snapshots" / whole.name).is_dir()
    assert (whole / folder.name / "a").read_bytes() == b"old"
    assert past.name not in os.listdir(place.root / ".snapshots")


@promise(
    "past-ids",
    "Any beginning of a snapshot's id of six digits or more is found; it is listed only where the "
    "snapshot has no tag, and is `ENOENT` where several begin so.",
)
def test_a_short_id_is_found_without_being_listed(place: Place, folder: Path) -> None:
    (folder / "a").write_bytes(b"old")
    past = place.take(folder)
    (folder / "a").write_bytes(b"new")
    place.home.run("snapshot", "p", "-m", "without a tag")
    items = place.items()
    tagged = str(items[past.name]["id"])
    (bare,) = [name for name in items if items[name]["tag"] is None]
    snapshots = folder / ".snapshots"
    for digits in (6, 7, 20, 64):
        assert (snapshots / tagged[:digits] / "a").read_bytes() == b"old"
        assert (snapshots / bare[:digits].upper() / "a").read_bytes() == b"new"
    assert (snapshots / tagged[:6]).stat().st_ino == past.stat().st_ino
    assert tried((snapshots / tagged[:5]).stat) == "ENOENT"
    listed = os.listdir(snapshots)
    assert (bare[:7] in listed, tagged[:7] in listed) == (True, False)
    assert tried((snapshots / bare[:7]).rmdir) == "EPERM"  # it is one of the whole pipe
    (place.root / ".snapshots" / bare[:7]).rmdir()
    eventually(lambda: tried((snapshots / bare[:7]).stat) == "ENOENT", "it is forgotten")


@promise(
    "past-latest",
    "`latest` in `.snapshots` is a link to the newest snapshot that has the directory.",
)
def test_latest_follows_what_is_taken_and_forgotten(place: Place, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    latest = folder / ".snapshots" / "latest"
    (folder / "a").write_bytes(b"one")
    first = place.take(folder)
    assert os.readlink(latest) == os.readlink(below / ".snapshots" / "latest") == first.name
    assert latest.is_symlink() and latest.lstat().st_size == len(first.name)
    (folder / "a").write_bytes(b"two")
    second = place.take(folder)
    eventually(lambda: os.readlink(latest) == second.name, "latest is the second one")
    assert (latest / "a").read_bytes() == b"two"
    second.rmdir()
    eventually(lambda: os.readlink(latest) == first.name, "latest is the first one again")


# --- making and removing ---------------------------------------------------------------------


@promise(
    "past-make",
    "`mkdir` in `.snapshots` takes a snapshot of its directory, for whoever may write that; a tag "
    "that is taken is `EEXIST`, and a name that cannot be one is `EINVAL`.",
)
def test_making_a_name_takes_a_snapshot(place: Place, folder: Path) -> None:
    (folder / "a").write_bytes(b"closed a moment ago")
    snapshots = folder / ".snapshots"
    past = place.take(folder)
    assert (past / "a").read_bytes() == b"closed a moment ago"
    assert place.items()[past.name]["path"] == folder.name
    for taken in (past.name, "latest", "@2h"):
        assert tried((snapshots / taken).mkdir) == "EEXIST"
    (folder / "a").write_bytes(b"changed")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    assert tried((elsewhere / ".snapshots" / past.name).mkdir) == "EEXIST"
    for name in ("abcdef12", "live", "-x", "a b", "dws-1", "x" * 129, "\udcff"):
        assert tried(os.mkdir, os.fsencode(snapshots / name)) == "EINVAL"
    tag = f"s{next(numbers)}"
    with acting_as(NOBODY, NOBODY):
        assert tried((snapshots / tag).mkdir) == "EACCES"
        assert (past / "a").read_bytes() == b"closed a moment ago"
    os.chown(folder, NOBODY, NOBODY)
    eventually(lambda: snapshots.stat().st_uid == NOBODY, "it is theirs")
    with acting_as(NOBODY, NOBODY):
        (snapshots / tag).mkdir()
    assert (snapshots / tag / "a").read_bytes() == b"changed"


@promise(
    "past-forget",
    "`rmdir` of a tag in `.snapshots` of the directory that the snapshot is of forgets the "
    "snapshot, or where it has other tags takes this one away; elsewhere it is `EPERM`, and "
    "`pipefs forget --undo` brings it back until a prune.",
)
def test_removing_a_name_forgets_the_snapshot(place: Place, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    (below / "a").write_bytes(b"x")
    past, other = place.take(folder), place.take(folder)
    assert past.stat().st_ino == other.stat().st_ino  # nothing changed: one more tag
    assert tried((below / ".snapshots" / past.name).rmdir) == "EPERM"
    with opened(past / "below" / "a", os.O_RDONLY):
        past.rmdir()
        assert tried(past.stat) == "ENOENT"
        assert (other / "below" / "a").read_bytes() == b"x"
        other.rmdir()
    for gone in (past, other):
        assert tried(gone.stat) == tried(gone.rmdir) == "ENOENT"
    assert os.listdir(past.parent) == []
    place.home.run("forget", f"p@{other.name}", "--undo")
    eventually(other.exists, "it is there again")
    assert (other / "below" / "a").read_bytes() == b"x"


@promise(
    "past-protected",
    "`rmdir` of a protected snapshot is `EPERM`, and the log and `status` say why.",
)
def test_a_protected_snapshot_stays(place: Place, folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    past, home = place.take(folder), place.home
    home.run("protect", f"p@{past.name}")
    assert tried(past.rmdir) == "EPERM"
    assert (past / "a").read_bytes() == b"x"
    reason = f"the snapshot {past.name} is protected"
    assert reason in home.log()
    assert reason in home.status("p")["last_error"]
    assert reason in home.run("status", "p").stdout
    home.run("unprotect", f"p@{past.name}")
    eventually(lambda: tried(past.rmdir) is None, "it goes once it is not protected")


@promise(
    "past-appears",
    "A snapshot that is taken or forgotten, here or on another machine, comes and goes in "
    "`.snapshots` within 2 seconds, without a remount.",
)
def test_a_snapshot_of_another_machine_appears_by_itself(
    place: Place, folder: Path, there: Path
) -> None:
    (folder / "a").write_bytes(b"from here")
    home, other = place.home, there / folder.name
    ours = place.take(folder)
    eventually(lambda: _says(other / ".snapshots" / ours.name / "a", b"from here"), "ours is there")
    (other / "a").write_bytes(b"from there")
    theirs = folder / ".snapshots" / f"s{next(numbers)}"
    assert not theirs.exists()
    (other / ".snapshots" / theirs.name).mkdir()
    eventually(lambda: _says(theirs / "a", b"from there"), "theirs is here")
    assert os.readlink(folder / ".snapshots" / "latest") == theirs.name
    home.run("forget", f"p@{ours.name}", "-y")
    eventually(lambda: not (other / ".snapshots" / ours.name).exists(), "it is gone there")
    (other / ".snapshots" / theirs.name).rmdir()
    eventually(lambda: os.listdir(folder / ".snapshots") == [], "all are gone here")


def _says(path: Path, content: bytes) -> bool:
    return tried(path.read_bytes) == content


# --- reading, copying, bringing back ---------------------------------------------------------


@promise(
    "past-open",
    "A file of a snapshot that is open is read to the end after the snapshot was forgotten.",
)
def test_an_open_file_outlives_its_snapshot(place: Place, folder: Path, there: Path) -> None:
    data = os.urandom(3 * MIB + 5)
    (folder / "a").write_bytes(data)
    past = place.take(folder)
    other = there / folder.name / ".snapshots" / past.name
    eventually(other.exists, "it is on the other machine")
    (folder / "a").unlink()
    with opened(past / "a", os.O_RDONLY) as here, opened(other / "a", os.O_RDONLY) as away:
        past.rmdir()
        eventually(lambda: not other.exists(), "it is forgotten there too")
        assert os.pread(here, len(data), 0) == data
        assert os.pread(away, len(data), 0) == data  # not a byte of it was there before


@promise(
    "past-copy",
    "A copy of a file of the past has its bytes and attributes, wherever it is copied to.",
)
def test_a_copy_of_the_past_is_as_the_past(place: Place, folder: Path) -> None:
    filled(folder)
    big = os.urandom(3 * MIB + 7)
    (folder / "big").write_bytes(big)
    wanted = shown(folder)
    past = place.take(folder)
    emptied(folder)
    for target in (folder / "from", place.home.base / f"copy{next(numbers)}"):
        run("cp", "-a", past, target)
        assert shown(target) == wanted
        run("rsync", "-aHX", "--modify-window=-1", f"{past}/", f"{target}-synced/")
        assert shown(Path(f"{target}-synced")) == wanted
    with opened(past / "big", os.O_RDONLY) as old:
        flags = os.O_RDWR | os.O_CREAT
        with opened(folder / "part", flags) as new, opened(folder / "whole", flags) as whole:
            assert os.copy_file_range(old, whole, len(big), 0, 0) == len(big)
            assert os.copy_file_range(old, new, 5, 1000, 0) == 5
            assert os.copy_file_range(old, new, 5, len(big), 5) == 0
            os.pwrite(whole, b"changed", MIB)
            assert os.pread(new, 9, 0) == big[1000:1005]
        assert (folder / "whole").read_bytes() == big[:MIB] + b"changed" + big[MIB + 7 :]
        assert os.pread(old, len(big), 0) == big
