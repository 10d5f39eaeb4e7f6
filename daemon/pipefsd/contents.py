"""Requests about contents: open, read, write, close, fsync."""

from __future__ import annotations

import errno
import logging
import os

from pipefs.errors import NoSpace, PipefsError
from pipefsd.nodes import epoch_of, ino_of
from pipefsd.serving import Serving
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
            return self._entry(self._volume.inode(done.ino)), Opened(done.handle)
        handle = next(self._handles)
        try:
            node = self._volume.create(
                ino_of(parent), name, mode, uid, gid, handle=handle, unique=caller.unique
            )
        except FileExistsError:
            # Made elsewhere since the kernel looked: open(2) without O_EXCL opens it.
            if flags & os.O_EXCL:
                raise
            entry = self._entry(self._volume.lookup(ino_of(parent), name))
            return entry, self.open(caller, entry.node, flags)
        self._opened(node.ino)
        return self._entry(node), Opened(handle, keep_cache=True)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened]:
        self.requests += 1
        self._writable()
        uid, gid, mode = self._ids_for_new(caller, parent, mode & ~caller.umask)
        if done := self._answered(caller):
            self._opened(done.ino)
            return self._entry(self._volume.inode(done.ino)), Opened(done.handle)
        handle = next(self._handles)
        node = self._volume.create_nameless(mode, uid, gid, handle=handle, unique=caller.unique)
        self._opened(node.ino)
        self._orphaned(node)
        return self._entry(node), Opened(handle, keep_cache=True)

    def open(self, caller: Caller, node: int, flags: int) -> Opened:
        self.requests += 1
        ino = ino_of(node)
        handle = next(self._handles)
        if flags & (os.O_WRONLY | os.O_RDWR) or flags & os.O_TRUNC:
            self._writable()
            if done := self._answered(caller):
                # A second handle in the mark would be one that nobody ever closes.
                self._opened(ino)
                return Opened(done.handle, keep_cache=not flags & os.O_TRUNC)
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
        return Opened(handle, keep_cache=not flags & os.O_TRUNC)

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
        self._closed(ino)

    def fsync(self, caller: Caller, node: int, fh: int, datasync: bool) -> None:
        if not caller.may_block:
            raise WouldBlock
        self._volume.fsync(ino_of(node))
