"""Promises about locks: between processes of this machine, and through a replaced worker."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted import eventually
from tests.promises.conftest import Mounted
from tests.promises.promised import Twin, on_kernel, opened, promise, tried

_OFD_GETLK, _OFD_SETLK = 36, 37
_FLOCK = struct.Struct("hhqqi4x")

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == 'flock':
    fcntl.flock(fd, fcntl.LOCK_EX)
else:
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)
print('held', flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-ISc", HOLDER, path, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate(timeout=30)


@promise(
    "flock",
    "`flock` locks are shared or exclusive between open handles of this machine, wait or are "
    "`EAGAIN`, and end with their last handle.",
)
def test_flock_keeps_others_out(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.touch()
        answers = []
        with opened(path, os.O_RDWR) as one, opened(path, os.O_RDONLY) as two:
            with holder(path, "flock"):
                answers.append(tried(fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB))
                answers.append(tried(fcntl.flock, one, fcntl.LOCK_SH | fcntl.LOCK_NB))
            fcntl.flock(one, fcntl.LOCK_SH)
            answers.append(tried(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB))
            answers.append(tried(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB))
            fcntl.flock(one, fcntl.LOCK_UN)
            answers.append(tried(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB))
        script = f"exec 9<>{path}; flock 9; n=$(cat {folder}/n); echo $((n + 1)) > {folder}/n"
        (folder / "n").write_text("0")
        counters = [subprocess.Popen(["sh", "-c", script]) for _ in range(6)]
        assert [c.wait(60) for c in counters] == [0] * 6
        return answers, (folder / "n").read_text()

    assert twin.same(act) == (["EAGAIN", "EAGAIN", None, "EAGAIN", None], "6\n")


@promise(
    "posix-locks",
    "`fcntl` locks (of a process, and `F_OFD_SETLK` of a handle) keep ranges of bytes between "
    "processes of this machine, and `F_GETLK` tells who has one.",
)
def test_fcntl_locks_keep_ranges(twin: Twin) -> None:
    def act(folder: Path) -> object:
        path = folder / "x"
        path.write_bytes(bytes(1000))
        nonblocking = fcntl.LOCK_EX | fcntl.LOCK_NB
        with opened(path, os.O_RDWR) as fd, opened(path, os.O_RDWR) as other:
            with holder(path, "posix") as process:
                answers = [
                    tried(fcntl.lockf, fd, nonblocking, 10, 100),
                    tried(fcntl.lockf, fd, nonblocking, 1, 109),
                    tried(fcntl.lockf, fd, nonblocking, 100, 0),
                    tried(fcntl.lockf, fd, nonblocking, 0, 110),
                ]
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, _, start, length, pid = _FLOCK.unpack(
                    fcntl.fcntl(other, fcntl.F_GETLK, asked)
                )
                told = kind == fcntl.F_WRLCK, start, length, pid == process.pid
            answers.append(tried(fcntl.lockf, fd, nonblocking, 10, 100))
            fcntl.lockf(fd, fcntl.LOCK_UN)
            mine = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 500, 10, 0)
            fcntl.fcntl(fd, _OFD_SETLK, mine)
            answers.append(tried(fcntl.fcntl, other, _OFD_SETLK, mine))
        return answers, told

    answers, told = twin.same(act)
    assert answers == ["EAGAIN", "EAGAIN", None, None, None, "EAGAIN"]
    assert told == (True, 100, 10, True)


@promise(
    "locks-replaced-worker",
    "Locks are held, and their waiters go on waiting, while a killed worker is replaced.",
)
@on_kernel
def test_locks_survive_a_killed_worker(mounted: Mounted, twin: Twin) -> None:
    path = twin.ours / "x"
    path.write_bytes(bytes(1000))
    home = mounted.home
    with opened(path, os.O_RDWR) as fd, holder(path, "posix"), holder(path, "flock"):
        waiter = subprocess.Popen(["flock", path, "true"])
        worker = home.status("p")["pid"]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in home.processes(), "the worker is gone")
        os.pwrite(fd, b"served again", 0)
        nonblocking = fcntl.LOCK_EX | fcntl.LOCK_NB
        assert tried(fcntl.lockf, fd, nonblocking, 10, 100) == "EAGAIN"
        assert tried(fcntl.flock, fd, nonblocking) == "EAGAIN"
        assert waiter.poll() is None
    assert waiter.wait(30) == 0
    assert path.read_bytes()[:12] == b"served again"
