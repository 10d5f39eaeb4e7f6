"""Folders in memory, for tests whose many small files need not survive anything.

A random walk makes and removes thousands of them, and a slow disk would be most of its time. What
such a test kills are processes: what the kernel has is left, on every file system alike.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_SHM = "/dev/shm"
_ENOUGH_BYTES = 2 << 30


def ram_folder(prefix: str) -> Path:
    """A new folder in memory, the caller's to remove; on disk where memory is scarce."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_SHM if _has_room() else None))


def _has_room() -> bool:
    """Whether the file system in memory can grow and the machine has that memory too."""
    try:
        status = os.statvfs(_SHM)
        memory = Path("/proc/meminfo").read_text()
    except OSError:
        return False
    (available,) = (line.split()[1] for line in memory.splitlines() if "MemAvailable" in line)
    free = min(status.f_bavail * status.f_frsize, int(available) * 1024)
    return free >= _ENOUGH_BYTES
