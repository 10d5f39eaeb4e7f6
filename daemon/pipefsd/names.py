"""Requests about names and attributes: lookup, make, remove, rename, stat, chmod."""

from __future__ import annotations

import errno
import os
import stat

from pipefs import namespace
from pipefs.keys import MAX_NAME_BYTES
from pipefsd.hiding import Hiding
from pipefsd.nodes import epoch_of, ino_of
from pipefsd.serving import CACHE_S, Serving, set_id_cleared
from pipefsd.transports.base import (
    Attr,
    Caller,
    Entry,
    SetAttr,
)


class NameRequests(Serving):
    """See `transports.base.Operations` for each method."""

    _hiding: Hiding

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if len(name) > MAX_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        try:
            found = self._volume.lookup(ino_of(parent), name)
            if found.is_dir or not self._hiding.hides(ino_of(parent), name):
                return self._entry(found)
        except FileNotFoundError:
            pass
        return Entry(0, None, CACHE_S, 0.0)

    def forget(self, node: int, nlookup: int) -> None:
        """Nothing rests on lookup counts: nodes are computed. Without a name no new lookup can
        come, so that the first word of an orphan is the last."""
        self._forgotten(ino_of(node))

    def looked_up(self, node: int) -> None:
        """See `forget`."""

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        found = self._volume.inode(ino_of(node), counted=True)
        return self._attr(found, None if found.is_dir else epoch_of(node)), CACHE_S

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]:
        self._writable()
        ino = ino_of(node)
        uid, gid = self.ownership.stored(change.uid, change.gid)
        if change.size is not None:
            self._volume.truncate(ino, change.size, wait=caller.may_block)
        mode = change.mode
        if change.kill_suidgid or change.uid is not None or change.gid is not None:
            mode = self._without_set_id(ino, mode)
        if (mode, uid, gid, change.atime_ns, change.mtime_ns) != (None,) * 5:
            found = self._volume.set_attributes(
                ino,
                mode=mode,
                uid=uid,
                gid=gid,
                atime_ns=change.atime_ns,
                mtime_ns=change.mtime_ns,
            )
        else:
            found = self._volume.inode(ino, counted=True)
        return self._attr(found), CACHE_S

    def _without_set_id(self, ino: int, mode: int | None) -> int | None:
        """Owner or content change: set-id bits go, unless the same call sets the mode."""
        if mode is not None:
            return mode
        return set_id_cleared(self._volume.inode(ino))

    def readlink(self, caller: Caller, node: int) -> bytes:
        found = self._inode(node)
        if not stat.S_ISLNK(found.mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found.target

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        self._writable()
        if done := self._answered(caller):
            return self._entry(self._volume.inode(done.ino, counted=True))
        directory, unique = ino_of(parent), caller.unique
        uid, gid, permissions = self._ids_for_new(caller, parent, mode)
        mode = stat.S_IFMT(mode) | stat.S_IMODE(permissions)
        if stat.S_ISREG(mode):
            node = self._volume.create(directory, name, mode, uid, gid, handle=0, unique=unique)
        else:
            node = self._volume.mknod(directory, name, mode, rdev, uid, gid, unique=unique)
        return self._entry(node)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        self._writable()
        if done := self._answered(caller):
            return self._entry(self._volume.inode(done.ino, counted=True))
        uid, gid, mode = self._ids_for_new(caller, parent, mode)
        if self._inode(parent).mode & stat.S_ISGID:
            mode |= stat.S_ISGID
        node = self._volume.mkdir(ino_of(parent), name, mode, uid, gid, unique=caller.unique)
        return self._entry(node)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        self._writable()
        if done := self._answered(caller):
            return self._entry(self._volume.inode(done.ino, counted=True))
        uid, gid, _ = self._ids_for_new(caller, parent, 0)
        node = self._volume.symlink(ino_of(parent), name, target, uid, gid, unique=caller.unique)
        return self._entry(node)

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry:
        self._writable()
        if self._answered(caller):
            return self._entry(self._volume.inode(ino_of(node), counted=True))
        return self._entry(
            self._volume.link(ino_of(node), ino_of(parent), name, unique=caller.unique)
        )

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self.requests += 1
        self._writable()
        if not self._answered(caller):
            self.orphaned(self._volume.unlink(ino_of(parent), name, unique=caller.unique))

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._writable()
        if not self._answered(caller):
            self.orphaned(self._volume.rmdir(ino_of(parent), name, unique=caller.unique))

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        self.requests += 1
        self._writable()
        if flags & ~(namespace.RENAME_NOREPLACE | namespace.RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self._answered(caller):
            return
        if self._hiding.hides(ino_of(parent2), name2):
            # It would be replaced by somebody who cannot know that it is there.
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        replaced = self._volume.rename(
            ino_of(parent), name, ino_of(parent2), name2, flags, unique=caller.unique
        )
        if replaced is not None:
            self.orphaned(replaced)
