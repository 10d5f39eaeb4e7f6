"""Promises about directories: making, removing, listing."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.promises.promised import Twin, c_function, mode_of, opened, promise, tried

_opendir = c_function("opendir", ctypes.c_char_p, result=ctypes.c_void_p)
_closedir = c_function("closedir", ctypes.c_void_p)
_rewinddir = c_function("rewinddir", ctypes.c_void_p)
_telldir = c_function("telldir", ctypes.c_void_p, result=ctypes.c_long)
_seekdir = c_function("seekdir", ctypes.c_void_p, ctypes.c_long)


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_ulong),
        ("offset", ctypes.c_long),
        ("length", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


_readdir = ctypes.CDLL(None).readdir
_readdir.argtypes, _readdir.restype = [ctypes.c_void_p], ctypes.POINTER(_Dirent)


LONG = "-" * 200
"""In names, so that a few hundred of them take several requests."""


class Listing:
    """opendir(3) and its relatives, one entry at a time."""

    def __init__(self, folder: Path) -> None:
        self._handle = _opendir(os.fsencode(folder))

    def read(self, count: int = 1 << 30) -> list[bytes]:
        """Names of the next entries, up to so many."""
        found: list[bytes] = []
        while len(found) < count and (entry := _readdir(self._handle)):
            found.append(entry.contents.name)
        return found

    def where(self) -> int:
        return _telldir(self._handle)

    def seek(self, position: int) -> None:
        _seekdir(self._handle, position)

    def rewind(self) -> None:
        _rewinddir(self._handle)

    def close(self) -> None:
        _closedir(self._handle)


@promise(
    "mkdir",
    "`mkdir` makes an empty directory with the mode less the umask; a name that is taken is "
    "`EEXIST`.",
)
def test_mkdir_makes_an_empty_directory(twin: Twin) -> None:
    def act(folder: Path) -> object:
        before = os.umask(0o027)
        try:
            (folder / "d").mkdir(0o1777)
        finally:
            os.umask(before)
        (folder / "x").touch()
        (folder / "dangling").symlink_to("nowhere")
        taken = [tried((folder / n).mkdir) for n in ("d", "x", "dangling", ".", "..")]
        return oct(mode_of(folder / "d")), os.listdir(folder / "d"), taken

    mode, names, taken = twin.same(act)
    assert (mode, names, taken) == ("0o1750", [], ["EEXIST"] * 5)


@promise(
    "rmdir",
    "`rmdir` removes an empty directory only (`ENOTEMPTY`, `ENOTDIR`), never by a path that "
    "ends in `.` (`EINVAL`) or `..` (`ENOTEMPTY`); `unlink` of a directory is `EISDIR`.",
)
def test_rmdir_removes_empty_directories_only(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "full" / "sub").mkdir(parents=True)
        (folder / "x").touch()
        (folder / "link").symlink_to("full")
        refused = [
            tried(os.rmdir, f"{folder}/{n}")
            for n in ("full", "x", "link", "no", "full/sub/.", "full/sub/..")
        ]
        refused.append(tried(os.unlink, folder / "full"))
        (folder / "full" / "sub").rmdir()
        (folder / "full").rmdir()
        return refused, sorted(os.listdir(folder))

    assert twin.same(act) == (
        ["ENOTEMPTY", "ENOTDIR", "ENOTDIR", "ENOENT", "EINVAL", "ENOTEMPTY", "EISDIR"],
        ["link", "x"],
    )


@promise(
    "nlink-directory",
    "The link count of a directory is 2 and its subdirectories; with more than 512 names in "
    "it, 1 (not counted).",
)
def test_a_directory_counts_its_subdirectories(twin: Twin) -> None:
    def act(folder: Path) -> object:
        counts = [folder.stat().st_nlink]
        for name in ("a", "b"):
            (folder / name).mkdir()
            counts.append(folder.stat().st_nlink)
        (folder / "x").touch()
        (folder / "b").rename(folder / "a" / "b")
        counts += [folder.stat().st_nlink, (folder / "a").stat().st_nlink]
        (folder / "a" / "b").rmdir()
        counts.append((folder / "a").stat().st_nlink)
        return counts

    assert twin.same(act) == [2, 3, 4, 3, 3, 2]
    for n in range(520):
        (twin.ours / f"l{n}").symlink_to("x")
    assert twin.ours.stat().st_nlink == 1


@promise(
    "readdir",
    "A listing has `.`, `..` and each name once, with the inode number and the type that "
    "`stat` gives.",
)
def test_a_listing_agrees_with_stat(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "file").touch()
        (folder / "dir").mkdir()
        (folder / "link").symlink_to("file")
        os.mkfifo(folder / "fifo")
        listing = Listing(folder)
        names = sorted(listing.read())
        listing.close()
        with os.scandir(folder) as entries:
            found = {
                e.name: (
                    e.inode() == (folder / e.name).lstat().st_ino,
                    e.is_file(follow_symlinks=False),
                    e.is_dir(follow_symlinks=False),
                    e.is_symlink(),
                )
                for e in entries
            }
        with opened(folder, os.O_DIRECTORY) as fd:
            up = os.stat("..", dir_fd=fd).st_ino == folder.parent.stat().st_ino
        return names, found, up

    names, found, up = twin.same(act)
    assert names == [b".", b"..", b"dir", b"fifo", b"file", b"link"]
    assert all(same for same, *_ in found.values())
    assert found["fifo"] == (True, False, False, False)
    assert up


@promise(
    "readdir-stable",
    "While a directory changes, a listing has each name that stays exactly once; names that "
    "come or go meanwhile may be in it or not.",
)
def test_names_that_stay_are_listed_once(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for n in range(400):
            (folder / f"stays{n:03}{LONG}").symlink_to("x")
            (folder / f"goes{n:03}{LONG}").symlink_to("x")
        listing = Listing(folder)
        found = listing.read(100)
        for n in range(0, 400, 2):
            (folder / f"goes{n:03}{LONG}").unlink()
        found += listing.read(200)
        for n in range(100):
            (folder / f"comes{n}{LONG}").symlink_to("x")
            (folder / f"goes{2 * n + 1:03}{LONG}").rename(folder / f"renamed{n}{LONG}")
        found += listing.read()
        listing.close()
        return sorted(name[:8] for name in found if name.startswith(b"stays"))

    assert twin.same(act) == [b"stays%03d" % n for n in range(400)]


@promise(
    "readdir-remove",
    "Who removes what he lists, as `rm -r` does, misses nothing and is left with an empty "
    "directory.",
)
def test_removing_while_listing_misses_nothing(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for n in range(500):
            (folder / f"f{n}{LONG}").symlink_to("x")
        listing = Listing(folder)
        while name := listing.read(1):
            if name[0] not in (b".", b".."):
                os.unlink(os.fsencode(folder) + b"/" + name[0])
        listing.close()
        left = os.listdir(folder)
        (folder / "a" / "b" / "c").mkdir(parents=True)
        subprocess.run(["rm", "-r", folder / "a"], check=True)
        return left, os.listdir(folder)

    assert twin.same(act) == ([], [])


@promise(
    "readdir-seek",
    "`telldir` and `seekdir` come back to the same entry in a directory that did not change, "
    "and `rewinddir` lists it anew with what changed since.",
)
def test_positions_in_a_listing_hold(twin: Twin) -> None:
    def act(folder: Path) -> object:
        for n in range(500):
            (folder / f"f{n}{LONG}").symlink_to("x")
        listing = Listing(folder)
        marks = []
        for _ in range(5):
            listing.read(70)
            marks.append((listing.where(), listing.read(3)))
        for where, following in reversed(marks):
            listing.seek(where)
            assert listing.read(3) == following
        listing.rewind()
        whole = listing.read()
        (folder / "new").touch()
        (folder / f"f7{LONG}").unlink()
        listing.rewind()
        again = listing.read()
        listing.close()
        return len(whole), len(set(whole)), sorted(n[:3] for n in set(again) ^ set(whole))

    assert twin.same(act) == (502, 502, [b"f7-", b"new"])


@promise(
    "large-directories",
    "A directory may have very many names: all are listed once, and each can be found, made "
    "and removed.",
)
@pytest.mark.parametrize("mounted", ["kernel"], indirect=True)
def test_a_directory_of_5_000_names(twin: Twin) -> None:
    names = {f"n{n}" for n in range(5000)}

    def act(folder: Path) -> object:
        with opened(folder, os.O_DIRECTORY) as fd:
            for name in names:
                os.symlink("x", name, dir_fd=fd)
        with os.scandir(folder) as entries:
            found = [e.name for e in entries]
        assert (len(found), set(found)) == (len(names), names)
        (folder / "n1234").unlink()
        (folder / "n1235").rename(folder / "renamed")
        (folder / "made").touch()
        gone = tried(os.lstat, folder / "n1234"), (folder / "n4999").lstat().st_size
        return gone, set(os.listdir(folder)) ^ names

    assert twin.same(act) == (("ENOENT", 1), {"n1234", "n1235", "renamed", "made"})


@promise(
    "inode-numbers",
    "An inode number belongs to one file, stays with it through renames and remounts, and is "
    "never used again on this machine.",
)
def test_inode_numbers_are_never_used_again(twin: Twin) -> None:
    seen: set[int] = set()
    for n in range(50):
        path = twin.ours / f"x{n}"
        path.touch()
        number = path.stat().st_ino
        assert number not in seen
        seen.add(number)
        assert path.rename(twin.ours / "y").stat().st_ino == number
        (twin.ours / "y").unlink()
    assert stat.S_ISDIR(twin.ours.stat().st_mode)
