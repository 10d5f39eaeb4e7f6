"""Requests about contents: open, read, write, close, fsync."""

from __future__ import annotations

import errno
import logging
import os
from functools import partial

from pipefs import tree
from pipefs.errors import NoSpace, PipefsError
from pipefs.records import Inode
from pipefsd.modes import UNTOLD
from pipefsd.nodes import epoch_of, ino_of
from pipefsd.serving import Serving, set_id_cleared
from pipefsd.transports.base import (
    Caller,
    Entry,
    Opened,
    ReadReply,
    WouldBlock,
)

log = logging.getLogger(__name__)


class ContentRequests(Serving):
    """See `transports.base.Operations` for each method."""

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        self.requests += 1
        self._writable()
        uid, gid, mode = self._ids_for_new(caller, parent, mode)
        if done := self._answered(caller):
            self._opened(done.ino)
            entry = self._entry(self._volume.inode(done.ino))
            return entry, self._served(caller, entry.node, done.handle, flags | os.O_WRONLY)
        handle = next(self._handles)
        try:
            node = self._volume.create(
                ino_of(parent), name, mode, uid, gid, handle=handle, unique=caller.unique
            )
        except FileExistsError:
            # Made elsewhere since the kernel looked: open(2) without O_EXCL opens it.
            if flags & os.O_EXCL:
                raise
            node = self._volume.lookup(ino_of(parent), name)
            if not node.is_file:
                # Not ours to open: the kernel is to look the name up, and opens what there is.
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
            entry = self._entry(node)
            return entry, self.open(caller, entry.node, flags)
        self._opened(node.ino)
        entry = self._entry(node)
        flags |= os.O_WRONLY
        return entry, self._served(caller, entry.node, handle, flags, made=node)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        self.requests += 1
        self._writable()
        uid, gid, mode = self._ids_for_new(caller, parent, mode)
        if done := self._answered(caller):
            self._opened(done.ino)
            entry = self._entry(self._volume.inode(done.ino, counted=True))
            return entry, self._served(caller, entry.node, done.handle, flags | os.O_WRONLY)
        handle = next(self._handles)
        node = self._volume.create_nameless(
            ino_of(parent), mode, uid, gid, handle=handle, unique=caller.unique
        )
        self._opened(node.ino)
        self.orphaned(node)
        entry = self._entry(node)
        flags |= os.O_WRONLY
        return entry, self._served(caller, entry.node, handle, flags, made=node)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        self.requests += 1
        ino = ino_of(node)
        handle = next(self._handles)
        if flags & (os.O_WRONLY | os.O_RDWR) or flags & os.O_TRUNC:
            self._writable()
            if done := self._answered(caller):
                # A second handle in the mark would be one that nobody ever closes.
                self._opened(ino)
                return self._served(caller, node, done.handle, flags)
            if epoch_of(node) != self._volume.inode(ino).epoch:
                # Opened for writing by its old node: the kernel is to look the name up again.
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            self._volume.open_write(
                ino,
                handle,
                truncate=bool(flags & os.O_TRUNC),
                wait=caller.may_block,
                unique=caller.unique,
            )
        self._opened(ino)
        return self._served(caller, node, handle, flags)

    def _served(
        self, caller: Caller, node: int, handle: int, flags: int, *, made: Inode | None = None
    ) -> Opened:
        """How the kernel serves this handle, which counts as open already: by asking us, or by
        itself from the staging file. `made`: what this request has just made."""
        ino = ino_of(node)
        if not flags & (os.O_WRONLY | os.O_RDWR) and self._volume.files.get(ino) is None:
            self._readers.opened(caller.pid)
        if caller.resent and self.modes.has(node, handle):
            # It is among those that were open when we started, and is pinned below.
            self._volume.files.unpin(ino, epoch_of(node))
        offer = partial(self._offer, caller, node, flags, made)
        try:
            fd, may_keep = self.modes.enter(node, handle, offer, made=made is not None)
        except OSError:
            self._volume.close_write(ino, handle)
            self._closed(ino)
            raise
        if fd < 0:
            return Opened(handle, keep_cache=may_keep and not flags & os.O_TRUNC)
        return Opened(handle, backing_fd=fd, backed=partial(self._backed, node, fd))

    def _offer(self, caller: Caller, node: int, flags: int, made: Inode | None, joins: bool) -> int:
        """See `modes.Offer`."""
        files, ino = self._volume.files, ino_of(node)
        write = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if not joins:
            if flags & (os.O_DIRECT | os.O_DSYNC):
                # Not every disk has direct I/O, and those that do want everything aligned; and
                # what is written synchronously is to be safe with its name and its mark.
                return -1
            if flags & (os.O_CREAT | os.O_TRUNC) and self._readers.may_copy(caller.pid):
                return -1
            if not write and files.get(ino) is None:
                return -1
            if set_id_cleared(made or self._volume.inode(ino)) is not None:
                return -1  # a write must clear set-id bits, and the kernel leaves that to us
        elif flags & os.O_DSYNC:
            self._volume.db.sync()
        return files.offer(ino, epoch_of(node), write=write, joins=joins)

    def _backed(self, node: int, fd: int, taken: bool) -> None:
        os.close(fd)
        if not taken:
            self.modes.refused(node)
            self._volume.files.unpin(ino_of(node), epoch_of(node))

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
        passed = self.modes.leave(node, fh)
        if passed is not None and passed.set_id:
            self._clear_set_id(ino)
        sealed = self._volume.close_write(ino, fh)
        if passed is not None:
            if sealed:
                self._tell_time(node, passed.told_ns)
            self._volume.files.unpin(ino, epoch_of(node))
        self._closed(ino)

    def _tell_time(self, node: int, told_ns: int) -> None:
        """After writes that nobody saw. After write(2) the kernel asks again by itself; a mapping
        changes a file without a word."""
        if told_ns == UNTOLD or self._notices is None:
            return
        st = self._volume.files.stat(ino_of(node))
        if st is not None and st.st_mtime_ns != told_ns:
            self._notices.written(node)

    def _clear_set_id(self, ino: int) -> None:
        """Set-id bits that a file got while it was passed through go if it was written later: by
        whom, nobody here saw."""
        local = self._volume.files.stat(ino)
        if local is None:
            return
        with self._volume.db.view() as v:
            node = tree.inode(v, ino)
        mode = set_id_cleared(node) if node is not None else None
        if node is not None and mode is not None and local.st_mtime_ns > node.ctime_ns:
            self._volume.set_attributes(ino, mode=mode)

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        if not caller.may_block:
            raise WouldBlock
        self._volume.fsync(ino_of(node))
