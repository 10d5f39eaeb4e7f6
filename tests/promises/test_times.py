"""Promises about times: what sets them, how fine they are, who may."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.promises.promised import NOBODY, Twin, acting_as, c_function, opened, promise, tried

UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_AT_FDCWD = -100
OLD = 10**18


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_utimensat = c_function("utimensat", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)


def utimens(path: Path, atime: tuple[int, int] | None, mtime: tuple[int, int] = (0, 0)) -> None:
    """utimensat(2) as it is, with its special nanoseconds; None: both now."""
    times = (_Timespec * 2)(atime or (0, 0), mtime)
    _utimensat(_AT_FDCWD, os.fsencode(path), times if atime else None, 0)


def _changed(path: Path, act: Callable[[], object]) -> str:
    """Which times of a path an action sets: of `a`, `m` and `c`."""
    os.utime(path, ns=(OLD - 1, OLD), follow_symlinks=False)
    before = path.lstat()
    time.sleep(0.011)  # ext4's clock ticks each 4 ms
    act()
    after = path.lstat()
    pairs = {
        "a": (before.st_atime_ns, after.st_atime_ns),
        "m": (before.st_mtime_ns, after.st_mtime_ns),
        "c": (before.st_ctime_ns, after.st_ctime_ns),
    }
    return "".join(letter for letter, (old, new) in pairs.items() if old != new)


@promise(
    "times",
    "Times are kept in nanoseconds, before 1970 too and until 2446, for files, directories "
    "and links; setting them sets `ctime` to now.",
)
def test_times_are_kept_in_nanoseconds(twin: Twin) -> None:
    moments = [(1, 999_999_999), (10**18 + 1, 10**18 + 123_456_789), (-1, -(10**18) - 7)]
    moments += [(0, 0), ((1 << 32) * 10**9 + 5, 15_000_000_000 * 10**9 + 9)]

    def act(folder: Path) -> object:
        (folder / "file").touch()
        (folder / "folder").mkdir()
        (folder / "link").symlink_to("nowhere")
        found = []
        for name in ("file", "folder", "link"):
            for atime, mtime in moments:
                os.utime(folder / name, ns=(atime, mtime), follow_symlinks=False)
                kept = (folder / name).lstat()
                found.append((kept.st_atime_ns, kept.st_mtime_ns))
                assert abs(kept.st_ctime_ns - time.time_ns()) < 60 * 10**9
            for year in (3000, 1000):  # as far as can be held, and no error
                far = (year - 1970) * 31_556_952 * 10**9
                os.utime(folder / name, ns=(far, far), follow_symlinks=False)
        return found

    assert twin.same(act) == moments * 3


@promise(
    "times-now-omit",
    "`UTIME_NOW` sets one time to this moment, `UTIME_OMIT` leaves it as it is, and with both "
    "omitted nothing changes.",
)
def test_now_and_omit(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.touch()
        os.utime(path, ns=(5, 6))
        utimens(path, (0, UTIME_OMIT), (7, 8))
        first = path.stat().st_atime_ns, path.stat().st_mtime_ns
        utimens(path, (9, 1), (0, UTIME_OMIT))
        second = path.stat().st_atime_ns, path.stat().st_mtime_ns
        before = path.stat().st_ctime_ns
        utimens(path, (0, UTIME_OMIT), (0, UTIME_OMIT))
        omitted = path.stat().st_ctime_ns == before
        utimens(path, (3, 3), (0, UTIME_NOW))
        now = path.stat()
        fresh = abs(now.st_mtime_ns - time.time_ns()) < 60 * 10**9
        utimens(path, None)
        both = path.stat()
        return first, second, omitted, now.st_atime_ns, fresh, both.st_atime_ns == both.st_mtime_ns

    assert twin.same(act) == (
        *((5, 7_000_000_008), (9_000_000_001, 7_000_000_008)),
        *(True, 3_000_000_003, True, True),
    )


@promise(
    "times-rights",
    "Own times may be set by the owner and root only (`EPERM`); to set both to now, the right "
    "to write is enough (`EACCES`).",
)
def test_who_may_set_times(twin: Twin) -> None:
    def act(folder: Path) -> object:
        (folder / "open").touch()
        (folder / "open").chmod(0o666)
        (folder / "closed").touch()
        with acting_as(NOBODY, NOBODY):
            return (
                tried(utimens, folder / "open", None),
                tried(utimens, folder / "open", (0, UTIME_NOW), (0, UTIME_NOW)),
                tried(utimens, folder / "open", (1, 1), (1, 1)),
                tried(utimens, folder / "open", (0, UTIME_NOW), (0, UTIME_OMIT)),
                tried(utimens, folder / "closed", None),
                tried(utimens, folder / "closed", (1, 1), (1, 1)),
            )

    assert twin.same(act) == (None, None, "EPERM", "EPERM", "EACCES", "EPERM")


@promise(
    "times-of-files",
    "Changed bytes set `mtime` and `ctime`; a changed mode, owner, name, number of links or "
    "extended attribute sets `ctime` alone.",
)
def test_what_sets_the_times_of_a_file(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(b"x" * 100)

        def write() -> None:
            with opened(path, os.O_WRONLY) as fd:
                os.write(fd, b"y")

        def write_nothing() -> None:
            with opened(path, os.O_WRONLY) as fd:
                os.write(fd, b"")

        def there_and_back() -> None:
            path.rename(folder / "y")
            (folder / "y").rename(path)

        return {
            "write": _changed(path, write),
            "write nothing": _changed(path, write_nothing),
            "truncate": _changed(path, lambda: os.truncate(path, 50)),
            "chmod": _changed(path, lambda: path.chmod(0o600)),
            "chown": _changed(path, lambda: os.chown(path, 1, 1)),
            "rename": _changed(path, there_and_back),
            "setxattr": _changed(path, lambda: os.setxattr(path, "user.a", b"1")),
            "removexattr": _changed(path, lambda: os.removexattr(path, "user.a")),
            "stat": _changed(path, path.stat),
        }

    assert twin.same(act) == {
        **dict.fromkeys(("write", "truncate"), "mc"),
        **dict.fromkeys(("write nothing", "stat"), ""),
        **dict.fromkeys(("chmod", "chown", "rename", "setxattr", "removexattr"), "c"),
    }


@promise(
    "times-of-directories",
    "A name that is made, removed or renamed in a directory sets the directory's `mtime` and "
    "`ctime`; what happens inside its files does not.",
)
def test_what_sets_the_times_of_a_directory(twin: Twin) -> None:
    def act(folder: Path) -> object:
        sub = folder / "sub"
        sub.mkdir()
        (sub / "x").touch()
        return {
            "write": _changed(sub, lambda: (sub / "x").write_text("x")),
            "chmod below": _changed(sub, lambda: (sub / "x").chmod(0o600)),
            "create": _changed(sub, (sub / "new").touch),
            "rename": _changed(sub, lambda: (sub / "new").rename(sub / "old")),
            "rename away": _changed(sub, lambda: (sub / "old").rename(folder / "old")),
            "rename into": _changed(sub, lambda: (folder / "old").rename(sub / "old")),
            "rename over": _changed(sub, lambda: (sub / "old").rename(sub / "x")),
            "unlink": _changed(sub, (sub / "x").unlink),
            "symlink": _changed(sub, lambda: (sub / "l").symlink_to("x")),
            "mkdir": _changed(sub, (sub / "d").mkdir),
            "rmdir": _changed(sub, (sub / "d").rmdir),
            "list": _changed(sub, lambda: None),
        }

    quiet = ("write", "chmod below", "list")
    assert twin.same(act) == {
        name: "" if name in quiet else "mc"
        for name in (
            *quiet,
            *("create", "rename", "rename away", "rename into", "rename over", "unlink"),
            *("symlink", "mkdir", "rmdir"),
        )
    }


@promise(
    "times-atime",
    "Reading never sets `atime`: it follows `mtime` until somebody sets it to another time.",
)
def test_reading_leaves_the_access_time(twin: Twin) -> None:
    path = twin.ours / "x"
    path.write_text("x")
    os.utime(path, ns=(OLD, OLD + 1))
    assert path.read_text() == "x"
    assert list(twin.ours.iterdir()) == [path]
    assert path.stat().st_atime_ns == OLD
    os.utime(path, ns=(OLD, OLD))
    path.write_text("y")
    assert path.stat().st_atime_ns == path.stat().st_mtime_ns
