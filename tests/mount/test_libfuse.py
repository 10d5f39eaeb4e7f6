"""The libfuse transport on real mounts: its traps, and what it does as the kernel transport does.

The file system is in memory, the session in a thread of this process; see `serving` for what that
forbids. Real pipes, workers and their deaths: `test_libfuse_worker`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.errors import Refused
from pipefsd.transports.base import Caller
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.libfuse.session import REQUEST_BYTES, LibfuseSession
from tests.mount.memfs import MemFs
from tests.mount.serving import MIB, WAIT_S, folder, in_thread, served_by_libfuse, until

_libc = ctypes.CDLL(None, use_errno=True)
_NOREPLACE, _EXCHANGE = 1, 2
_TMPFILE = os.O_TMPFILE
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 6, ~0 & 0xFFFFFFFF),
        (2, 6, 1234),
        (4, 4, ~0 & 0xFFFFFFFF),
        (16, 6, ~0 & 0xFFFFFFFF),
        (32, 4, ~0 & 0xFFFFFFFF),
    )
)
"""user::rw-, user:1234:rw-, group::r--, mask::rw-, other::r--"""


class Watched(MemFs):
    """Notes the sizes of writes, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.write_sizes: list[int] = []
        self.bug: Exception | None = None

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        self.write_sizes.append(len(data))
        return super().write(caller, node, fh, offset, data)

    def readlink(self, caller: Caller, node: int) -> bytes:
        if self.bug is not None:
            raise self.bug
        return super().readlink(caller, node)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Path, Watched]]:
    fs = Watched()
    with served_by_libfuse(fs) as path:
        yield path, fs


@pytest.fixture
def place(shared: tuple[Path, Watched], request: pytest.FixtureRequest) -> Path:
    """A fresh folder of the module's mount."""
    path = shared[0] / request.node.name
    path.mkdir()
    return path


@pytest.fixture
def fs(shared: tuple[Path, Watched]) -> Watched:
    shared[1].calls.clear()
    return shared[1]


# --- names, times, errors ---


def test_names_and_targets_hold_any_byte(place: Path) -> None:
    inside = os.fsencode(place)
    names = [bytes([n]) + b"\xff \xc3" for n in range(1, 256) if n != ord("/")]
    for name in names:
        os.close(os.open(inside + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(inside)) == sorted(names)
    os.rename(inside + b"/" + names[0], inside + b"/" + b"\xfe" * 255)
    os.symlink(b"to \xff/\xfd", inside + b"/link")
    assert os.readlink(inside + b"/link") == b"to \xff/\xfd"
    os.setxattr(inside + b"/" + names[1], b"user.\xfc", b"\0\xfb")
    assert os.getxattr(inside + b"/" + names[1], b"user.\xfc") == b"\0\xfb"
    with pytest.raises(FileNotFoundError):
        os.stat(inside + b"/" + names[0])


def test_each_time_is_set_to_a_moment_to_now_or_left_alone(place: Path) -> None:
    path = place / "file"
    path.touch()
    os.utime(path, ns=(5_000_000_001, 7_000_000_003))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (5_000_000_001, 7_000_000_003)
    # Its ns and seconds are what UTIME_NOW and UTIME_OMIT would be if they were added up.
    os.utime(path, ns=((1 << 30) - 1, (1 << 30) - 2))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == ((1 << 30) - 1, (1 << 30) - 2)
    subprocess.run(["touch", "-a", "-d", "@9.000000004", path], check=True)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (9_000_000_004, (1 << 30) - 2)
    subprocess.run(["touch", "-m", path], check=True)
    assert path.stat().st_atime_ns == 9_000_000_004
    assert path.stat().st_mtime_ns > 10**18


@pytest.mark.parametrize("bug", [TimeoutError("no errno"), ValueError("a bug"), OSError(0, "zero")])
def test_an_error_without_an_errno_is_eio_and_the_mount_goes_on(
    place: Path, fs: Watched, bug: Exception
) -> None:
    (place / "link").symlink_to("there")
    fs.bug = bug
    with pytest.raises(OSError) as caught:
        os.readlink(place / "link")
    fs.bug = None
    assert caught.value.errno == errno.EIO
    assert os.readlink(place / "link") == "there"


# --- files that lose their name ---


def test_an_open_file_that_lost_its_name_goes_on_in_every_way(place: Path, fs: Watched) -> None:
    path = place / "file"
    path.write_bytes(b"0123456789")
    with open(path, "r+b", buffering=0) as file:
        path.unlink()
        assert os.listdir(place) == []
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == b"0123456789"
        os.pwrite(file.fileno(), b"ab", 4)
        os.ftruncate(file.fileno(), 8)
        os.fchmod(file.fileno(), 0o600)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        assert os.fstat(file.fileno()).st_size == 8
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
            assert again.read() == b"0123ab67"
        place.rmdir()
        assert os.pread(file.fileno(), 4, 0) == b"0123"
    assert (fs.calls["rename"], fs.calls["unlink"]) == (0, 1)


def test_replacing_an_open_file_is_one_step(place: Path, fs: Watched) -> None:
    (place / "file").write_bytes(b"old")
    (place / "new").write_bytes(b"newer")
    with open(place / "file", "rb", buffering=0) as old:
        os.rename(place / "new", place / "file")
        assert (place / "file").read_bytes() == b"newer"
        assert old.read() == b"old"
        assert os.fstat(old.fileno()).st_size == 3
        assert os.listdir(place) == ["file"]
    # What libfuse does by itself is a rename to .fuse_hidden… first, and a moment without a file.
    assert (fs.calls["rename"], fs.calls["unlink"]) == (1, 0)


def test_a_file_that_was_replaced_after_its_lookup_is_looked_up_again(place: Path) -> None:
    (place / "file").write_bytes(b"old")
    (place / "new").write_bytes(b"new")
    seen = os.open(place / "file", os.O_PATH)
    try:
        os.rename(place / "new", place / "file")
        # Who comes by the name repeats the lookup at this errno; ENOENT would be the end of it.
        with pytest.raises(OSError) as caught:
            os.open(f"/proc/self/fd/{seen}", os.O_RDONLY)
        assert caught.value.errno == errno.ESTALE
    finally:
        os.close(seen)
    with pytest.raises(FileNotFoundError):
        os.open(place / "new", os.O_RDONLY)


def test_names_like_those_of_libfuse_are_ordinary_names(place: Path) -> None:
    path = place / ".fuse_hidden0000000200000001"
    (place / "file").write_bytes(b"mine")
    os.rename(place / "file", path)
    with open(path, "rb") as file:
        assert os.listdir(place) == [path.name]
        path.unlink()
        assert file.read() == b"mine"
    assert os.listdir(place) == []


def test_a_removed_open_directory_still_answers(place: Path) -> None:
    gone = place / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY)
    try:
        ino = os.fstat(fd).st_ino
        gone.rmdir()
        assert (os.fstat(fd).st_ino, os.fstat(fd).st_nlink) == (ino, 0)
        with pytest.raises(FileNotFoundError):
            gone.stat()
    finally:
        os.close(fd)


def test_hard_links_show_one_file_at_once(place: Path) -> None:
    one, two = place / "one", place / "two"
    one.write_bytes(b"x")
    assert one.stat().st_nlink == 1
    os.link(one, two)
    assert (one.stat().st_nlink, two.stat().st_nlink) == (2, 2)
    assert one.stat().st_ino == two.stat().st_ino
    two.chmod(0o640)
    assert stat.S_IMODE(one.stat().st_mode) == 0o640
    two.write_bytes(b"longer")
    assert (one.stat().st_size, one.read_bytes()) == (6, b"longer")
    two.unlink()
    assert one.stat().st_nlink == 1


# --- requests ---


def test_a_mebibyte_arrives_in_pieces_of_128_kib(place: Path, fs: Watched) -> None:
    data = os.urandom(MIB)
    with open(place / "big", "wb", buffering=0) as file:
        fs.write_sizes.clear()
        assert file.write(data) == MIB
        assert fs.write_sizes == [REQUEST_BYTES] * 8
    fs.read_sizes.clear()
    assert (place / "big").read_bytes() == data
    assert max(fs.read_sizes) == REQUEST_BYTES


def test_a_long_directory_is_listed_once_each_in_parts(place: Path, fs: Watched) -> None:
    names = {f"{n:0200}" for n in range(1000)}
    for name in names:
        (place / name).touch()
    fs.calls.clear()
    with os.scandir(place) as entries:
        found = [(entry.name, entry.is_file()) for entry in entries]
    assert len(found) == len(names)
    assert {name for name, is_file in found if is_file} == names
    assert fs.calls["readdir"] > 1


def test_reads_that_wait_hold_up_nobody() -> None:
    fs = MemFs()
    cold = {fs.put(f"cold{i}", b"%d" % i) for i in range(5)}
    fs.put("warm", b"at hand")
    closed = threading.Event()
    fs.gate = lambda node: node in cold and not closed.is_set()
    with served_by_libfuse(fs) as path:
        readers = [in_thread((path / f"cold{i}").read_bytes) for i in range(5)]
        until(lambda: fs.waiting == 5)
        assert (path / "warm").read_bytes() == b"at hand"
        os.rename(path / "cold3", path / "renamed")
        os.unlink(path / "cold4")
        closed.set()
        for i, (thread, results) in enumerate(readers):
            thread.join(WAIT_S)
            assert results == [b"%d" % i]


def test_a_signal_ends_a_read_that_waits() -> None:
    fs = MemFs()
    fs.direct_io = True  # a cached read waits for its page, which only SIGKILL interrupts
    fs.put("cold", b"never")
    fs.gate = lambda node: True
    script = """
import os, signal, sys
def handler(*_): raise TimeoutError
signal.signal(signal.SIGUSR1, handler)
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    os.read(fd, 10)
except TimeoutError:
    sys.exit(7)
"""
    with served_by_libfuse(fs) as path:
        reader = subprocess.Popen([sys.executable, "-c", script, path / "cold"])
        until(lambda: fs.waiting == 1)
        reader.send_signal(10)
        assert reader.wait(WAIT_S) == 7
        assert fs.interrupted == 1


# --- what changes elsewhere ---


def test_contents_that_changed_elsewhere_are_read_anew_after_opening(
    shared: tuple[Path, Watched],
) -> None:
    root, fs = shared
    fs.put("changing", b"first")
    fs.keep_cache = True
    assert (root / "changing").read_bytes() == b"first"
    fs.read_sizes.clear()
    assert (root / "changing").read_bytes() == b"first"
    assert fs.read_sizes == []  # nothing changed: the kernel's pages are right
    fs.put("changing", b"other")
    assert (root / "changing").read_bytes() == b"other"
    fs.put("changing", b"longer than before")
    assert (root / "changing").read_bytes() == b"longer than before"
    fs.put("changing", b"short")
    assert (root / "changing").read_bytes() == b"short"


def test_two_contents_of_one_name_never_mix(shared: tuple[Path, Watched]) -> None:
    root, fs = shared
    fs.put("two", b"a" * 10_000)
    fs.keep_cache = True
    with open(root / "two", "rb", buffering=0) as old:
        assert old.read(100) == b"a" * 100
        fs.drop("two")  # as a new version does: another node of the same name, size and time
        fs.put("two", b"b" * 10_000)
        with open(root / "two", "rb", buffering=0) as new:
            assert new.read(100) == b"b" * 100
            with pytest.raises(OSError) as caught:
                mmap.mmap(new.fileno(), 100, prot=mmap.PROT_READ)
            assert caught.value.errno == errno.ENODEV
            assert os.pread(old.fileno(), 5_000, 5_000) == b"a" * 5_000
            assert os.pread(new.fileno(), 5_000, 5_000) == b"b" * 5_000
    assert (root / "two").read_bytes() == b"b" * 10_000


def test_a_name_that_came_elsewhere_is_there_at_once_and_one_that_went_after_a_second(
    shared: tuple[Path, Watched],
) -> None:
    root, fs = shared
    assert not (root / "came").exists()
    fs.put("came", b"now")
    assert (root / "came").read_bytes() == b"now"
    fs.drop("came")
    until(lambda: not (root / "came").exists())


# --- what the library does not carry ---


def _renameat2(old: Path, new: Path, flags: int) -> int:
    """errno, or 0."""
    here = -100
    failed = _libc.renameat2(here, os.fsencode(old), here, os.fsencode(new), flags)
    return ctypes.get_errno() if failed else 0


def test_what_libfuse_2_cannot_carry_is_refused_or_done_by_the_kernel(
    place: Path, fs: Watched
) -> None:
    one, two = place / "one", place / "two"
    one.write_bytes(b"one")
    two.write_bytes(b"two!")
    assert _renameat2(one, two, _NOREPLACE) == errno.EEXIST  # the kernel looks by itself
    assert _renameat2(one, place / "new", _NOREPLACE) == errno.EINVAL
    assert _renameat2(one, two, _EXCHANGE) == errno.EINVAL
    assert sorted(os.listdir(place)) == ["one", "two"]
    with pytest.raises(OSError) as caught:
        os.open(place, _TMPFILE | os.O_RDWR)
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError) as caught:
        os.setxattr(one, "system.posix_acl_access", _ACL)
    assert caught.value.errno == errno.EOPNOTSUPP
    with open(one, "rb") as source, open(two, "r+b") as target:
        assert os.lseek(source.fileno(), 1, os.SEEK_DATA) == 1
        assert os.lseek(source.fileno(), 1, os.SEEK_HOLE) == 3
        assert os.copy_file_range(source.fileno(), target.fileno(), 3, offset_src=0) == 3
    assert two.read_bytes() == b"one!"
    assert not {"lseek", "copy_file_range", "tmpfile", "setxattr"} & {*fs.calls}
    with open(two, "r+b") as target:
        os.posix_fallocate(target.fileno(), 0, 100)
    assert (two.stat().st_size, fs.calls["fallocate"]) == (100, 1)


# --- lifetimes ---


def test_an_unmount_ends_the_session_and_a_stop_leaves_the_mount() -> None:
    for how in ("unmounted", "stopped"):
        fs = MemFs()
        with folder() as path:
            session = LibfuseSession(fs, fsname="p", allow_other=False)
            features = session.mount(str(path))
            assert features.transport == "libfuse"
            assert "128 KiB writes" in features.names
            thread, reasons = in_thread(session.run)
            (path / "file").touch()
            if how == "unmounted":
                mounting.unmount(path)
            else:
                session.stop()
            thread.join(WAIT_S)
            assert reasons == [how]
            assert (mounting.is_mounted(path) is None) == (how == "unmounted")
            assert fs.stopped.is_set() == (how == "unmounted")


def test_a_directory_that_cannot_be_mounted_on_is_refused_in_libfuses_words() -> None:
    with folder() as path:
        (path / "full").touch()
        try:
            with pytest.raises(Refused, match="not empty"):
                LibfuseSession(MemFs(), fsname="p", allow_other=False).mount(str(path))
        finally:
            (path / "full").unlink()
