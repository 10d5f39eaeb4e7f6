"""Holes and reservations of one local file, which may lack blocks that are elsewhere.

What fallocate(2) and lseek(2) do to a descriptor, with something equal where the disk's file
system cannot. Promises that a range asked to be zero reads as zeros afterwards, and that nothing
is called a hole which may be data. Knows nothing of stores and marks; never waits for a network.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache

from pipefs.types import BLOCK_SIZE_BYTES

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

MODES = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
"""What `allocate` takes. Moving bytes within a file (COLLAPSE, INSERT) is not among them."""

_ZEROS = bytes(BLOCK_SIZE_BYTES)
_LACKING = (errno.EOPNOTSUPP, errno.ENOSYS)


@cache
def _libc_fallocate() -> Callable[[int, int, int, int], int] | None:
    """fallocate(2), or None on systems that have none."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    call = _libc_fallocate()
    code = errno.ENOSYS
    while call is not None:
        if call(fd, mode, offset, length) == 0:
            return
        code = ctypes.get_errno()
        if code != errno.EINTR:
            break
    raise OSError(code, os.strerror(code))


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with one of `MODES`; the file's time of change is now.

    Raises:
        OSError: ENOSPC, EFBIG; EOPNOTSUPP where the disk's file system cannot reserve space.
    """
    try:
        _fallocate(fd, mode, offset, length)
    except OSError as e:
        if e.errno not in _LACKING:
            raise
        if mode & PUNCH_HOLE:
            _write_zeros(fd, offset, min(offset + length, os.fstat(fd).st_size))
        elif mode & ZERO_RANGE:
            allocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            allocate(fd, mode & KEEP_SIZE, offset, length)
        else:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from e
    os.utime(fd)  # some file systems leave the times alone


def _write_zeros(fd: int, offset: int, stop: int) -> None:
    while offset < stop:
        offset += os.pwrite(fd, _ZEROS[: min(len(_ZEROS), stop - offset)], offset)


# --- data and holes ---------------------------------------------------------------------------


class Gaps:
    """Blocks of a file's first `size` bytes whose bytes are elsewhere: neither data nor holes
    here, and data to whoever asks.

    Args:
        present: bitmap of the blocks that are here; None: all are.
    """

    def __init__(self, present: bytes | None, size: int) -> None:
        self._present = present
        self._size = size if present is not None else 0

    def starts_at(self, offset: int) -> int | None:
        """The first byte of a gap at or after `offset`."""
        found = self._find(offset, present=False)
        return max(offset, found) if found is not None else None

    def ends_at(self, offset: int) -> int:
        """`offset` itself outside of gaps, else the first byte after the gap."""
        if self.starts_at(offset) != offset:
            return offset
        found = self._find(offset, present=True)
        return found if found is not None else self._size

    def _find(self, offset: int, *, present: bool) -> int | None:
        """Start of the block at or after that of `offset` which is (not) here."""
        bitmap = self._present
        if bitmap is None or offset >= self._size:
            return None
        block, stop = offset // BLOCK_SIZE_BYTES, -(-self._size // BLOCK_SIZE_BYTES)
        dull = 0x00 if present else 0xFF
        while block < stop:
            byte = bitmap[block // 8] if block // 8 < len(bitmap) else 0
            if byte == dull:
                block = (block // 8 + 1) * 8
            elif bool(byte >> (block % 8) & 1) is present:
                return block * BLOCK_SIZE_BYTES
            else:
                block += 1
        return None


def data_from(fd: int, offset: int, gaps: Gaps) -> int | None:
    """SEEK_DATA: the first byte of data at or after `offset`; None: only a hole follows."""
    try:
        here = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
        return gaps.starts_at(offset)
    gap = gaps.starts_at(offset)
    return here if gap is None else min(here, gap)


def hole_from(fd: int, offset: int, size: int, gaps: Gaps) -> int:
    """SEEK_HOLE: the first byte of a hole at or after `offset`, which lies below `size`; the end
    of the file counts as one."""
    while offset < size:
        past = gaps.ends_at(offset)
        if past == offset:
            past = os.lseek(fd, offset, os.SEEK_HOLE)
            if gaps.ends_at(past) == past:
                return past
        offset = past
    return size
