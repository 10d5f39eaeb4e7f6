"""Requests about open files and directories: each decodes its record, calls one operation, packs.

Here the transport does three things that the filesystem should not have to know of: it clears
set-id bits when the kernel asks for that along with a write or an open, it registers backing
files for passthrough, and it fills directory replies up to their size.
"""

from __future__ import annotations

import errno
import os
import stat

from pipefsd.transports.base import (
    Caller,
    DirEntry,
    Entry,
    Notifier,
    Opened,
    Operations,
    ReadReply,
    SetAttr,
)
from pipefsd.transports.kernel import wire
from pipefsd.transports.kernel.handlers_names import Handler, oserror
from pipefsd.transports.kernel.passthrough import BackingTable

_BODY = wire.BODY
_COPY_LIMIT = 0xFFFFF000
"""What the 32-bit reply of the first COPY_FILE_RANGE can say, in whole pages."""


class FileHandlers:
    def __init__(
        self, operations: Operations, notifier: Notifier, backing: BackingTable | None
    ) -> None:
        """`backing` None: passthrough was not negotiated."""
        self._ops = operations
        self._notifier = notifier
        self._backing = backing

    def table(self) -> dict[int, Handler]:
        return {
            wire.OPEN: self.open,
            wire.CREATE: self.create,
            wire.TMPFILE: self.tmpfile,
            wire.READ: self.read,
            wire.WRITE: self.write,
            wire.FLUSH: self.flush,
            wire.RELEASE: self.release,
            wire.FSYNC: self.fsync,
            wire.OPENDIR: self.opendir,
            wire.READDIR: self.readdir,
            wire.READDIRPLUS: self.readdirplus,
            wire.RELEASEDIR: self.releasedir,
            wire.FSYNCDIR: self.fsyncdir,
            wire.FALLOCATE: self.fallocate,
            wire.LSEEK: self.lseek,
            wire.COPY_FILE_RANGE: self.copy_file_range,
            wire.COPY_FILE_RANGE_64: self.copy_file_range_64,
        }

    def open(self, caller: Caller, node: int, request: memoryview) -> bytes:
        flags, more = wire.OPEN_IN.unpack_from(request, _BODY)
        if more & wire.OPEN_KILL_SUIDGID and flags & os.O_TRUNC:
            self._kill_suidgid(caller, node, None)
        if caller.resent and self._backing is not None:
            done = self._backing.again(node, caller.unique)
            if done is not None:
                return done
        return self._opened(caller, node, self._ops.open(caller, node, flags))

    def _opened(self, caller: Caller, node: int, opened: Opened) -> bytes:
        backing_id = 0
        if opened.backing_fd is not None:
            if self._backing is not None:
                backing_id = self._backing.attach(node, opened.fh, opened.backing_fd, caller.unique)
            if opened.backed is not None:
                opened.backed(backing_id != 0)
        return wire.pack_open(opened, backing_id)

    def create(self, caller: Caller, node: int, request: memoryview) -> bytes:
        flags, mode, caller.umask, _more = wire.CREATE_IN.unpack_from(request, _BODY)
        name = wire.name(request, _BODY + wire.CREATE_IN.size)
        return self._made(caller, *self._ops.create(caller, node, name, mode, flags))

    def tmpfile(self, caller: Caller, node: int, request: memoryview) -> bytes:
        flags, mode, caller.umask, _more = wire.CREATE_IN.unpack_from(request, _BODY)
        return self._made(caller, *self._ops.tmpfile(caller, node, mode, flags))

    def _made(self, caller: Caller, entry: Entry, opened: Opened) -> bytes:
        return wire.pack_entry(entry) + self._opened(caller, entry.node, opened)

    def read(self, caller: Caller, node: int, request: memoryview) -> ReadReply:
        fh, offset, size = wire.READ_IN.unpack_from(request, _BODY)
        return self._ops.read(caller, node, fh, offset, size)

    def write(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, offset, size, flags = wire.WRITE_IN.unpack_from(request, _BODY)
        if flags & wire.WRITE_KILL_SUIDGID:
            self._kill_suidgid(caller, node, fh)
        start = wire.WRITE_DATA
        written = self._ops.write(caller, node, fh, offset, request[start : start + size])
        return wire.WRITE_OUT.pack(written)

    def flush(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (fh,) = wire.U64.unpack_from(request, _BODY)
        self._ops.flush(caller, node, fh)
        return b""

    def release(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, flags, _more = wire.RELEASE_IN.unpack_from(request, _BODY)
        # First, so that the operation finds who else has the backing file open. Twice when that
        # would block: the second time finds nothing.
        if self._backing is not None:
            self._backing.detach(node, fh)
        self._ops.release(caller, node, fh, flags)
        return b""

    def fsync(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, flags = wire.FSYNC_IN.unpack_from(request, _BODY)
        self._ops.fsync(caller, node, fh, bool(flags & wire.FSYNC_FDATASYNC))
        return b""

    def opendir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        flags, _more = wire.OPEN_IN.unpack_from(request, _BODY)
        return wire.pack_open(self._ops.opendir(caller, node, flags))

    def readdir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, offset, room = wire.READ_IN.unpack_from(request, _BODY)
        out: list[bytes] = []
        for item in self._ops.readdir(caller, node, fh, offset, False):
            record = wire.pack_dirent(item)
            room -= len(record)
            if room < 0:
                break
            out.append(record)
        return b"".join(out)

    def readdirplus(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, offset, room = wire.READ_IN.unpack_from(request, _BODY)
        out: list[bytes] = []
        sent: list[DirEntry] = []
        for item in self._ops.readdir(caller, node, fh, offset, True):
            record = wire.pack_direntplus(item)
            room -= len(record)
            if room < 0:
                break
            out.append(record)
            sent.append(item)
        # Only now: an iteration that would block half way is done again from the start.
        looked_up = self._ops.looked_up
        for item in sent:
            if item.entry is not None and item.entry.node and item.entry.attr is not None:
                looked_up(item.entry.node)
        return b"".join(out)

    def releasedir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, _flags, _more = wire.RELEASE_IN.unpack_from(request, _BODY)
        self._ops.releasedir(caller, node, fh)
        return b""

    def fsyncdir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, flags = wire.FSYNC_IN.unpack_from(request, _BODY)
        self._ops.fsyncdir(caller, node, fh, bool(flags & wire.FSYNC_FDATASYNC))
        return b""

    def fallocate(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, offset, length, mode = wire.FALLOCATE_IN.unpack_from(request, _BODY)
        if caller.uid:
            self._kill_suidgid(caller, node, fh)
        self._ops.fallocate(caller, node, fh, offset, length, mode)
        return b""

    def lseek(self, caller: Caller, node: int, request: memoryview) -> bytes:
        fh, offset, whence = wire.LSEEK_IN.unpack_from(request, _BODY)
        return wire.U64.pack(self._ops.lseek(caller, node, fh, offset, whence))

    def copy_file_range(self, caller: Caller, node: int, request: memoryview) -> bytes:
        return wire.WRITE_OUT.pack(self._copy(caller, node, request, _COPY_LIMIT))

    def copy_file_range_64(self, caller: Caller, node: int, request: memoryview) -> bytes:
        return wire.U64.pack(self._copy(caller, node, request, (1 << 63) - 1))

    def _copy(self, caller: Caller, node: int, request: memoryview, limit: int) -> int:
        fields = wire.COPY_FILE_RANGE_IN.unpack_from(request, _BODY)
        fh_in, offset_in, node_out, fh_out, offset_out, length, flags = fields
        if flags:
            raise oserror(errno.EINVAL)
        if caller.uid:
            self._kill_suidgid(caller, node_out, fh_out)
        return self._ops.copy_file_range(
            caller, node, fh_in, offset_in, node_out, fh_out, offset_out, min(length, limit)
        )

    def _kill_suidgid(self, caller: Caller, node: int, fh: int | None) -> None:
        """The kernel leaves it to us (HANDLE_KILLPRIV_V2), with every write of an ordinary user;
        for ranges it does not even say so."""
        attr, _ttl = self._ops.getattr(caller, node, fh)
        if attr.mode & stat.S_ISUID or attr.mode & 0o2010 == 0o2010:
            self._ops.setattr(caller, node, SetAttr(kill_suidgid=True))
            self._notifier.inval_inode(node, -1, 0)
