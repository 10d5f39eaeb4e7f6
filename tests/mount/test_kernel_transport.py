"""Everyday operations, requests, notifications and errors, on real mounts of our transport."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipefs.errors import Corrupt, Refused
from pipefsd.transports.base import Attr, Caller, Entry, Opened, ReadReply
from tests.mount.memfs import MemFs
from tests.mount.serving import MIB, served, until

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> int:
    """0, or the errno."""
    failed = _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)
    return ctypes.get_errno() if failed else 0


# --- everyday operations ---


def test_files_are_written_read_cut_and_removed() -> None:
    with served(MemFs()) as path:
        file = path / "file"
        file.write_bytes(b"hello")
        with open(file, "ab") as f:
            f.write(b" world")
            f.flush()
            os.fsync(f.fileno())
            os.fdatasync(f.fileno())
        assert file.read_bytes() == b"hello world"
        os.truncate(file, 5)
        with open(file, "r+b") as f:
            f.truncate(7)
            assert os.fstat(f.fileno()).st_size == 7
        assert file.read_bytes() == b"hello\0\0"
        with open(file, "wb"):
            pass
        assert file.stat().st_size == 0
        file.unlink()
        assert list(path.iterdir()) == []
        with pytest.raises(FileNotFoundError):
            file.stat()


def test_attributes_are_set_and_seen() -> None:
    with served(MemFs()) as path:
        file = path / "file"
        file.touch()
        file.chmod(0o640)
        os.chown(file, 12, 34)
        os.utime(file, ns=(1_500_000_000_123_456_789, -1_000_000_001))
        seen = file.stat()
        assert stat.S_IMODE(seen.st_mode) == 0o640
        assert (seen.st_uid, seen.st_gid) == (12, 34)
        assert seen.st_atime_ns == 1_500_000_000_123_456_789
        assert seen.st_mtime_ns == -1_000_000_001
        before = time.time_ns()
        os.utime(file)
        assert file.stat().st_mtime_ns >= before - 1_000_000_000


def test_names_are_made_moved_and_exchanged() -> None:
    with served(MemFs()) as path:
        (path / "dir").mkdir()
        (path / "dir" / "a").write_bytes(b"a")
        os.symlink("dir/a", path / "sym")
        assert os.readlink(path / "sym") == "dir/a"
        assert (path / "sym").read_bytes() == b"a"
        os.link(path / "dir" / "a", path / "hard")
        assert (path / "hard").stat().st_nlink == 2
        os.mkfifo(path / "fifo")
        assert stat.S_ISFIFO((path / "fifo").stat().st_mode)
        (path / "b").write_bytes(b"b")
        assert renameat2(path / "b", path / "hard", 1) == errno.EEXIST
        assert renameat2(path / "b", path / "hard", 2) == 0
        assert (path / "b").read_bytes() == b"a"
        os.rename(path / "b", path / "dir" / "c")
        assert sorted(os.listdir(path)) == ["dir", "fifo", "hard", "sym"]
        assert sorted(os.listdir(path / "dir")) == ["a", "c"]
        with pytest.raises(OSError, match="not empty"):
            (path / "dir").rmdir()
        (path / "dir" / "a").unlink()
        (path / "dir" / "c").unlink()
        (path / "dir").rmdir()


def test_names_of_every_kind_arrive_unchanged() -> None:
    names = [b"a b", b"\xff\xfe", b"new\nline", b"x" * 255, "grüße".encode(), b"-", b"..."]
    with served(MemFs()) as path:
        for name in names:
            os.close(os.open(os.path.join(os.fsencode(path), name), os.O_CREAT | os.O_WRONLY))
        assert sorted(os.listdir(os.fsencode(path))) == sorted(names)
        with pytest.raises(OSError, match="too long"):
            (path / ("x" * 256)).touch()


def test_rarer_file_calls_reach_the_filesystem() -> None:
    fs = MemFs()
    with served(fs) as path:
        (path / "from").write_bytes(b"0123456789")
        with open(path / "from", "rb") as source, open(path / "to", "wb") as target:
            assert os.copy_file_range(source.fileno(), target.fileno(), 4, 2) == 4
            os.posix_fallocate(target.fileno(), 0, 100)
            assert os.lseek(source.fileno(), 2, os.SEEK_DATA) == 2
            assert os.lseek(source.fileno(), 2, os.SEEK_HOLE) == 10
        assert (path / "to").read_bytes() == b"2345" + bytes(96)
        assert os.statvfs(path).f_blocks == 1 << 20
        directory = os.open(path, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        assert fs.calls["copy_file_range"] == fs.calls["fallocate"] == fs.calls["fsyncdir"] == 1
        with pytest.raises(OSError) as caught:
            os.open(path, os.O_TMPFILE | os.O_RDWR)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_extended_attributes_keep_the_size_protocol() -> None:
    with served(MemFs()) as path:
        file = path / "file"
        file.touch()
        os.setxattr(file, "user.short", b"v")
        os.setxattr(file, "user.long", b"x" * 5000)
        assert os.getxattr(file, "user.short") == b"v"
        assert os.getxattr(file, "user.long") == b"x" * 5000
        assert sorted(os.listxattr(file)) == ["user.long", "user.short"]
        small = ctypes.create_string_buffer(10)
        arguments = (os.fsencode(file), b"user.long")
        assert _libc.getxattr(*arguments, small, 10) == -1
        assert ctypes.get_errno() == errno.ERANGE
        assert _libc.getxattr(*arguments, None, 0) == 5000
        with pytest.raises(FileExistsError):
            os.setxattr(file, "user.short", b"w", os.XATTR_CREATE)
        os.removexattr(file, "user.short")
        with pytest.raises(OSError) as caught:
            os.getxattr(file, "user.short")
        assert caught.value.errno == errno.ENODATA


def test_locks_are_kept_by_the_kernel() -> None:
    with served(MemFs()) as path, open(path / "f", "w") as one, open(path / "f", "w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_write_by_another_user_clears_set_id_bits() -> None:
    with served(MemFs()) as path:
        file = path / "file"
        file.write_bytes(b"program")
        os.chmod(file, 0o6777)
        script = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
os.setgid(65534); os.setuid(65534)
os.write(fd, b"x")
"""
        subprocess.run([sys.executable, "-c", script, file], check=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o777
        assert file.read_bytes() == b"xrogram"


# --- size and number of requests ---


def test_reads_and_writes_travel_in_whole_mebibytes() -> None:
    fs = MemFs()
    data = os.urandom(MIB) * 8
    with served(fs) as path:
        with open(path / "big", "wb", buffering=0) as f:
            assert sum(f.write(data[i * MIB : (i + 1) * MIB]) for i in range(8)) == 8 * MIB
        assert fs.calls["write"] == 8
        assert (path / "big").read_bytes() == data
        assert max(fs.read_sizes) == MIB
        assert len(fs.read_sizes) <= 12


def test_a_large_directory_is_listed_with_its_attributes() -> None:
    fs = MemFs()
    names = {f"file-{i:05}" for i in range(5000)}
    for name in names:
        fs.put(name, b"x" * (int(name[-5:]) % 7))
    with served(fs) as path:
        with os.scandir(path) as entries:
            seen = {e.name: e.stat().st_size for e in entries}
        assert seen == {name: int(name[-5:]) % 7 for name in names}
        assert fs.calls["readdirplus"] > 0
        assert fs.calls["lookup"] + fs.calls["getattr"] < 50
        assert sorted(os.listdir(path)) == sorted(names)
        assert fs.lookups("file-04999") >= 1
        # Every entry that was sent counts, and the kernel counts the same.
        assert fs.notifier is not None
        fs.notifier.inval_entry(1, b"file-04999")
        until(lambda: fs.lookups("file-04999") == 0)


def test_forgotten_nodes_are_counted_down() -> None:
    fs = MemFs()
    with served(fs) as path:
        (path / "file").write_bytes(b"x")
        (path / "file").stat()
        assert fs.lookups("file") == 1
        assert fs.notifier is not None
        fs.notifier.inval_entry(1, b"file")
        until(lambda: fs.lookups("file") == 0)


# --- notifications ---


def test_a_changed_file_is_seen_after_a_notification_only() -> None:
    fs = MemFs(keep_cache=True)
    node = fs.put("file", b"old")
    with served(fs) as path:
        assert (path / "file").read_bytes() == b"old"
        fs.put("file", b"new")
        assert (path / "file").read_bytes() == b"old", "an hour's timeout is not over"
        assert fs.notifier is not None
        fs.notifier.inval_inode(node, 0, 0)
        until(lambda: (path / "file").read_bytes() == b"new")


def test_names_that_come_and_go_are_seen_after_a_notification() -> None:
    fs = MemFs()
    with served(fs) as path:
        assert not (path / "late").exists()
        fs.put("late", b"")
        assert not (path / "late").exists(), "the kernel believes its negative entry"
        assert fs.notifier is not None
        fs.notifier.inval_entry(1, b"late")
        until((path / "late").exists)
        node = fs.drop("late")
        assert (path / "late").exists()
        fs.notifier.delete_entry(1, node, b"late")
        until(lambda: not (path / "late").exists())


def test_an_epoch_drops_every_entry_at_once() -> None:
    fs = MemFs()
    with served(fs) as path:
        assert not (path / "a").exists()
        assert not (path / "b").exists()
        fs.put("a", b"")
        fs.put("b", b"")
        assert fs.notifier is not None
        fs.notifier.inval_entry(1, b"no such name")
        fs.notifier.increment_epoch()
        until((path / "a").exists)
        assert (path / "b").exists()


# --- errors ---


class Failing(MemFs):
    """Fails as the file's name says."""

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if name == b"bug":
            raise ValueError("a bug")
        if name == b"corrupt":
            raise Corrupt("checksum")
        if name == b"refused":
            raise Refused("no")
        if name == b"no errno":
            raise OSError("a timeout without a number")
        return super().lookup(caller, parent, name)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        raise OSError(errno.ENOSYS, "not implemented")

    def readlink(self, caller: Caller, node: int) -> bytes:
        return b"x" * 5000


def test_every_error_becomes_one_errno(caplog: pytest.LogCaptureFixture) -> None:
    fs = Failing()
    fs.put("file", b"")
    expected = {"bug": errno.EIO, "corrupt": errno.EIO, "refused": errno.EPERM}
    with served(fs) as path:
        for name, code in {**expected, "no errno": errno.EIO}.items():
            with pytest.raises(OSError) as caught:
                (path / name).stat()
            assert caught.value.errno == code
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                (path / "file").read_bytes()
            assert caught.value.errno == errno.EOPNOTSUPP, "ENOSYS to OPEN would change the mount"
    assert "lookup of node 1 failed unexpectedly" in caplog.text
    assert "ValueError: a bug" in caplog.text


class TooMuch(MemFs):
    released = 0

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        def release() -> None:
            self.released += 1

        return ReadReply([bytes(size), b"one more"], release)


def test_a_reply_the_kernel_refuses_ends_in_eio() -> None:
    fs = TooMuch()
    fs.put("file", b"x" * 100)
    with served(fs) as path:
        with pytest.raises(OSError) as caught:
            (path / "file").read_bytes()
        assert caught.value.errno == errno.EIO
        assert fs.released >= 1


class Pieces(MemFs):
    released = 0

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        def release() -> None:
            self.released += 1

        data = self._nodes[node].data[offset : offset + size]
        return ReadReply([bytes(data[i : i + 10]) for i in range(0, len(data), 10)], release)


def test_a_read_of_many_buffers_is_put_together() -> None:
    fs = Pieces()
    data = os.urandom(30_001)
    fs.put("file", data)
    with served(fs) as path:
        assert (path / "file").read_bytes() == data
    assert fs.released >= 1


def test_attributes_of_a_handle_are_asked_with_the_handle() -> None:
    handles: list[int | None] = []

    class Watching(MemFs):
        def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
            handles.append(fh)
            return super().getattr(caller, node, fh)

    with served(Watching(ttl_s=0.0)) as path, open(path / "file", "wb") as f:
        handles.clear()
        os.fstat(f.fileno())
        assert handles
