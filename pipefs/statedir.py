"""The directory of a pipe's state as a whole: who holds it, moving a damaged one aside.

Promises that one process at a time has it open, and that nothing damaged is ever deleted. Knows
nothing of what the tables hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any

from pipefs.errors import Busy, Corrupt
from pipefs.journal import fsync_directory

LOCK_FILE = "lock"


def lock(directory: Path) -> int:
    """Take the lock of `directory`, which is made if need be; a descriptor for `unlock`.

    Raises Busy, with the pid of the holder.
    """
    _make_durable(directory)
    fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Busy(
            f"the state in {directory} is in use by process {pid}",
            hint="stop that process, or talk to it",
        ) from None
    except BaseException:
        os.close(fd)
        raise
    with contextlib.suppress(OSError):  # a full disk: the lock holds, only the pid is not known
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def unlock(fd: int) -> None:
    """Give the lock back; the file stays, removing it would let two processes lock two files."""
    os.close(fd)


def quarantine(directory: Path) -> Path:
    """Move a damaged state aside, whole, under a name with the time (UTC); its new place.

    Raises Busy if a process has it open.
    """
    fd = lock(directory)
    try:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = directory.with_name(f"{directory.name}.damaged-{stamp}")
        number = 1
        while target.exists():
            number += 1
            target = directory.with_name(f"{directory.name}.damaged-{stamp}-{number}")
        directory.rename(target)
        fsync_directory(directory.parent)
    finally:
        unlock(fd)
    return target


def check_length(directory: Path, env: Any) -> None:
    """Refuse a database file that was cut: reading behind its end would kill the process.

    LMDB leaves out pages at the end that were used and freed within one transaction, so a file
    that is a little shorter than its last page number says can be whole. It is then made longer,
    and read from end to end once: a page that is really missing is found by its zeros.
    """
    path = directory / "data.mdb"
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if path.stat().st_size >= needed:
        return
    os.truncate(path, needed)
    with env.begin() as txn:
        names = [bytes(name) for name, _ in txn.cursor()]
    for name in names:
        with env.begin() as txn:
            handle = env.open_db(name, txn=txn, create=False)
            entries = txn.stat(handle)["entries"]
            if sum(1 for _ in txn.cursor(handle)) != entries:
                raise Corrupt(f"{path} was cut: table {name.decode()} is not whole")


def _make_durable(directory: Path) -> None:
    """Make `directory` and its ancestors, and sync the names that are new."""
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        fsync_directory(path.parent)
