"""One mounted pipe as a filesystem: what the kernel asks, answered by `Volume`.

Inode based, no FUSE import. Rules of names and contents are the volume's; here are nodes, handles,
ownership, and what the kernel may cache: everything, for an hour, because nothing changes without
either passing through this kernel or being told to it (`apply_effects`).
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable

from pipefs import namespace
from pipefs.conflicts import Effects
from pipefs.errors import NoSpace, PipefsError
from pipefs.keys import MAX_NAME_BYTES
from pipefs.records import NO_MODE, Inode
from pipefs.volume import Volume
from pipefsd.directories import Directories
from pipefsd.extended import ExtendedAttributes
from pipefsd.nodes import epoch_of, ino_of, node_id
from pipefsd.notices import Notices
from pipefsd.ownership import Ownership
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
    WouldBlock,
)

log = logging.getLogger(__name__)

CACHE_S = 3600.0
"""How long the kernel keeps names and attributes unless told otherwise."""


def unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class Filesystem:
    """The `Operations` of one pipe (see `transports.base` for each method).

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
        self._owner = ownership
        self._read_only = read_only
        self._inherited = same_mount
        self._handles = itertools.count(time.time_ns() // 1000)
        self._directories = Directories(volume, self._entry)
        self._opens: dict[int, int] = {}
        self._opens_lock = threading.Lock()
        self._notices: Notices | None = None
        self.xattrs = ExtendedAttributes(volume)
        self.features = Features("")
        self.requests = 0
        """Served so far of those that make work; only the dispatcher counts, so about."""

    def start(self, notifier: Notifier, features: Features) -> None:
        self._notices = Notices(self._volume, notifier)
        self.features = features

    def stop(self) -> None:
        self._notices = None

    # --- attributes and entries ---------------------------------------------------------------

    def _attr(self, node: Inode, epoch: int | None = None) -> Attr:
        size = node.size
        if epoch is not None and epoch != node.epoch:
            size = self._volume.size_at(node.ino, epoch, size)
        uid, gid = self._owner.shown(node.uid, node.gid)
        mode = node.mode
        if mode & NO_MODE:
            mode = mode & ~NO_MODE & ~self._owner.umask
        return Attr(
            ino=node.ino,
            mode=mode,
            nlink=node.nlink,
            uid=uid,
            gid=gid,
            size=size,
            mtime_ns=node.mtime_ns,
            ctime_ns=node.ctime_ns,
            atime_ns=max(node.atime_ns, node.mtime_ns),
            rdev=node.rdev,
            blocks=-(-size // 512),
        )

    def _entry(self, node: Inode) -> Entry:
        epoch = 0 if node.is_dir else node.epoch
        return Entry(node_id(node.ino, epoch), self._attr(node), CACHE_S, CACHE_S)

    def _inode(self, node: int) -> Inode:
        return self._volume.inode(ino_of(node))

    def _writable(self) -> None:
        if self._read_only():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if len(name) > MAX_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        try:
            return self._entry(self._volume.lookup(ino_of(parent), name))
        except FileNotFoundError:
            return Entry(0, None, CACHE_S, 0.0)

    def forget(self, node: int, nlookup: int) -> None:
        """Nothing rests on lookup counts: nodes are computed, orphans go by their handles."""

    def looked_up(self, node: int) -> None:
        """See `forget`."""

    def getattr(self, caller: Caller, node: int, fh: int | None) -> tuple[Attr, float]:
        found = self._inode(node)
        return self._attr(found, None if found.is_dir else epoch_of(node)), CACHE_S

    def setattr(self, caller: Caller, node: int, change: SetAttr) -> tuple[Attr, float]:
        self._writable()
        ino = ino_of(node)
        uid, gid = self._owner.stored(change.uid, change.gid)
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
            found = self._volume.inode(ino)
        return self._attr(found), CACHE_S

    def _without_set_id(self, ino: int, mode: int | None) -> int | None:
        """Owner or content change: set-id bits go, unless the same call sets the mode."""
        if mode is not None:
            return mode
        now = self._volume.inode(ino).mode
        cleared = now & ~stat.S_ISUID
        if now & stat.S_IXGRP:
            cleared &= ~stat.S_ISGID
        return stat.S_IMODE(cleared) if stat.S_ISREG(now) and cleared != now else None

    def readlink(self, caller: Caller, node: int) -> bytes:
        found = self._inode(node)
        if not stat.S_ISLNK(found.mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found.target

    # --- names --------------------------------------------------------------------------------

    def _ids_for_new(self, caller: Caller, parent: int, mode: int) -> tuple[int, int, int]:
        """(uid, gid, mode) of something new: a set-gid directory hands down its group."""
        directory = self._inode(parent)
        if directory.mode & stat.S_ISGID:
            _, shown = self._owner.shown(directory.uid, directory.gid)
            return caller.uid, shown, mode
        return caller.uid, caller.gid, mode

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        self._writable()
        if not stat.S_ISREG(mode):
            raise unsupported()
        uid, gid, mode = self._ids_for_new(caller, parent, mode & ~caller.umask)
        node = self._volume.create(ino_of(parent), name, mode, uid, gid, handle=0)
        return self._entry(node)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        self._writable()
        uid, gid, mode = self._ids_for_new(caller, parent, mode & ~caller.umask)
        if self._inode(parent).mode & stat.S_ISGID:
            mode |= stat.S_ISGID
        return self._entry(self._volume.mkdir(ino_of(parent), name, mode, uid, gid))

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        self._writable()
        uid, gid, _ = self._ids_for_new(caller, parent, 0)
        return self._entry(self._volume.symlink(ino_of(parent), name, target, uid, gid))

    def link(self, caller: Caller, node: int, parent: int, name: bytes) -> Entry:
        raise OSError(errno.EPERM, "hard links are not supported yet")

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self.requests += 1
        self._writable()
        self._orphaned(self._volume.unlink(ino_of(parent), name))

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._writable()
        self._orphaned(self._volume.rmdir(ino_of(parent), name))

    def rename(
        self, caller: Caller, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        self.requests += 1
        self._writable()
        if flags & ~(namespace.RENAME_NOREPLACE | namespace.RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        replaced = self._volume.rename(ino_of(parent), name, ino_of(parent2), name2, flags)
        if replaced is not None:
            self._orphaned(replaced)

    def _orphaned(self, node: Inode) -> None:
        """A name went: without open handles the inode goes too."""
        with self._opens_lock:
            still_open = self._inherited or self._opens.get(node.ino, 0) > 0
        if not still_open:
            self._volume.forget_orphan(node.ino)

    # --- files --------------------------------------------------------------------------------

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        self.requests += 1
        self._writable()
        uid, gid, mode = self._ids_for_new(caller, parent, mode & ~caller.umask)
        handle = next(self._handles)
        try:
            node = self._volume.create(ino_of(parent), name, mode, uid, gid, handle=handle)
        except FileExistsError:
            # Made elsewhere since the kernel looked: open(2) without O_EXCL opens it.
            if flags & os.O_EXCL:
                raise
            entry = self.lookup(caller, parent, name)
            return entry, self.open(caller, entry.node, flags)
        self._opened(node.ino)
        return self._entry(node), Opened(handle, keep_cache=True)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        self.requests += 1
        ino = ino_of(node)
        handle = next(self._handles)
        if flags & (os.O_WRONLY | os.O_RDWR) or flags & os.O_TRUNC:
            self._writable()
            if epoch_of(node) != self._volume.inode(ino).epoch:
                # Opened for writing by its old node: the kernel is to look the name up again.
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            self._volume.open_write(
                ino, handle, truncate=bool(flags & os.O_TRUNC), wait=caller.may_block
            )
        self._opened(ino)
        return Opened(handle, keep_cache=not flags & os.O_TRUNC)

    def _opened(self, ino: int) -> None:
        with self._opens_lock:
            self._opens[ino] = self._opens.get(ino, 0) + 1

    def read(self, caller: Caller, node: int, fh: int, offset: int, size: int) -> ReadReply:
        self.requests += 1
        try:
            buffers, release = self._volume.read(
                ino_of(node),
                epoch_of(node),
                offset,
                size,
                stream=fh,
                wait=caller.may_block,
                interrupted=caller.interrupted,
            )
        except PipefsError as e:
            raise self._unreadable(node, e) from e
        return ReadReply(buffers, release)

    def _unreadable(self, node: int, error: PipefsError) -> OSError:
        """The store's trouble is EIO to programs; the log says what it was."""
        log.error("%s: %s", self._volume.path_of(ino_of(node)), error)
        code = errno.ENOSPC if isinstance(error, NoSpace) else errno.EIO
        return OSError(code, os.strerror(code))

    def write(self, caller: Caller, node: int, fh: int, offset: int, data: memoryview) -> int:
        self.requests += 1
        try:
            return self._volume.write(ino_of(node), offset, data, wait=caller.may_block)
        except PipefsError as e:
            raise self._unreadable(node, e) from e

    def flush(self, caller: Caller, node: int, fh: int) -> None:
        """close(2): every write is in the staging file already. ENOSYS: the kernel need not ask
        again, which saves a round trip at each close."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def release(self, caller: Caller, node: int, fh: int, flags: int) -> None:
        ino = ino_of(node)
        self._volume.reader.close_stream(fh)
        self._volume.close_write(ino, fh)
        with self._opens_lock:
            left = self._opens.get(ino, 1) - 1
            if left > 0:
                self._opens[ino] = left
            else:
                self._opens.pop(ino, None)
        if left <= 0 and not self._inherited:
            self._volume.forget_orphan(ino)

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        if not caller.may_block:
            raise WouldBlock
        self._volume.fsync(ino_of(node))

    # --- directories --------------------------------------------------------------------------

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened:
        handle = next(self._handles)
        self._directories.open(handle, ino_of(node))
        return Opened(handle)

    def readdir(
        self, caller: Caller, node: int, fh: int, offset: int, plus: bool
    ) -> Iterable[DirEntry]:
        return self._directories.read(fh, ino_of(node), offset, plus)

    def releasedir(self, caller: Caller, node: int, fh: int) -> None:
        self._directories.close(fh)

    def fsyncdir(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        self.fsync(caller, node, fh, datasync)

    # --- the rest -----------------------------------------------------------------------------

    def statfs(self, caller: Caller, node: int) -> Statfs:
        """Free space is that of the disk the staging files are on: what can be written now."""
        disk = os.statvfs(self._volume.files.staging.directory)
        used, files = self._volume.totals()
        free = disk.f_bavail * disk.f_frsize // 4096
        blocks = free + -(-used // 4096)
        return Statfs(blocks, free, free, files + disk.f_favail, disk.f_favail, 4096)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        """Permissions are the kernel's (`default_permissions`); here only what it cannot know."""
        if mask & os.W_OK:
            self._writable()

    def getxattr(self, caller: Caller, node: int, name: bytes) -> bytes:
        return self.xattrs.get(ino_of(node), name)

    def listxattr(self, caller: Caller, node: int) -> list[bytes]:
        return self.xattrs.list(ino_of(node))

    def setxattr(self, caller: Caller, node: int, name: bytes, value: bytes, flags: int) -> None:
        self._writable()
        self.xattrs.set(ino_of(node), name, value, flags)

    def removexattr(self, caller: Caller, node: int, name: bytes) -> None:
        self._writable()
        self.xattrs.remove(ino_of(node), name)

    def fallocate(
        self, caller: Caller, node: int, fh: int, offset: int, length: int, mode: int
    ) -> None:
        raise unsupported()

    def lseek(self, caller: Caller, node: int, fh: int, offset: int, whence: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

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
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def syncfs(self, caller: Caller) -> None:
        self._volume.db.sync()

    def apply_effects(self, effects: Effects) -> None:
        """Tell the kernel what other machines changed (see `notices`)."""
        if self._notices is not None:
            self._notices.tell(effects)
