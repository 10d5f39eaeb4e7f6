"""Backing files: lets the kernel read and write a complete staging file without asking us.

One backing id a node while any handle of it is open (the kernel insists), counted here.
Whether a file may be passed through is the filesystem's decision (`Opened.backing_fd`); if the
kernel refuses, the open goes on as an ordinary one, and the filesystem is told (`Opened.backed`).
Never owns or closes the backing descriptor.
"""

from __future__ import annotations

import array
import fcntl
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pipefsd.transports.base import Opened
from pipefsd.transports.kernel import wire

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Passed:
    """One open handle that the kernel serves itself."""

    node: int
    fh: int
    backing_id: int
    """The kernel's id of the node's file."""
    unique: int = 0
    """Request that opened it: the one that comes again if its answer was lost."""


class Record(Protocol):
    """Where the handles are kept for the worker that comes after this one."""

    def rows(self) -> Iterable[tuple[int, Passed]]:
        """(slot, handle) of each one that an earlier worker put and did not clear."""

    def put(self, passed: Passed) -> int:
        """Keep it, safe from kill -9 when this returns; its slot. OSError: there is no room."""

    def clear(self, slot: int) -> None: ...


@dataclass(slots=True)
class _Node:
    backing_id: int
    slots: dict[int, int]
    """Handle → slot of the record, -1 without one."""


class BackingTable:
    """Backing ids by node. Thread-safe; `_lock` protects the tables and is held over the ioctl,
    so that two opens of one node never register two ids."""

    def __init__(self, fd: int, record: Record | None = None) -> None:
        """What `record` has is taken up: an inode opened with another id than the one it has
        gives EIO. Each handle is in the record before the reply that makes it known."""
        self._fd = fd
        self._record = record
        self._lock = threading.Lock()
        self._nodes: dict[int, _Node] = {}
        self._opened_by: dict[int, Passed] = {}
        for slot, passed in record.rows() if record is not None else ():
            entry = self._nodes.setdefault(passed.node, _Node(passed.backing_id, {}))
            entry.slots[passed.fh] = slot
            self._opened_by[passed.unique] = passed

    def handles(self) -> list[tuple[int, int]]:
        """(node, handle) of all that are passed through."""
        with self._lock:
            return [(node, fh) for node, entry in self._nodes.items() for fh in entry.slots]

    def again(self, node: int, unique: int) -> bytes | None:
        """The reply that an earlier worker was about to give to this OPEN, if it passed the file
        through: all that belongs to the open was done by then."""
        passed = self._opened_by.get(unique)
        if passed is None or passed.node != node:
            return None
        return wire.pack_open(Opened(passed.fh), passed.backing_id)

    def attach(self, node: int, fh: int, backing_fd: int, unique: int = 0) -> int:
        """Backing id for handle `fh` of `node`; 0 if the kernel will not have it."""
        with self._lock:
            entry = self._nodes.get(node)
            if entry is None:
                backing_id = self._register(node, backing_fd)
                if not backing_id:
                    return 0
                entry = _Node(backing_id, {})
            elif fh in entry.slots:
                return entry.backing_id  # a CREATE that comes again
            if not self._keep(entry, Passed(node, fh, entry.backing_id, unique)):
                return 0
            self._nodes[node] = entry
            return entry.backing_id

    def _register(self, node: int, backing_fd: int) -> int:
        request = bytearray(wire.BACKING_MAP.pack(backing_fd, 0, 0))
        try:
            return int(fcntl.ioctl(self._fd, wire.IOC_BACKING_OPEN, request))
        except OSError as e:
            # Another FUSE or overlay below it, or no CAP_SYS_ADMIN: slower, not broken.
            _log.info("no passthrough for node %d: %s", node, e)
            return 0

    def _keep(self, entry: _Node, passed: Passed) -> bool:
        try:
            entry.slots[passed.fh] = self._record.put(passed) if self._record is not None else -1
        except OSError as e:
            # The worker after this one must know of each, or it would open the file otherwise.
            _log.warning("no passthrough for node %d, it cannot be recorded: %s", passed.node, e)
            if not entry.slots:
                self._close(entry.backing_id)
            return False
        return True

    def detach(self, node: int, fh: int) -> None:
        """Handle `fh` was released; the last one gives the id back. Others' handles: no effect."""
        if node not in self._nodes:
            return
        with self._lock:
            entry = self._nodes.get(node)
            slot = entry.slots.pop(fh, None) if entry is not None else None
            if entry is None or slot is None:
                return
            if not entry.slots:
                del self._nodes[node]
                self._close(entry.backing_id)
            if self._record is not None:
                self._record.clear(slot)

    def _close(self, backing_id: int) -> None:
        try:
            fcntl.ioctl(self._fd, wire.IOC_BACKING_CLOSE, array.array("I", [backing_id]))
        except OSError as e:
            _log.warning("backing id %d was not given back: %s", backing_id, e)
