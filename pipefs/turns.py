"""One at a time, among threads and processes: a file lock that is waited for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipefs.errors import Busy

_SHORTEST_S = 0.002
_LONGEST_S = 0.05


@contextlib.contextmanager
def turn(file: Path, wait_s: float, what: str) -> Iterator[None]:
    """Hold the lock of a file (made if it is not there) for the block; two threads of a process
    exclude each other as well.

    Args:
        what: names in the error what is locked.
    Raises:
        Busy: somebody has it for longer than `wait_s`; the message names the process.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(fd, wait_s, what)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            # Said, not only closed: a process that was forked meanwhile has the file open too.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _take(fd: int, wait_s: float, what: str) -> None:
    deadline, pause_s = time.monotonic() + wait_s, _SHORTEST_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                raise Busy(
                    f"{what} is in use by process {pid}", hint="Try again when it has ended"
                ) from None
        time.sleep(pause_s)
        pause_s = min(_LONGEST_S, 1.5 * pause_s)
