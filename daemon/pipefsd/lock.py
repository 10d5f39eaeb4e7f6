"""The lock that makes a supervisor the only one of its home.

The lock is the kernel's (flock) and goes with the process, so there are no stale ones; the pid in
the file is for people. Forked workers must not keep the descriptor (see `children`): a worker
that outlived its supervisor would otherwise keep the next one out.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pipefs.errors import Busy


class AlreadyRunning(Busy):
    """Another supervisor serves this home; `pid` as it wrote it, 0 when it had not yet."""

    def __init__(self, pid: int, path: Path) -> None:
        who = f"pid {pid}" if pid else "pid not known yet"
        super().__init__(
            f"another pipefsd already serves this home ({who}, lock {path})",
            hint="Talk to it with pipefs mount, umount, status. One that a mount command started "
            "ends by itself after: pipefs [--system] umount --all",
        )
        self.pid = pid


def acquire_lock(path: Path) -> int:
    """Take the lock and write our pid; returns the descriptor to keep open.

    Raises:
        AlreadyRunning: somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.read(descriptor, 32).strip()
        os.close(descriptor)
        raise AlreadyRunning(int(text) if text.isdigit() else 0, path) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
