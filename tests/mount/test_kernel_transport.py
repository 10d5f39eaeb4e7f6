"""The /dev/fuse transport on real kernel mounts, with a filesystem in memory behind it.

Needs root (one test drops it). Each test mounts in a folder of its own; whatever
goes wrong, the connection is aborted and the mount taken away at the end.

Where a test serves from a thread of its own process, no child may be started while a file of the
mount is open here: the child's close would wait for a FLUSH that this process cannot answer while
it forks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pipefs.errors import AlreadyExists, Busy, Corrupt, NotFound, Refused, UsageError
from pipefsd.transports.base import Attr, Caller, Entry, Opened, ReadReply
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.passthrough import Backing
from pipefsd.transports.kernel.session import KernelSession, Negotiated
from tests.mount.memfs import MemFs

MIB = 1 << 20
WAIT_S = 20.0
_libc = ctypes.CDLL(None, use_errno=True)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@contextmanager
def folder() -> Iterator[Path]:
    """An empty directory, freed of any mount and removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="pipefs test "))
    try:
        yield path
    finally:
        while mounting.is_mounted(path) is not None:
            mounting.abort(mounting.connection_id(path))
            mounting.unmount(path, lazy=True)
        path.rmdir()


@contextmanager
def bare_mount() -> Iterator[tuple[Path, int]]:
    with folder() as path:
        fd = mounting.mount(path, fsname="a, pipe", allow_other=True)
        try:
            assert mounting.set_readahead(path)
            yield path, fd
        finally:
            if mounting.is_mounted(path) is not None:
                mounting.abort(mounting.connection_id(path))
            os.close(fd)


class Serving:
    """A session in a thread."""

    def __init__(self, session: KernelSession) -> None:
        self.session = session
        self.reason = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.reason = self.session.run()

    def join(self) -> str:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "run() did not return"
        return self.reason


@contextmanager
def served(fs: MemFs, *, pool_threads: int = 8) -> Iterator[Path]:
    with bare_mount() as (path, fd):
        serving = Serving(KernelSession(fd, fs, pool_threads=pool_threads))
        try:
            yield path
        finally:
            fs.gate = None
            if mounting.is_mounted(path) is not None:
                mounting.abort(mounting.connection_id(path))
            serving.join()


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def work() -> None:
        try:
            results.append(call())
        except OSError as e:
            results.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results


def renameat2(old: Path, new: Path, flags: int) -> int:
    """0, or the errno."""
    failed = _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)
    return ctypes.get_errno() if failed else 0


# --- everyday operations -------------------------------------------------------------------


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


# --- size and number of requests -----------------------------------------------------------


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


# --- notifications -------------------------------------------------------------------------


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


# --- waiting -------------------------------------------------------------------------------


def test_a_blocked_read_does_not_hold_up_others() -> None:
    fs = MemFs()
    cold = fs.put("cold", b"from far away")
    fs.put("warm", b"at hand")
    closed = threading.Event()
    fs.gate = lambda node: node == cold and not closed.is_set()
    with served(fs) as path:
        thread, results = in_thread((path / "cold").read_bytes)
        until(lambda: fs.waiting == 1)
        assert (path / "warm").read_bytes() == b"at hand"
        assert (path / "cold").stat().st_size == 13
        assert sorted(os.listdir(path)) == ["cold", "warm"]
        assert not results
        closed.set()
        thread.join(WAIT_S)
        assert results == [b"from far away"]


def test_more_blocked_reads_than_threads_are_queued() -> None:
    fs = MemFs()
    nodes = {fs.put(f"cold{i}", b"%d" % i) for i in range(6)}
    opened = threading.Event()
    fs.gate = lambda node: node in nodes and not opened.is_set()
    with served(fs, pool_threads=2) as path:
        readers = [in_thread((path / f"cold{i}").read_bytes) for i in range(6)]
        until(lambda: fs.waiting == 2)
        (path / "still serving").touch()
        opened.set()
        for i, (thread, results) in enumerate(readers):
            thread.join(WAIT_S)
            assert results == [b"%d" % i]


def test_a_signal_ends_a_blocked_read() -> None:
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
    with served(fs) as path:
        reader = subprocess.Popen([sys.executable, "-c", script, path / "cold"])
        until(lambda: fs.waiting == 1)
        reader.send_signal(signal.SIGUSR1)
        assert reader.wait(WAIT_S) == 7
        assert fs.interrupted == 1


# --- errors --------------------------------------------------------------------------------


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


# --- lifetimes -----------------------------------------------------------------------------


def test_unmounting_ends_the_session() -> None:
    fs = MemFs()
    with bare_mount() as (path, fd):
        serving = Serving(KernelSession(fd, fs))
        (path / "file").touch()
        mounting.unmount(path)
        assert serving.join() == "unmounted"
        assert fs.stopped.is_set()
        serving.session.stop()  # too late, and harmless


def test_aborting_ends_the_session_and_leaves_a_dead_mount() -> None:
    fs = MemFs()
    with bare_mount() as (path, fd):
        serving = Serving(KernelSession(fd, fs))
        until(lambda: os.listdir(path) == [])
        assert not mounting.is_dead(path)
        assert mounting.abort(mounting.connection_id(path))
        assert serving.join() == "aborted"
        assert mounting.is_dead(path)
        with pytest.raises(Busy, match="dead mount"):
            mounting.mount(path, fsname="again", allow_other=False)


def test_aborting_interrupts_what_waits() -> None:
    fs = MemFs()
    fs.put("cold", b"never")
    fs.gate = lambda node: True
    with bare_mount() as (path, fd):
        serving = Serving(KernelSession(fd, fs))
        thread, results = in_thread((path / "cold").read_bytes)
        until(lambda: fs.waiting == 1)
        mounting.abort(mounting.connection_id(path))
        assert serving.join() == "aborted"
        thread.join(WAIT_S)
        assert isinstance(results[0], OSError)
        assert fs.interrupted >= 1


def test_a_stopped_session_leaves_the_mount_to_the_next() -> None:
    fs = MemFs()
    with bare_mount() as (path, fd):
        agreed: list[Negotiated] = []
        first = Serving(KernelSession(fd, fs, on_negotiated=agreed.append))
        (path / "file").write_bytes(b"content")
        first.session.stop()
        assert first.join() == "stopped"
        assert not fs.stopped.is_set()
        thread, results = in_thread((path / "file").read_bytes)
        second = Serving(KernelSession(fd, fs, negotiated=agreed[0]))
        thread.join(WAIT_S)
        assert results == [b"content"]
        mounting.unmount(path)
        assert second.join() == "unmounted"


READER = """
import os, pathlib, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
pathlib.Path(sys.argv[2]).touch()
data = os.read(fd, 1 << 21) + os.read(fd, 10)
os.close(fd)
sys.exit(data != bytes(range(256)) * 4096)
"""


def _worker(fd: int, files: Path, *more: str) -> subprocess.Popen[bytes]:
    names = [str(files / name) for name in ("record", "gate", "report")]
    script = Path(__file__).with_name("memfs.py")
    return subprocess.Popen([sys.executable, script, str(fd), *names, *more], pass_fds=[fd])


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    worker.wait(WAIT_S)


def test_a_killed_worker_is_replaced_without_the_reader_noticing(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    with bare_mount() as (path, fd):
        first = _worker(fd, tmp_path)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, path / "data", tmp_path / "opened"]
        )
        until((tmp_path / "opened").exists)
        # The read was taken by the first worker, whose gate is shut.
        waiting = Path(f"/sys/fs/fuse/connections/{mounting.connection_id(path)}/waiting")
        until(lambda: waiting.read_text().strip() != "0")
        time.sleep(0.1)
        first.kill()
        first.wait()
        assert reader.poll() is None
        (tmp_path / "gate").unlink()
        second = _worker(fd, tmp_path)
        assert reader.wait(WAIT_S) == 0
        _end(second)
        reason, *resent = (tmp_path / "report").read_text().split()
        assert reason == "stopped"
        assert "read" in resent


@pytest.mark.parametrize("recorded", [True, False])
def test_a_worker_that_dies_before_init_is_answered_is_replaced(
    tmp_path: Path, recorded: bool
) -> None:
    with bare_mount() as (path, fd):
        thread, results = in_thread((path / "data").stat)
        first = _worker(fd, tmp_path, "die")
        assert first.wait(WAIT_S) == 1
        if not recorded:
            (tmp_path / "record").unlink()
        second = _worker(fd, tmp_path)
        thread.join(WAIT_S)
        assert isinstance(results[0], os.stat_result)
        assert results[0].st_size == MIB
        _end(second)


# --- passthrough ---------------------------------------------------------------------------


def test_a_backed_file_is_read_and_written_by_the_kernel_alone(tmp_path: Path) -> None:
    backing = tmp_path / "staged"
    backing.write_bytes(b"staged content")
    fs = MemFs()
    fs.back("file", str(backing))
    with served(fs) as path:
        assert (path / "file").read_bytes() == b"staged content"
        with open(path / "file", "r+b") as one, open(path / "file", "rb") as two:
            one.write(b"STAGED")
            one.flush()
            assert two.read() == b"STAGED content"
        assert backing.read_bytes() == b"STAGED content"
        assert fs.calls["read"] == fs.calls["write"] == 0
        until(lambda: fs.open_handles() == 0)
        assert (path / "file").read_bytes() == b"STAGED content"


def test_passthrough_writes_cause_no_requests(tmp_path: Path) -> None:
    backing = tmp_path / "staged"
    backing.touch()
    fs = MemFs()
    fs.back("file", str(backing))
    with served(fs) as path:
        with open(path / "file", "r+b", buffering=0) as f:
            fs.calls.clear()
            for _ in range(50):
                f.write(b"piece")
            # The kernel asks once for security.capability; without HANDLE_KILLPRIV_V2 each time.
            assert sum(fs.calls.values()) <= 1, fs.calls
        assert backing.stat().st_size == 250


def test_a_recorded_backing_id_serves_the_next_worker(tmp_path: Path) -> None:
    backing = tmp_path / "staged"
    backing.write_bytes(b"staged content")
    fs = MemFs()
    node = fs.back("file", str(backing))
    agreed: list[Negotiated] = []
    table: list[bytes] = []

    def record(state: list[Backing]) -> None:
        table.append(msgspec.json.encode(state))

    with bare_mount() as (path, fd):
        first = KernelSession(fd, fs, on_negotiated=agreed.append, record_backing=record)
        serving = Serving(first)
        with open(path / "file", "rb") as one:
            first.stop()
            assert serving.join() == "stopped"
            kept = msgspec.json.decode(table[-1], type=list[Backing])
            assert [b.node for b in kept] == [node]
            second = KernelSession(
                fd, fs, negotiated=agreed[0], backing=kept, record_backing=record
            )
            serving = Serving(second)
            with open(path / "file", "rb") as two:
                assert one.read() == two.read() == b"staged content"
        until(lambda: table[-1] == b"[]")
        mounting.unmount(path)
        serving.join()


def test_a_file_the_kernel_cannot_pass_through_is_served_ordinarily() -> None:
    fs = MemFs()
    fs.back("file", "/proc/self/status")
    fs._nodes[fs.node_of("file")].attr.size = 5
    fs.open = lambda caller, node, flags: Opened(1, backing_fd=os.pipe()[0])  # type: ignore[method-assign]  # a pipe: never a backing file
    with served(fs) as path:
        assert (path / "file").read_bytes() == b"Name:"
        assert fs.calls["read"] > 0


# --- mounting ------------------------------------------------------------------------------


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
