"""What waits, what outlives its worker, and files the kernel serves alone, on real mounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipefs.errors import Busy
from pipefsd.backing import BackingRecord
from pipefsd.transports.base import Opened
from pipefsd.transports.kernel import mount as mounting
from pipefsd.transports.kernel.session import KernelSession, Negotiated
from tests.mount.memfs import MemFs
from tests.mount.serving import MIB, WAIT_S, Serving, bare_mount, in_thread, served, until

# --- waiting ---


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


# --- lifetimes ---


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
    script = Path(__file__).with_name("memfs_worker.py")
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


# --- passthrough ---


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
    record = str(tmp_path / "record")

    def rows() -> list[int]:
        return [passed.node for _, passed in BackingRecord(record, fresh=False).rows()]

    with bare_mount() as (path, fd):
        kept = BackingRecord(record, fresh=True)
        first = KernelSession(fd, fs, on_negotiated=agreed.append, record=kept)
        serving = Serving(first)
        with open(path / "file", "rb") as one:
            first.stop()
            assert serving.join() == "stopped"
            assert rows() == [node]
            kept = BackingRecord(record, fresh=False)
            second = KernelSession(fd, fs, negotiated=agreed[0], record=kept)
            serving = Serving(second)
            with open(path / "file", "rb") as two:
                assert one.read() == two.read() == b"staged content"
                assert rows() == [node, node]
        until(lambda: rows() == [])
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
