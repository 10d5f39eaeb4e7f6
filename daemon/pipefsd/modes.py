"""Which files the kernel serves itself: the I/O mode of each node.

The kernel opens a node either *cached* (it asks us and keeps pages) or *passed through* (it reads
and writes the staging file alone), never both at once: the other kind of open fails with EIO. So
the first open decides, and the mode lasts until the last release. Here are the open handles of
each node, and after a passthrough period the pages that the kernel may hold from before it.

After a worker was replaced, only the handles that were passed through are known (they are
recorded). Any other node that existed then may be open in cached mode, so it stays cached.
"""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipefsd.nodes import ino_of

Offer = Callable[[bool], int]
"""Asked for a descriptor to pass through: with whether it must be (the node is in that mode).
Returns -1 if there is none."""


UNTOLD = -1


@dataclass(slots=True)
class Open:
    """A node that is open."""

    passed: bool
    handles: set[int]
    told_ns: int = 0
    """The mtime that the kernel was last told of; 0: before it was opened; UNTOLD: of a file made
    by this open, which is empty until write(2) makes the kernel forget it."""
    set_id: bool = False
    """It got a set-id bit while it was open."""


class Modes:
    """Thread-safe. `_lock` is held while an offer is asked for, so that a node's first open has
    decided before its second one looks; what an offer takes (the file's lock) comes below it."""

    def __init__(self) -> None:
        self.on = False
        """The kernel passes files through. Set before the first request."""
        self._lock = threading.Lock()
        self._open: dict[int, Open] = {}
        self._unknown_below = 0
        self._doubtful = bytearray()
        """A bit an inode: pages of it may be older than its bytes."""

    def take_over(self, unknown_below: int, passed: Iterable[tuple[int, int]]) -> None:
        """An earlier worker served this mount: inodes below that number may be open already, and
        these (node, handle) are passed through."""
        self._unknown_below = unknown_below
        self._doubtful = bytearray(b"\xff") * (unknown_below // 8 + 1)
        for node, handle in passed:
            self._open.setdefault(node, Open(True, set())).handles.add(handle)

    def enter(
        self, node: int, handle: int, offer: Offer, *, made: bool = False
    ) -> tuple[int, bool]:
        """A handle is about to be opened; `made`: of a file that the same request made.

        Returns:
            The descriptor to pass through, or -1 for a cached open; and whether that may keep the
            kernel's pages.
        """
        if not self.on:
            return -1, True
        with self._lock:
            entry = self._open.get(node)
            if entry is not None:
                fd = offer(True) if entry.passed else -1
                if entry.passed and fd < 0:
                    # The kernel would fail a cached open; this way the log says what is wrong.
                    raise OSError(errno.EIO, "the file that is passed through cannot be found")
                entry.handles.add(handle)
                return fd, entry.passed or self._may_keep(node)
            fd = -1 if ino_of(node) < self._unknown_below else offer(False)
            self._open[node] = Open(fd >= 0, {handle}, UNTOLD if made else 0)
            if fd >= 0:
                self._doubt(node)
            return fd, fd >= 0 or self._may_keep(node)

    def has(self, node: int, handle: int) -> bool:
        """Whether a handle is known already."""
        entry = self._open.get(node)
        return entry is not None and handle in entry.handles

    def refused(self, node: int) -> None:
        """The kernel would not pass the first handle of this node through."""
        with self._lock:
            entry = self._open.get(node)
            if entry is not None and len(entry.handles) == 1:
                entry.passed = False

    def leave(self, node: int, handle: int) -> Open | None:
        """A handle was released; what its node was, if it was passed through."""
        with self._lock:
            entry = self._open.get(node)
            if entry is None or handle not in entry.handles:
                return None
            entry.handles.discard(handle)
            if not entry.handles:
                del self._open[node]
            return entry if entry.passed else None

    def told(self, node: int, mtime_ns: int, mode: int) -> None:
        """The kernel is told these attributes of the node."""
        entry = self._open.get(node)
        if entry is not None:
            entry.told_ns = mtime_ns
            entry.set_id = entry.set_id or bool(mode & (stat.S_ISUID | stat.S_ISGID))

    # --- the kernel's pages -------------------------------------------------------------------

    def _doubt(self, node: int) -> None:
        """The kernel's pages of this inode grow old from here on."""
        byte = ino_of(node) >> 3
        if byte >= len(self._doubtful):
            self._doubtful += bytes(byte + 4096 - len(self._doubtful))
        self._doubtful[byte] |= 1 << (ino_of(node) & 7)

    def _may_keep(self, node: int) -> bool:
        """Whether a cached open may keep pages; the one that may not drops them."""
        byte, bit = ino_of(node) >> 3, 1 << (ino_of(node) & 7)
        if byte >= len(self._doubtful) or not self._doubtful[byte] & bit:
            return True
        self._doubtful[byte] &= ~bit
        return False
