"""What all requests to a mounted pipe share: nodes and attributes, who may write, what is open."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable

from pipefs import acl
from pipefs.records import NO_MODE, Inode
from pipefs.replies import Reply
from pipefs.volume import Volume
from pipefsd.modes import Modes
from pipefsd.nodes import ino_of, node_id
from pipefsd.notices import Notices
from pipefsd.ownership import Ownership
from pipefsd.readers import Readers
from pipefsd.transports.base import (
    Attr,
    Caller,
    Entry,
)

CACHE_S = 3600.0
"""How long the kernel keeps names and attributes unless told otherwise."""


def set_id_cleared(node: Inode) -> int | None:
    """Permission bits without the set-id bits; None: there are none, or it is a directory."""
    cleared = node.mode & ~stat.S_ISUID
    if node.mode & stat.S_IXGRP:
        cleared &= ~stat.S_ISGID
    return stat.S_IMODE(cleared) if not node.is_dir and cleared != node.mode else None


class Serving:
    """Base of the request classes.

    Args:
        read_only: why writing is refused (for the log), or "" when it is allowed.
        same_mount: an earlier worker served this mount; handles of it may be open.
    """

    def __init__(
        self,
        volume: Volume,
        ownership: Ownership,
        *,
        read_only: Callable[[], str],
        same_mount: bool = False,
    ) -> None:
        self._volume = volume
        self.ownership = ownership
        self._read_only = read_only
        self._inherited = same_mount
        self._acls = False
        """The kernel enforces access lists; known from `start` on."""
        self._handles = itertools.count(time.time_ns() // 1000)
        self._forgets = False
        """The kernel says which nodes it forgets; known from `start` on."""
        self._orphans: set[int] = set()
        """Without a name, and not forgotten by the kernel yet."""
        self._opens: dict[int, int] = {}
        self._opens_lock = threading.Lock()
        self.modes = Modes()
        self._readers = Readers()
        self._notices: Notices | None = None
        self.requests = 0
        """Served so far of those that make work; only the dispatcher counts, so about."""

    def _attr(self, node: Inode, epoch: int | None = None) -> Attr:
        size = node.size
        if epoch is not None and epoch != node.epoch:
            size = self._volume.size_at(node.ino, epoch, size)
        if self.modes.on and node.is_file:
            self.modes.told(node_id(node.ino, node.epoch), node.mtime_ns, node.mode)
        uid, gid = self.ownership.shown(node.uid, node.gid)
        mode = node.mode
        if mode & NO_MODE:
            mode = mode & ~NO_MODE & ~self.ownership.umask
        if node.xattrs and not self._acls:
            mode = acl.mode_without(node.xattrs, mode)
        return Attr(
            ino=node.ino,
            mode=mode,
            nlink=node.nlink,
            uid=uid,
            gid=gid,
            size=size,
            mtime_ns=node.mtime_ns,
            ctime_ns=node.ctime_ns,
            atime_ns=node.atime_ns or node.mtime_ns,
            rdev=node.rdev,
            blocks=self._blocks(node, size) if size == node.size else -(-size // 512),
        )

    def _blocks(self, node: Inode, size: int) -> int:
        """What stat(2) shows as taken, in units of 512 bytes."""
        return -(-size // 512)

    def _entry(self, node: Inode) -> Entry:
        epoch = 0 if node.is_dir else node.epoch
        return Entry(node_id(node.ino, epoch), self._attr(node), CACHE_S, CACHE_S)

    def _inode(self, node: int) -> Inode:
        return self._volume.inode(ino_of(node))

    def _writable(self) -> None:
        if self._read_only():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _answered(self, caller: Caller) -> Reply | None:
        """What an earlier worker did for this request, if it comes again."""
        return self._volume.replies.earlier(caller.unique) if caller.resent else None

    def orphaned(self, node: Inode) -> None:
        """A name went: the inode goes too when nobody can ask for it any more. A kernel that says
        what it forgets may still be on its way to open it, or stand in it as a directory."""
        with self._opens_lock:
            if self._forgets:
                self._orphans.add(node.ino)
            still_open = self._inherited or self._opens.get(node.ino, 0) > 0
        if not still_open and not self._forgets:
            self._volume.forget_orphan(node.ino)

    def _forgotten(self, ino: int) -> None:
        """The kernel has no handle, mapping or name of this inode any more."""
        with self._opens_lock:
            # A node of an earlier content may go while the file is open by another.
            if ino not in self._orphans or self._opens.get(ino, 0) > 0:
                return
            self._orphans.discard(ino)
        self._volume.forget_orphan(ino)

    def _opened(self, ino: int) -> None:
        with self._opens_lock:
            self._opens[ino] = self._opens.get(ino, 0) + 1

    def _closed(self, ino: int) -> None:
        """A handle went: the last one of an inode without a name takes it along."""
        with self._opens_lock:
            left = self._opens.get(ino, 1) - 1
            if left > 0:
                self._opens[ino] = left
            else:
                self._opens.pop(ino, None)
        if left <= 0 and not self._inherited and not self._forgets:
            self._volume.forget_orphan(ino)

    def _ids_for_new(self, caller: Caller, parent: int, mode: int) -> tuple[int, int, int]:
        """(uid, gid, mode) of something new, from the mode asked for: a set-gid directory hands
        down its group, and the umask counts unless the directory has a default access list."""
        directory = self._inode(parent)
        mode = acl.new_mode(directory.xattrs, mode, caller.umask)
        if directory.mode & stat.S_ISGID:
            _, shown = self.ownership.shown(directory.uid, directory.gid)
            return caller.uid, shown, mode
        return caller.uid, caller.gid, mode
