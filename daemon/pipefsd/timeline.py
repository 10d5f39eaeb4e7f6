"""A live file system with its past inside: each request goes to whom its node belongs.

`.snapshots` is found by name in every live directory and never listed (with `snapdir=visible`: in
the root). `.versions` is found where no file of the pipe has that name. While a snapshot is
checked out the root shows it, and the live tree is out of sight.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from pipefs import tree
from pipefs.volume import Volume
from pipefsd.filesystem import Filesystem
from pipefsd.nodes import FIRST_PAST, ROOT_NODE, ino_of
from pipefsd.past import Past
from pipefsd.snapdirs import NAME, fail
from pipefsd.transports.base import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Features,
    Notifier,
    Opened,
    ReadReply,
    SetAttr,
    Statfs,
)

VERSIONS = b".versions"
_LAST = 1 << 62
"""Position behind `.snapshots` in a listing of the root."""


class Timeline:
    """The `Operations` of one pipe. See `transports.base.Operations` for each method.

    Args:
        visible: the root lists `.snapshots`.
    """

    def __init__(self, live: Filesystem, past: Past, volume: Volume, *, visible: bool) -> None:
        self.live = live
        self.past = past
        self._volume = volume
        self._visible = visible
        self._notifier: Notifier | None = None

    def start(self, notifier: Notifier, features: Features) -> None:
        self._notifier = notifier
        self.live.start(notifier, features)
        self.past.start(notifier, features)

    def stop(self) -> None:
        self.live.stop()

    def _of(self, node: int) -> Filesystem | Past:
        if node >= FIRST_PAST or (node == ROOT_NODE and self.past.root is not None):
            return self.past
        return self.live

    # --- what is checked out ------------------------------------------------------------------

    def show(self, index: int | None) -> None:
        """Let the root show this view, or (None) the live tree again."""
        names = self._root_names() | {NAME, VERSIONS}
        self.past.root = index
        names |= self._root_names()
        if self._notifier is None:
            return
        for name in names:
            self._notifier.inval_entry(ROOT_NODE, name)
        self._notifier.inval_inode(ROOT_NODE, -1, 0)

    def _root_names(self) -> set[bytes]:
        if self.past.root is not None:
            return self.past.names(self.past.root)
        return {name for name, _ in self._volume.children(ROOT_NODE, b"", 1 << 30)}

    def catalog_changed(self) -> None:
        """A tag may mean another snapshot: names below `.snapshots` are to be looked up again."""
        if self._notifier is not None:
            self._notifier.inval_entry(ROOT_NODE, NAME)

    # --- names --------------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        target = self._of(parent)
        if target is self.past:
            return self.past.lookup(caller, parent, name)
        if name == NAME:
            return self.past.snapdir(ino_of(parent))
        found = self.live.lookup(caller, parent, name)
        if name == VERSIONS and not found.node:
            return self._versions(parent)
        return found

    def _versions(self, parent: int) -> Entry:
        with self._volume.db.view() as v:
            names = tree.names_to(v, ino_of(parent))
        if names is None:
            raise fail(errno.ENOENT)
        return self.past.versions(names)

    def forget(self, node: int, nlookup: int) -> None:
        if node < FIRST_PAST:
            self.live.forget(node, nlookup)

    def looked_up(self, node: int) -> None:
        """See `forget`."""

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        return self._of(node).getattr(caller, node, fh)

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]:
        return self._of(node).setattr(caller, node, change)

    def readlink(self, caller: Caller, node: int) -> bytes:
        return self._of(node).readlink(caller, node)

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        return self._of(parent).mknod(caller, parent, name, mode, rdev)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        self.live.access(caller, ROOT_NODE, os.W_OK)  # a read-only mount takes no snapshots
        return self._of(parent).mkdir(caller, parent, name, mode)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        return self._of(parent).symlink(caller, parent, name, target)

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry:
        if self._of(node) is not self._of(parent):
            raise fail(errno.EROFS if parent >= FIRST_PAST else errno.EXDEV)
        return self._of(parent).link(caller, node, parent, name)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._of(parent).unlink(caller, parent, name)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self.live.access(caller, ROOT_NODE, os.W_OK)
        if parent >= FIRST_PAST and self._visible:
            raise fail(errno.EPERM)  # `rm -r` of the whole mount would forget every snapshot
        if name == NAME:
            raise fail(errno.EROFS)
        self._of(parent).rmdir(caller, parent, name)

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        if self._of(parent) is not self._of(parent2) or name == NAME:
            raise fail(errno.EROFS)
        self._of(parent).rename(caller, parent, name, parent2, name2, flags)

    # --- contents -----------------------------------------------------------------------------

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        return self._of(parent).create(caller, parent, name, mode, flags)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        return self._of(parent).tmpfile(caller, parent, mode, flags)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        return self._of(node).open(caller, node, flags)

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        return self._of(node).read(caller, node, fh, offset, size)

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        return self._of(node).write(caller, node, fh, offset, data)

    def flush(self, caller: Caller, node: int, fh: int) -> None:
        self._of(node).flush(caller, node, fh)

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None:
        self._of(node).release(caller, node, fh, flags)

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self._of(node).fsync(caller, node, fh, datasync)

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        self._of(node).fallocate(caller, node, fh, offset, length, mode)

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        return self._of(node).lseek(caller, node, fh, offset, whence)

    def copy_file_range(
        self,
        caller: Caller,
        node_in: int,
        fh_in: int,
        offset_in: int,
        node_out: int,
        fh_out: int,
        offset_out: int,
        length: int,
    ) -> int:
        if node_in >= FIRST_PAST and node_out < FIRST_PAST:
            source = self.past.content(node_in, caller.may_block)
            return self.live.copy_version(
                caller, source, offset_in, node_out, offset_out, length, fh_in
            )
        return self._of(node_out).copy_file_range(
            caller, node_in, fh_in, offset_in, node_out, fh_out, offset_out, length
        )

    # --- directories --------------------------------------------------------------------------

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        return self._of(node).opendir(caller, node, flags)

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        found = self._of(node).readdir(caller, node, fh, offset, plus)
        if node == ROOT_NODE and self._visible and self.past.root is None:
            return self._with_snapdir(found, offset, plus)
        return found

    def _with_snapdir(
        self, found: Iterable[DirEntry], offset: int, plus: bool
    ) -> Iterator[DirEntry]:
        if offset == _LAST:
            return
        yield from found
        entry = self.past.snapdir(ROOT_NODE)
        yield DirEntry(NAME, entry.node, stat.S_IFDIR, _LAST, entry if plus else None)

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        self._of(node).releasedir(caller, node, fh)

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self._of(node).fsyncdir(caller, node, fh, datasync)

    # --- the rest -----------------------------------------------------------------------------

    def statfs(self, caller: Caller, node: int) -> Statfs:
        return self.live.statfs(caller, ROOT_NODE)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        self._of(node).access(caller, node, mask)

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        return self._of(node).getxattr(caller, node, name)

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        return self._of(node).listxattr(caller, node)

    def setxattr(
        self,
        caller: Caller,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        kill_sgid: bool = False,
    ) -> None:
        self._of(node).setxattr(caller, node, name, value, flags, kill_sgid)

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        self._of(node).removexattr(caller, node, name)

    def syncfs(self, caller: Caller) -> None:
        self.live.syncfs(caller)
