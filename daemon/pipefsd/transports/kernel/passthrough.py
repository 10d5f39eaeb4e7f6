"""Backing files: lets the kernel read and write a complete staging file without asking us.

One backing id per inode while any handle of it is open (the kernel insists), counted here.
Whether a file may be passed through is the filesystem's decision (`Opened.backing_fd`); if the
kernel refuses, the open goes on as an ordinary one. Never owns or closes the backing descriptor.
"""

from __future__ import annotations

import array
import fcntl
import logging
import threading
from collections.abc import Callable

import msgspec

from pipefsd.transports.kernel import wire

_log = logging.getLogger(__name__)


class Backing(msgspec.Struct):
    """One inode in passthrough mode: the kernel's id for its file, and the handles that use it."""

    node: int
    backing_id: int
    handles: list[int]


class BackingTable:
    """Backing ids by node. Thread safe; `_lock` protects both tables and is held over the ioctl,
    so that two opens of one inode never register two ids."""

    def __init__(
        self,
        fd: int,
        *,
        restored: list[Backing] | None = None,
        record: Callable[[list[Backing]], None] | None = None,
    ) -> None:
        """`restored` is what a worker before this one recorded; `record` gets the whole table,
        under the lock, before the reply that makes a change visible."""
        self._fd = fd
        self._lock = threading.Lock()
        self._by_node = {b.node: b for b in restored or ()}
        self._record = record

    def attach(self, node: int, fh: int, backing_fd: int) -> int:
        """Backing id for handle `fh` of `node`; 0 if the kernel will not have it."""
        with self._lock:
            backing = self._by_node.get(node)
            if backing is None:
                request = bytearray(wire.BACKING_MAP.pack(backing_fd, 0, 0))
                try:
                    backing_id = fcntl.ioctl(self._fd, wire.IOC_BACKING_OPEN, request)
                except OSError as e:
                    # Another FUSE or overlay below it, or no CAP_SYS_ADMIN: slower, not broken.
                    _log.info("no passthrough for node %d: %s", node, e)
                    return 0
                backing = self._by_node[node] = Backing(node, backing_id, [])
            backing.handles.append(fh)
            self._save()
            return backing.backing_id

    def detach(self, node: int, fh: int) -> None:
        """Handle `fh` was released; the last one gives the id back. Others' handles: no effect."""
        if not self._by_node:
            return
        with self._lock:
            backing = self._by_node.get(node)
            if backing is None or fh not in backing.handles:
                return
            backing.handles.remove(fh)
            if not backing.handles:
                del self._by_node[node]
                self._close(backing.backing_id)
            self._save()

    def _close(self, backing_id: int) -> None:
        try:
            fcntl.ioctl(self._fd, wire.IOC_BACKING_CLOSE, array.array("I", [backing_id]))
        except OSError as e:
            _log.warning("backing id %d was not given back: %s", backing_id, e)

    def _save(self) -> None:
        if self._record is not None:
            self._record(list(self._by_node.values()))
