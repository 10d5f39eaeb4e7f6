"""Mounting, unmounting and the mount table, as root and as an ordinary user."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipefs.errors import AlreadyExists, Busy, NotFound, UsageError
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.session import KernelSession
from tests.mount.memfs import MemFs
from tests.mount.serving import Serving, folder, served


def test_a_mount_shows_in_the_mount_table() -> None:
    with served(MemFs()) as path:
        found = mounting.is_mounted(path)
        assert found is not None
        assert (found.fstype, found.fsname) == ("fuse.pipefs", "a, pipe")
        assert found.mount_point == path
        assert {"nosuid", "nodev", "allow_other", "default_permissions"} <= set(found.options)
        assert mounting.connection_id(path) == os.stat(path).st_dev & 0xFF
        assert Path(f"/sys/class/bdi/0:{found.minor}/read_ahead_kb").read_text() == "1024\n"
        with pytest.raises(AlreadyExists):
            mounting.mount(path, fsname="again", allow_other=False)


def test_a_read_only_mount_refuses_writes() -> None:
    fs = MemFs()
    with folder() as path:
        fd = mounting.mount(path, fsname="ro", allow_other=False, read_only=True)
        serving = Serving(KernelSession(fd, fs))
        with pytest.raises(OSError) as caught:
            (path / "file").touch()
        assert caught.value.errno == errno.EROFS
        mounting.unmount(path)
        serving.join()
        os.close(fd)


def test_a_mount_is_found_through_a_symlink(tmp_path: Path) -> None:
    with served(MemFs()) as path:
        (tmp_path / "link").symlink_to(path)
        found = mounting.is_mounted(tmp_path / "link")
        assert found is not None
        assert found.mount_point == path
        mounting.unmount(tmp_path / "link")
        assert mounting.is_mounted(path) is None


def test_a_mount_in_use_is_busy_and_goes_lazily() -> None:
    with served(MemFs()) as path:
        with open(path / "file", "w"):
            with pytest.raises(Busy):
                mounting.unmount(path)
            mounting.unmount(path, lazy=True)
        assert mounting.is_mounted(path) is None


def test_a_directory_that_cannot_be_mounted_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="No such file") as caught:
        mounting.mount(tmp_path / "missing", fsname="x", allow_other=False)
    assert caught.value.hint.startswith("mkdir")
    with pytest.raises(UsageError, match="not a directory"):
        mounting.mount(tmp_path / "file", fsname="x", allow_other=False)
    with pytest.raises(NotFound):
        mounting.unmount(tmp_path)
    with pytest.raises(NotFound):
        mounting.connection_id(tmp_path)
    assert mounting.is_mounted(tmp_path) is None
    assert not mounting.is_dead(tmp_path)
    assert not mounting.set_readahead(tmp_path)
    assert not mounting.abort(999_999)


UNPRIVILEGED = """
import ctypes, os, sys, threading
from pathlib import Path
from pipefs.errors import Refused, UsageError
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.session import KernelSession
from tests.mount.memfs import MemFs
# fusermount3 opens /dev/fuse as the user. Most systems give it mode 666; a namespace of our own
# makes it so on those that do not, and takes its mounts with it.
libc = ctypes.CDLL(None, use_errno=True)
device = sys.argv[2].encode()
assert libc.unshare(0x20000) == 0
assert libc.mount(None, b"/", None, 0x44000, None) == 0
os.mknod(device, 0o20666, os.stat("/dev/fuse").st_rdev)
os.chmod(device, 0o666)
assert libc.mount(device, b"/dev/fuse", None, 0x1000, None) == 0
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path = Path(sys.argv[1])
try:
    mounting.mount(path, fsname="x", allow_other=True)
except UsageError as e:
    print("allow_other:", e)
fs = MemFs()
fs._nodes[1].attr.uid = 65534
fd = mounting.mount(path, fsname="my, pipe", allow_other=False)
session = KernelSession(fd, fs)
thread = threading.Thread(target=lambda: print("ended:", session.run()))
thread.start()
(path / "file").write_bytes(b"content")
print((path / "file").read_bytes(), mounting.is_mounted(path).fsname)
print("passthrough" in fs.features.names, mounting.set_readahead(path))
mounting.unmount(path)
thread.join()
os.environ["PATH"] = "/nowhere"
try:
    mounting.mount(path, fsname="x", allow_other=False)
except Refused as e:
    print("no helper:", e.hint)
"""


def test_an_ordinary_user_mounts_through_fusermount3(tmp_path: Path) -> None:
    with folder() as path:
        os.chown(path, 65534, 65534)
        command = [sys.executable, "-c", UNPRIVILEGED, str(path), str(tmp_path / "fuse")]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == [
            "allow_other: other users may not be let in: /etc/fuse.conf lacks user_allow_other",
            "b'content' my, pipe",
            "False False",
            "ended: unmounted",
            "no helper: apt-get install fuse3",
        ]
