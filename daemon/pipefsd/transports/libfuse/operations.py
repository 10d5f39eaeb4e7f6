"""fusepy's path-based operations, answered by inode-based `Operations`.

Method names and arguments are fusepy's; paths come as the text that latin-1 makes of their bytes,
so a name may hold any byte. No error is translated here and no C value is touched: that is
`bridge`'s. An operation that would wait raises WouldBlock before it changed anything here too.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any  # what comes from fusepy

import fuse

from pipefs.times import bounded_ns, stamp_ns
from pipefsd.transports.base import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Operations,
    ReadReply,
    SetAttr,
    WouldBlock,
)
from pipefsd.transports.libfuse import library
from pipefsd.transports.libfuse.paths import Handles, Paths, fail
from pipefsd.transports.libfuse.requests import GETATTR, LOOKUP, RENAME, UNLINK, Request

ENCODING = "latin-1"
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_HIDDEN = b".fuse_hidden"
_ACLS = b"system.posix_acl_"


def _bytes(text: str) -> bytes:
    return text.encode(ENCODING)


class PathOperations(fuse.Operations):  # type: ignore[misc]  # fusepy has no types
    """What `bridge.Bridge` connects to libfuse."""

    use_ns = True

    def __init__(
        self, operations: Operations, request: Request, forget_attributes: Callable[[int], None]
    ) -> None:
        """`forget_attributes`: the kernel is to ask anew for those of a file, by its number."""
        self._ops = operations
        self._forget_attributes = forget_attributes
        self._request = request
        self.paths = Paths(operations)
        self.handles = Handles()
        self.removed: dict[int, int] = {}
        """The kernel's number of a directory that is open and was removed → its node: libfuse
        has no path for it, and so no answer to an fstat."""

    def caller(self) -> Caller:
        """Who asks, and whether they still wait. Only inside a callback."""
        context = library.get_context().contents
        thread = threading.get_ident()

        def interrupted() -> bool:
            # libfuse keeps the request with the thread; in another it has none.
            return threading.get_ident() == thread and bool(library.interrupted())

        return Caller(
            context.uid,
            context.gid,
            context.pid,
            context.umask,
            may_block=self._request.may_block,
            interrupted=interrupted,
        )

    # --- names --------------------------------------------------------------------------------

    def stat(self, path: bytes | None, fh: int | None) -> Attr:
        """Attributes by handle where there is one."""
        known = self._request.known
        if known is not None and known[0] == (path if fh is None else fh):
            return known[1]
        caller = self.caller()
        if fh is not None:
            return self._ops.getattr(caller, self.handles.node(fh), fh)[0]
        assert path is not None
        if path == b"/":
            return self._ops.getattr(caller, 1, None)[0]
        hidden = self.paths.hidden(path) is not None
        if hidden and self._request.opcode == LOOKUP:
            raise fail(errno.ENOENT)  # no name that anybody may open
        attr = self.paths.entry(caller, path).attr
        assert attr is not None
        if hidden and self._request.opcode == GETATTR:
            # libfuse takes one off for the name it believes it has given the file.
            attr = replace(attr, nlink=attr.nlink + 1)
        return attr

    def stat_removed(self, node: int, caller: Caller) -> Attr:
        """Attributes of one of `removed`."""
        return self._ops.getattr(caller, node, None)[0]

    def readlink(self, path: str) -> str:
        caller = self.caller()
        found = self._ops.readlink(caller, self.paths.node(caller, _bytes(path)))
        return found.decode(ENCODING)

    def mknod(self, path: str, mode: int, dev: int) -> None:
        caller = self.caller()
        raw = _bytes(path)
        self._made(raw, self._ops.mknod(caller, *self.paths.parent(caller, raw), mode, dev))

    def _made(self, path: bytes, entry: Entry) -> None:
        """libfuse asks for the attributes of what was made: have them ready."""
        if entry.attr is not None:
            self._request.known = (path, entry.attr)

    def mkdir(self, path: str, mode: int) -> None:
        caller = self.caller()
        raw = _bytes(path)
        self._made(raw, self._ops.mkdir(caller, *self.paths.parent(caller, raw), mode))

    def symlink(self, target: str, source: str) -> None:
        """`target` is the new name, `source` what it says."""
        caller = self.caller()
        raw = _bytes(target)
        parent, name = self.paths.parent(caller, raw)
        self._made(raw, self._ops.symlink(caller, parent, name, _bytes(source)))

    def link(self, target: str, source: str) -> None:
        """`target` is the new name."""
        caller = self.caller()
        node, raw = self.paths.node(caller, _bytes(source)), _bytes(target)
        self._made(raw, self._ops.link(caller, node, *self.paths.parent(caller, raw)))

    def unlink(self, path: str) -> None:
        caller, raw = self.caller(), _bytes(path)
        if self.paths.reveal(raw):
            return  # The last handle of a file that lost its name long ago.
        self._ops.unlink(caller, *self.paths.parent(caller, raw))
        self.handles.moved(raw, None)

    def rmdir(self, path: str) -> None:
        caller = self.caller()
        raw = _bytes(path)
        self._forget_folder(self.paths.node(caller, raw))
        self._ops.rmdir(caller, *self.paths.parent(caller, raw))
        self.paths.moved(raw)

    def _forget_folder(self, node: int) -> None:
        """One that is about to lose its name; should that fail, the path still leads to it."""
        number = self.handles.number(node)
        if number:
            self.removed[number] = node

    def rename(self, old: str, new: str) -> None:
        """rename(2), or libfuse putting an open file aside that is about to lose its name."""
        caller, raw, raw_new = self.caller(), _bytes(old), _bytes(new)
        if self._puts_aside(raw_new):
            parent, name = self.paths.parent(caller, raw)
            self.paths.hide(raw_new, self.paths.node(caller, raw))
            if self._request.opcode == UNLINK:
                try:
                    self._ops.unlink(caller, parent, name)
                except BaseException:
                    self.paths.reveal(raw_new)
                    raise
                self.handles.moved(raw, None)
            # Otherwise the rename that follows replaces the name in one step, as it should be.
            return
        target = self.paths.parent(caller, raw_new)
        self._replaced_folder(caller, raw_new)
        self._ops.rename(caller, *self.paths.parent(caller, raw), *target, 0)
        self.handles.moved(raw, raw_new)
        self.paths.moved(raw, raw_new)

    def _replaced_folder(self, caller: Caller, path: bytes) -> None:
        if self.handles.folders_open():
            try:
                self._forget_folder(self.paths.node(caller, path))
            except FileNotFoundError:
                pass

    def _puts_aside(self, new: bytes) -> bool:
        name = new.rpartition(b"/")[2]
        if not name.startswith(_HIDDEN):
            return False
        opcode = self._request.opcode
        return opcode == UNLINK or (opcode == RENAME and name != self._request.new_name)

    # --- attributes ---------------------------------------------------------------------------

    def _change(self, path: str | None, change: SetAttr, fh: int | None = None) -> None:
        caller = self.caller()
        if fh is not None:
            change.fh = fh
            attr, _ttl_s = self._ops.setattr(caller, self.handles.node(fh), change)
            self._request.known = (fh, attr)
            return
        assert path is not None
        raw = _bytes(path)
        attr, _ttl_s = self._ops.setattr(caller, self.paths.node(caller, raw), change)
        self._request.known = (raw, attr)

    def chmod(self, path: str, mode: int) -> None:
        self._change(path, SetAttr(mode=mode & 0o7777))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """-1 leaves alone."""
        self._change(path, SetAttr(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid))

    def truncate(self, path: str | None, length: int, fi: Any = None) -> None:
        self._change(path, SetAttr(size=length), None if fi is None else fi.fh)

    def set_times(self, path: bytes, times: list[tuple[int, int]] | None) -> None:
        """(seconds, ns) of access and of change; ns may be UTIME_NOW or UTIME_OMIT."""
        now = stamp_ns()
        wanted: list[int | None] = [
            now
            if ns == UTIME_NOW
            else None
            if ns == UTIME_OMIT
            else bounded_ns(seconds * 10**9 + ns)
            for seconds, ns in times or [(0, UTIME_NOW)] * 2
        ]
        self._change(path.decode(ENCODING), SetAttr(atime_ns=wanted[0], mtime_ns=wanted[1]))

    def access(self, path: str, mode: int) -> None:
        caller = self.caller()
        self._ops.access(caller, self.paths.node(caller, _bytes(path)), mode)

    def statfs(self, path: str) -> dict[str, int]:
        found = self._ops.statfs(self.caller(), 1)
        return {
            "f_bsize": found.bsize,
            "f_frsize": found.frsize,
            "f_blocks": found.blocks,
            "f_bfree": found.bfree,
            "f_bavail": found.bavail,
            "f_files": found.files,
            "f_ffree": found.ffree,
            "f_favail": found.ffree,
            "f_namemax": found.namelen,
        }

    # --- extended attributes ------------------------------------------------------------------

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        caller = self.caller()
        self._refuse_acls(name)
        return self._ops.getxattr(caller, self.paths.node(caller, _bytes(path)), _bytes(name))

    def listxattr(self, path: str) -> list[str]:
        caller = self.caller()
        found = self._ops.listxattr(caller, self.paths.node(caller, _bytes(path)))
        return [name.decode(ENCODING) for name in found if not name.startswith(_ACLS)]

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        caller = self.caller()
        self._refuse_acls(name)
        node = self.paths.node(caller, _bytes(path))
        self._ops.setxattr(caller, node, _bytes(name), value, options)

    def removexattr(self, path: str, name: str) -> None:
        caller = self.caller()
        self._refuse_acls(name)
        self._ops.removexattr(caller, self.paths.node(caller, _bytes(path)), _bytes(name))

    def _refuse_acls(self, name: str) -> None:
        """This kernel interface does not enforce them, so they must not look as if they held."""
        if _bytes(name).startswith(_ACLS):
            raise fail(errno.EOPNOTSUPP)

    # --- contents -----------------------------------------------------------------------------

    def create(self, path: str, mode: int, fi: Any) -> None:
        caller, raw = self.caller(), _bytes(path)
        parent, name = self.paths.parent(caller, raw)
        entry, opened = self._ops.create(caller, parent, name, mode, fi.flags)
        fi.fh = opened.fh
        self.handles.add(opened.fh, entry.node, raw, entry.attr)
        if entry.attr is not None:
            self._request.known = (opened.fh, entry.attr)

    def open(self, path: str, fi: Any) -> None:
        caller, raw = self.caller(), _bytes(path)
        entry = self.paths.entry(caller, raw)
        if entry.attr is not None and not stat.S_ISREG(entry.attr.mode):
            raise fail(errno.ESTALE)  # the kernel knows a file by this path: it is to look again
        opened = self._ops.open(caller, entry.node, fi.flags)
        fi.fh = opened.fh
        changes = bool(fi.flags & os.O_TRUNC)
        if changes and caller.uid:
            # The kernel leaves it to who truncates at open, and libfuse 2 has no word for it.
            self._ops.setattr(caller, entry.node, SetAttr(kill_suidgid=True))
        kept, mixed = self.handles.add(opened.fh, entry.node, raw, None if changes else entry.attr)
        if not kept:
            # It may have grown elsewhere, and the kernel reads no further than the size it knows.
            self._forget_attributes(self._request.node)
        fi.keep_cache = int(opened.keep_cache and kept)
        fi.direct_io = int(opened.direct_io or mixed)

    def read_at(self, fh: int, offset: int, size: int) -> ReadReply:
        return self._ops.read(self.caller(), self.handles.node(fh), fh, offset, size)

    def write_at(self, fh: int, offset: int, data: memoryview) -> int:
        return self._ops.write(self.caller(), self.handles.node(fh), fh, offset, data)

    def flush(self, path: str | None, fi: Any) -> None:
        self._ops.flush(self.caller(), self.handles.node(fi.fh), fi.fh)

    def release(self, path: str | None, fi: Any) -> None:
        try:
            self._ops.release(self.caller(), self.handles.node(fi.fh), fi.fh, fi.flags)
        except WouldBlock:
            raise
        except BaseException:
            self.handles.remove(fi.fh)
            raise
        self.handles.remove(fi.fh)

    def fsync(self, path: str | None, datasync: int, fi: Any) -> None:
        self._ops.fsync(self.caller(), self.handles.node(fi.fh), fi.fh, bool(datasync))

    def allocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        node = self.handles.node(fh)
        self._ops.fallocate(self.caller(), node, fh, offset, length, mode)

    # --- directories --------------------------------------------------------------------------

    def opendir(self, path: str) -> int:
        caller = self.caller()
        node = self.paths.node(caller, _bytes(path))
        opened = self._ops.opendir(caller, node, 0)
        self.handles.add_directory(opened.fh, node, self._request.node)
        return opened.fh

    def entries(self, fh: int, offset: int) -> Iterable[DirEntry]:
        return self._ops.readdir(self.caller(), self.handles.node(fh), fh, offset, False)

    def releasedir(self, path: str | None, fh: int) -> None:
        try:
            self._ops.releasedir(self.caller(), self.handles.node(fh), fh)
        except WouldBlock:
            raise
        except BaseException:
            self._closed(fh)
            raise
        self._closed(fh)

    def _closed(self, fh: int) -> None:
        self.removed.pop(self.handles.remove_directory(fh), None)

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        self._ops.fsyncdir(self.caller(), self.handles.node(fh), fh, bool(datasync))
