"""The directory of a pipe's state as a whole: who holds it, moving a damaged one aside.

Promises that one process at a time has it open, and that nothing damaged is ever deleted. Knows
nothing of what the tables hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Any

from pipefs.errors import Busy, Corrupt
from pipefs.statedb.journal import fsync_directory

LOCK_FILE = "lock"

# LMDB's first two pages: header 16 bytes, magic, version, address, map size, then two database
# records of 48 bytes, the first of which begins with the page size, last page, transaction id.
_LMDB_META = struct.Struct("<16x 4x4x8x8x I44x 48x QQ")
_LARGEST_BYTES = 1 << 44  # more than any file system of ours takes: the number itself is damaged


def lock(directory: Path) -> int:
    """Take the lock of `directory`, which is made if need be; a descriptor for `unlock`.

    Raises Busy, with the pid of the holder.
    """
    while True:
        _make_durable(directory)
        path = directory / LOCK_FILE
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, fd):
                break
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
        os.close(fd)  # the directory was moved aside between the two calls: take the new one's
    with contextlib.suppress(OSError):  # a full disk: the lock holds, only the pid is not known
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def unlock(fd: int) -> None:
    """Give the lock back; the file stays, removing it would let two processes lock two files."""
    # Said, not only closed: a process that was forked meanwhile has the file open too.
    fcntl.flock(fd, fcntl.LOCK_UN)
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


def is_full(directory: Path) -> bool:
    """Whether the disk of `directory` has next to no room."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize < 1 << 16


def lengthen(directory: Path) -> bool:
    """Make a database file as long as its last page number says; whether it was shorter.

    LMDB maps the file, and reading behind its end would kill the process. It leaves out pages at
    the end that were used and freed within one transaction, so a file that is a little shorter
    can be whole. Call `check_structure` after it was lengthened: a page that is really missing is
    found by its zeros.
    """
    path = directory / "data.mdb"
    try:
        with path.open("rb") as file:
            page_bytes, *first = _LMDB_META.unpack(file.read(_LMDB_META.size))
            file.seek(page_bytes)
            _, *second = _LMDB_META.unpack(file.read(_LMDB_META.size))
            size = os.fstat(file.fileno()).st_size
    except (FileNotFoundError, struct.error):
        return False  # LMDB makes it, or says that it is none of its files
    last_page = max(first, second, key=lambda meta: meta[1])[0]
    needed: int = (last_page + 1) * page_bytes
    if size >= needed or needed > _LARGEST_BYTES:
        return False
    os.truncate(path, needed)
    return True


def check_structure(directory: Path, env: Any) -> None:
    """Read the database from end to end. Raises Corrupt, or LMDB's error, if a page is missing."""
    with env.begin() as txn:
        names = [bytes(name) for name, _ in txn.cursor()]
    for name in names:
        with env.begin() as txn:
            handle = env.open_db(name, txn=txn, create=False)
            entries = txn.stat(handle)["entries"]
            if sum(1 for _ in txn.cursor(handle)) != entries:
                raise Corrupt(f"{directory}/data.mdb was cut: table {name.decode()} is not whole")


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _make_durable(directory: Path) -> None:
    """Make `directory` and its ancestors, and sync the names that are new."""
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        fsync_directory(path.parent)
