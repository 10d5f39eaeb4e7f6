"""Whether a staging folder's disk tells enough for passthrough.

With passthrough nobody sees a staging file written, so the disk must answer two questions later:
whether a file has changed (its ctime, also after a write by mmap, which tmpfs does not record), and
whether somebody has it open or mapped (a lease). Tried on a file of our own, once a start.
"""

from __future__ import annotations

import logging
import mmap
import os
import time

from pipefs.staging import StagingArea

_TICK_S = 0.012
"""Longer than a tick of any kernel's clock."""
_ROUNDS = 4


log = logging.getLogger(__name__)


def may_pass(staging: StagingArea, wanted: str = "auto") -> bool:
    """Whether files of this folder may be passed through (setting `passthrough`); if they cannot,
    the log says why. Sets `StagingArea.fine_times`. Takes some 15 ms."""
    if wanted == "off":
        return False
    reason = _why_not(staging)
    if reason:
        log.warning("no passthrough: %s", reason)
    return not reason


def _why_not(staging: StagingArea) -> str:
    path = str(staging.directory / f"spare-try-{os.getpid():x}")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            return _try(staging, path, fd)
        finally:
            os.unlink(path)
            os.close(fd)
    except OSError as e:
        return f"{staging.directory}: {e}"


def _try(staging: StagingArea, path: str, fd: int) -> str:
    os.truncate(path, mmap.PAGESIZE)
    seen = set()
    for n in range(_ROUNDS):
        os.pwrite(fd, bytes([n]), 0)
        seen.add(os.fstat(fd).st_ctime_ns)
    staging.fine_times = len(seen) == _ROUNDS
    before = os.fstat(fd).st_ctime_ns
    time.sleep(_TICK_S)
    os.fdatasync(fd)  # a page that is dirty already is not noticed when it is written again
    with mmap.mmap(fd, mmap.PAGESIZE) as page:
        # Read first: where the kernel then lets the write through as well, nothing is recorded.
        page[0] = 255 - page[0]
    if os.fstat(fd).st_ctime_ns == before:
        return f"the disk of {staging.directory} does not record when a mapping was written"
    if not staging.in_use(path, readers=False) or not staging.in_use(path):
        return f"the disk of {staging.directory} does not tell who has a file open"
    return ""
