"""The request a thread is serving, read from its raw header before libfuse takes it.

libfuse's path-based interface hides what was asked: an unlink of an open file and the replacement
of one by rename(2) both arrive as a rename to `.fuse_hidden…`, and the number by which the kernel
knows a file never arrives. The header says both.
"""

from __future__ import annotations

import ctypes
import struct
import threading

from pipefsd.transports.base import Attr

LOOKUP, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK = 1, 3, 4, 5, 6, 8, 9, 10
RENAME, LINK, OPEN, RELEASE = 12, 13, 14, 18
SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, INIT, OPENDIR, CREATE = 21, 22, 23, 24, 26, 27, 35

_HEADER = struct.Struct("=IIQQIIII")
_U64 = struct.Struct("=Q")
_RENAME_NAMES = _HEADER.size + _U64.size


class Request(threading.local):
    """Of the calling thread. Valid while libfuse processes what was passed to `begin`."""

    opcode: int = 0
    unique: int = 0
    node: int = 0
    """The kernel's number of the file, as libfuse gave it."""
    caller: tuple[int, int, int] = (0, 0, 0)
    """uid, gid, pid."""
    new_name: bytes = b""
    """Of RENAME: the name that the caller asked for."""
    linked: int = 0
    """Of LINK: the kernel's number of the file that gets another name."""
    known: tuple[bytes | int, Attr] | None = None
    """Path or handle that was changed by this request, and its attributes since."""
    may_block: bool = False
    """Another thread reads requests by now, so this one may wait."""
    buffer: ctypes.Array[ctypes.c_char] | None = None
    """Where this thread reads requests into."""

    def begin(self, message: memoryview) -> None:
        _, self.opcode, self.unique, self.node, *caller, _ = _HEADER.unpack_from(message)
        self.may_block = False
        self.known = None
        self.caller = (caller[0], caller[1], caller[2])
        if self.opcode == RENAME:
            self.new_name = bytes(message[_RENAME_NAMES:]).split(b"\0", 2)[1]
        elif self.opcode == LINK:
            (self.linked,) = _U64.unpack_from(message, _HEADER.size)
