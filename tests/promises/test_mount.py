"""Promises about the mount as a whole: room, events, other calls."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from pathlib import Path

from tests.promises.conftest import Mounted
from tests.promises.promised import Twin, c_function, opened, promise, tried

_inotify_init = c_function("inotify_init1", ctypes.c_int)
_inotify_add = c_function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


@promise(
    "statfs",
    "`statfs` shows as free what can be written now (the disk with the staging files), as "
    "used what the pipe holds, and names of 255 bytes.",
)
def test_statfs_shows_what_can_be_written(mounted: Mounted, twin: Twin) -> None:
    disk, found = os.statvfs(mounted.home.home), os.statvfs(twin.ours)
    free = found.f_bavail * found.f_frsize
    assert abs(free - disk.f_bavail * disk.f_frsize) < 1 << 30
    assert found.f_blocks >= found.f_bfree >= found.f_bavail > 0
    assert found.f_files >= found.f_ffree > 0
    assert found.f_namemax == 255
    with opened(twin.ours, os.O_DIRECTORY) as fd:
        assert os.fstatvfs(fd).f_fsid == found.f_fsid
    said = subprocess.run(["df", "-T", twin.ours], check=True, capture_output=True, text=True)
    assert str(mounted.root) in said.stdout


@promise(
    "one-device",
    "Everything on a mount has one device number of its own, and a rename or link to "
    "elsewhere is `EXDEV`.",
)
def test_a_mount_is_one_device(mounted: Mounted, twin: Twin, tmp_path: Path) -> None:
    (twin.ours / "d").mkdir()
    (twin.ours / "d" / "x").touch()
    devices = {p.stat().st_dev for p in (mounted.root, twin.ours, twin.ours / "d" / "x")}
    assert len(devices) == 1
    assert mounted.root.parent.stat().st_dev not in devices
    assert os.path.ismount(mounted.root)
    assert tried(os.rename, twin.ours / "d", tmp_path / "d") == "EXDEV"


@promise(
    "inotify",
    "`inotify` reports what processes of this machine do on the mount.",
)
def test_inotify_reports_what_is_done_here(twin: Twin) -> None:
    def act(folder: Path) -> object:
        fd = _inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _inotify_add(fd, os.fsencode(folder), 0x00000FFF & ~0x20 & ~0x10 & ~0x1)
            (folder / "x").write_text("x")
            (folder / "x").rename(folder / "y")
            (folder / "d").mkdir()
            (folder / "y").unlink()
            raw, events = os.read(fd, 1 << 16), []
        finally:
            os.close(fd)
        while raw:
            mask, length = (int.from_bytes(raw[i : i + 4], "little") for i in (4, 12))
            events.append((mask & 0xFFF, raw[16 : 16 + length].rstrip(b"\0")))
            raw = raw[16 + length :]
        return events

    events = twin.same(act)
    assert (0x100, b"x") in events
    assert (0x80, b"y") in events
    assert (0x200, b"y") in events


@promise(
    "unknown-ioctl",
    "An `ioctl` that the kernel does not do itself is `ENOTTY`, so that `lsattr`, `chattr` "
    "and reflinks fail cleanly.",
)
def test_unknown_requests_are_refused_cleanly(twin: Twin) -> None:
    path = twin.ours / "x"
    path.write_bytes(b"x")
    with opened(path, os.O_RDWR) as fd:
        assert tried(fcntl.ioctl, fd, 0x80086601, bytes(8)) == "ENOTTY"
        assert fcntl.ioctl(fd, 0x541B, bytes(4)) is not None
