"""The kernel's passthrough ids, kept for the worker that comes after this one.

The ids live in the connection, which outlives workers, so a new worker must know them: an inode
opened with another id than the one it has gives EIO. A file of fixed slots, one an open handle,
mapped into memory: to record an open is two stores, about a microsecond, and what is stored
survives kill -9. It is only good for one mount on one boot, lies next to the sockets and goes with
the mount. Losing it costs those open files, never data.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
from collections.abc import Iterator

from pipefsd.transports.kernel.passthrough import Passed

log = logging.getLogger(__name__)

_SLOT = struct.Struct("<QQQII")
"""node, handle, request, backing id, 1 if the slot is in use."""
_USED = struct.Struct("<I")
_USED_AT = _SLOT.size - _USED.size
_FIRST_SLOTS = 1024


class BackingRecord:
    """See `transports.kernel.passthrough.Record`. One thread at a time: the table's lock."""

    def __init__(self, path: str, *, fresh: bool) -> None:
        """`fresh`: forget what a mount before this one left there.

        Raises:
            OSError: the file cannot be made; then nothing may be passed through.
        """
        if fresh:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = max(os.fstat(self._file).st_size, _FIRST_SLOTS * _SLOT.size)
            # Allocated: a store into a hole of a full disk would be a SIGBUS.
            os.posix_fallocate(self._file, 0, size)
            self._map = mmap.mmap(self._file, size)
        except BaseException:
            os.close(self._file)
            raise
        self._free = [n for n in range(size // _SLOT.size - 1, -1, -1) if not self._used(n)]

    def _used(self, slot: int) -> int:
        return int(_USED.unpack_from(self._map, slot * _SLOT.size + _USED_AT)[0])

    def rows(self) -> Iterator[tuple[int, Passed]]:
        for slot in range(len(self._map) // _SLOT.size):
            node, fh, unique, backing_id, used = _SLOT.unpack_from(self._map, slot * _SLOT.size)
            if used == 1:
                yield slot, Passed(node, fh, backing_id, unique)

    def put(self, passed: Passed) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        at = slot * _SLOT.size
        _SLOT.pack_into(self._map, at, passed.node, passed.fh, passed.unique, passed.backing_id, 0)
        # In use only once all of it is there: a kill in between leaves a free slot.
        _USED.pack_into(self._map, at + _USED_AT, 1)
        return slot

    def clear(self, slot: int) -> None:
        _USED.pack_into(self._map, slot * _SLOT.size + _USED_AT, 0)
        self._free.append(slot)

    def _grow(self) -> None:
        before = len(self._map)
        os.posix_fallocate(self._file, 0, before * 2)
        self._map.resize(before * 2)
        self._free += range(before * 2 // _SLOT.size - 1, before // _SLOT.size - 1, -1)

    def close(self) -> None:
        self._map.close()
        os.close(self._file)


def open_record(path: str, *, fresh: bool) -> BackingRecord | None:
    """The record of a mount, or None (and a line in the log) where it cannot be had."""
    try:
        return BackingRecord(path, fresh=fresh)
    except OSError as error:
        log.error("no passthrough, its handles cannot be recorded in %s: %s", path, error)
        return None
