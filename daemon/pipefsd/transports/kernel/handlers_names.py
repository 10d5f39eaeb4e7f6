"""Requests about names and attributes: each decodes its record, calls one operation, packs.

No policy and no error handling here: what an operation raises goes to the dispatcher's boundary.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from pipefs.times import bounded_ns, stamp_ns
from pipefsd.transports.base import Caller, Operations, ReadReply, SetAttr
from pipefsd.transports.kernel import wire

Reply = bytes | ReadReply | None
Handler = Callable[[Caller, int, memoryview], Reply]
"""(caller, node, whole request) → body of the reply; None: this request gets no reply."""

_BODY = wire.BODY


def oserror(code: int) -> OSError:
    return OSError(code, errno.errorcode[code])


class NameHandlers:
    def __init__(self, operations: Operations, *, setxattr_ext: bool) -> None:
        self._ops = operations
        self._setxattr_in = wire.SETXATTR_IN_EXT if setxattr_ext else wire.SETXATTR_IN

    def table(self) -> dict[int, Handler]:
        return {
            wire.LOOKUP: self.lookup,
            wire.FORGET: self.forget,
            wire.BATCH_FORGET: self.batch_forget,
            wire.GETATTR: self.getattr,
            wire.SETATTR: self.setattr,
            wire.READLINK: self.readlink,
            wire.SYMLINK: self.symlink,
            wire.MKNOD: self.mknod,
            wire.MKDIR: self.mkdir,
            wire.UNLINK: self.unlink,
            wire.RMDIR: self.rmdir,
            wire.RENAME: self.rename,
            wire.RENAME2: self.rename2,
            wire.LINK: self.link,
            wire.STATFS: self.statfs,
            wire.ACCESS: self.access,
            wire.GETXATTR: self.getxattr,
            wire.LISTXATTR: self.listxattr,
            wire.SETXATTR: self.setxattr,
            wire.REMOVEXATTR: self.removexattr,
            wire.SYNCFS: self.syncfs,
        }

    def lookup(self, caller: Caller, node: int, request: memoryview) -> bytes:
        return wire.pack_entry(self._ops.lookup(caller, node, wire.name(request, _BODY)))

    def forget(self, caller: Caller, node: int, request: memoryview) -> None:
        (count,) = wire.U64.unpack_from(request, _BODY)
        self._ops.forget(node, count)

    def batch_forget(self, caller: Caller, node: int, request: memoryview) -> None:
        (count,) = wire.BATCH_FORGET_IN.unpack_from(request, _BODY)
        start = _BODY + wire.BATCH_FORGET_IN.size
        stop = start + count * wire.FORGET_ONE.size
        for forgotten, lookups in wire.FORGET_ONE.iter_unpack(request[start:stop]):
            self._ops.forget(forgotten, lookups)

    def getattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        flags, fh = wire.GETATTR_IN.unpack_from(request, _BODY)
        attr, ttl_s = self._ops.getattr(caller, node, fh if flags & wire.GETATTR_FH else None)
        return wire.pack_attr(attr, ttl_s)

    def setattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        # fmt: off
        (
            valid, fh, size, _owner, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            mode, _unused, uid, gid, _unused2,
        ) = wire.SETATTR_IN.unpack_from(request, _BODY)
        # fmt: on
        change = SetAttr(kill_suidgid=bool(valid & wire.FATTR_KILL_SUIDGID))
        now_ns = stamp_ns()  # one moment for both times
        if valid & wire.FATTR_MODE:
            change.mode = mode & 0o7777
        if valid & wire.FATTR_UID:
            change.uid = uid
        if valid & wire.FATTR_GID:
            change.gid = gid
        if valid & wire.FATTR_SIZE:
            change.size = size
        if valid & wire.FATTR_FH:
            change.fh = fh
        if valid & wire.FATTR_ATIME:
            now = valid & wire.FATTR_ATIME_NOW
            change.atime_ns = now_ns if now else bounded_ns(atime * 1_000_000_000 + atime_ns)
        if valid & wire.FATTR_MTIME:
            now = valid & wire.FATTR_MTIME_NOW
            change.mtime_ns = now_ns if now else bounded_ns(mtime * 1_000_000_000 + mtime_ns)
        if valid & wire.FATTR_CTIME:
            change.ctime_ns = bounded_ns(ctime * 1_000_000_000 + ctime_ns)
        attr, ttl_s = self._ops.setattr(caller, node, change)
        return wire.pack_attr(attr, ttl_s)

    def readlink(self, caller: Caller, node: int, request: memoryview) -> bytes:
        return self._ops.readlink(caller, node)

    def symlink(self, caller: Caller, node: int, request: memoryview) -> bytes:
        name, target, _ = bytes(request[_BODY:]).split(b"\0")
        if len(name) > wire.NAME_MAX:
            raise oserror(errno.ENAMETOOLONG)
        return wire.pack_entry(self._ops.symlink(caller, node, name, target))

    def mknod(self, caller: Caller, node: int, request: memoryview) -> bytes:
        mode, rdev, caller.umask = wire.MKNOD_IN.unpack_from(request, _BODY)
        name = wire.name(request, _BODY + wire.MKNOD_IN.size)
        return wire.pack_entry(self._ops.mknod(caller, node, name, mode, rdev))

    def mkdir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        mode, caller.umask = wire.MKDIR_IN.unpack_from(request, _BODY)
        name = wire.name(request, _BODY + wire.MKDIR_IN.size)
        return wire.pack_entry(self._ops.mkdir(caller, node, name, mode))

    def unlink(self, caller: Caller, node: int, request: memoryview) -> bytes:
        self._ops.unlink(caller, node, wire.name(request, _BODY))
        return b""

    def rmdir(self, caller: Caller, node: int, request: memoryview) -> bytes:
        self._ops.rmdir(caller, node, wire.name(request, _BODY))
        return b""

    def rename(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (parent2,) = wire.RENAME_IN.unpack_from(request, _BODY)
        name, name2 = wire.two_names(request, _BODY + wire.RENAME_IN.size)
        self._ops.rename(caller, node, name, parent2, name2, 0)
        return b""

    def rename2(self, caller: Caller, node: int, request: memoryview) -> bytes:
        parent2, flags = wire.RENAME2_IN.unpack_from(request, _BODY)
        name, name2 = wire.two_names(request, _BODY + wire.RENAME2_IN.size)
        self._ops.rename(caller, node, name, parent2, name2, flags)
        return b""

    def link(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (source,) = wire.U64.unpack_from(request, _BODY)
        name = wire.name(request, _BODY + wire.U64.size)
        return wire.pack_entry(self._ops.link(caller, source, node, name))

    def statfs(self, caller: Caller, node: int, request: memoryview) -> bytes:
        return wire.pack_statfs(self._ops.statfs(caller, node))

    def access(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (mask,) = wire.ACCESS_IN.unpack_from(request, _BODY)
        self._ops.access(caller, node, mask)
        return b""

    def getxattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (room,) = wire.GETXATTR_IN.unpack_from(request, _BODY)
        name = wire.name(request, _BODY + wire.GETXATTR_IN.size)
        return _sized(self._ops.getxattr(caller, node, name), room)

    def listxattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        (room,) = wire.GETXATTR_IN.unpack_from(request, _BODY)
        found = self._ops.listxattr(caller, node)
        return _sized(b"".join(name + b"\0" for name in found), room)

    def setxattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        size, flags, *more = self._setxattr_in.unpack_from(request, _BODY)
        name, _, rest = bytes(request[_BODY + self._setxattr_in.size :]).partition(b"\0")
        kill_sgid = bool(more and more[0] & wire.SETXATTR_ACL_KILL_SGID)
        self._ops.setxattr(caller, node, name, rest[:size], flags, kill_sgid)
        return b""

    def removexattr(self, caller: Caller, node: int, request: memoryview) -> bytes:
        self._ops.removexattr(caller, node, wire.name(request, _BODY))
        return b""

    def syncfs(self, caller: Caller, node: int, request: memoryview) -> bytes:
        self._ops.syncfs(caller)
        return b""


def _sized(value: bytes, room: int) -> bytes:
    """The xattr protocol: room 0 asks for the size, too little room is ERANGE."""
    if not room:
        return wire.GETXATTR_OUT.pack(len(value))
    if len(value) > room:
        raise oserror(errno.ERANGE)
    return value
