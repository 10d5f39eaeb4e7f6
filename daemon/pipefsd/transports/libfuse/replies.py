"""What libfuse answers, corrected on its way to the kernel.

libfuse finds a file by its path, so a file that was replaced after the kernel had looked it up is
gone for it (ENOENT), though its name is there. ESTALE makes the kernel look the name up again.

libfuse gives each name of a file a number of its own, so the kernel takes two hard links for two
files, and would show the attributes of one for a while after the other was changed. So it is told
not to believe the attributes of a file with several names for any time, and to forget what it
believed of a file that just got a second one.

Only on Linux, whose records are declared here; elsewhere libfuse's replies go as they are.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import struct
import sys
from typing import Any  # C values

from pipefsd.transports.base import Attr
from pipefsd.transports.kernel import wire
from pipefsd.transports.libfuse import library
from pipefsd.transports.libfuse.requests import (
    CREATE,
    GETATTR,
    GETXATTR,
    LINK,
    LISTXATTR,
    LOOKUP,
    MKDIR,
    MKNOD,
    OPEN,
    OPENDIR,
    READLINK,
    REMOVEXATTR,
    SETATTR,
    SETXATTR,
    SYMLINK,
    Request,
)

log = logging.getLogger(__name__)

_ENTRY = frozenset((LOOKUP, SYMLINK, MKNOD, MKDIR, LINK, CREATE))
_ATTR = frozenset((GETATTR, SETATTR))
_OF_FILES = frozenset(
    (GETATTR, SETATTR, READLINK, LINK, OPEN, OPENDIR, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR)
)
"""Requests about a file that was looked up before, for which no ENOENT is right."""
_CORRECTED = _ENTRY | _ATTR | _OF_FILES
_ERROR = struct.Struct("=i")
_ERROR_AT = 4
_U64 = struct.Struct("=Q")
_U32 = struct.Struct("=I")
_ENTRY_TTL, _ENTRY_TTL_NS, _ENTRY_NLINK = 24, 36, 104
_ATTR_TTL, _ATTR_TTL_NS, _ATTR_NLINK = 0, 8, 80


class Replies:
    """The way of replies to the kernel, for one mount. Used by all threads of its loop."""

    def __init__(self, channel: int, request: Request) -> None:
        self._kernel = channel
        self._request = request
        # libfuse copies the structure, not the function behind it: keep both.
        self._send_callback = library.SEND(self._send)
        operations = library.ChannelOperations(send=self._send_callback)
        self._ours: int = library.new_channel(
            ctypes.byref(operations), -1, library.buffer_size(channel), None
        )

    def channel(self) -> int:
        """Where libfuse is to send the reply to the thread's request."""
        corrected = self._request.opcode in _CORRECTED
        return self._ours if corrected and sys.platform == "linux" else self._kernel

    def _send(self, channel: int, parts: Any, count: int) -> int:
        try:
            header = _memory(parts[0])
            (error,) = _ERROR.unpack_from(header, _ERROR_AT)
            if error == -errno.ENOENT and self._request.opcode in _OF_FILES:
                _ERROR.pack_into(header, _ERROR_AT, -errno.ESTALE)
            elif not error and self._request.opcode in _ENTRY | _ATTR:
                self._correct(_memory(parts[1]))
            sent: int = library.send(self._kernel, parts, count)
            return sent
        except BaseException:  # A C caller: nothing may be raised, whatever it is.
            log.exception("a reply was not sent")
            return -errno.EIO

    def _correct(self, body: memoryview) -> None:
        ttl, ttl_ns, nlink = _ENTRY_TTL, _ENTRY_TTL_NS, _ENTRY_NLINK
        if self._request.opcode in _ATTR:
            ttl, ttl_ns, nlink = _ATTR_TTL, _ATTR_TTL_NS, _ATTR_NLINK
        (links,) = _U32.unpack_from(body, nlink)
        (mode,) = _U32.unpack_from(body, nlink - 4)
        if links > 1 and mode & 0o170000 != 0o040000:
            _U64.pack_into(body, ttl, 0)
            _U32.pack_into(body, ttl_ns, 0)
        if self._request.opcode == LINK:
            self.forget_attributes(self._request.linked)

    def forget_attributes(self, node: int) -> None:
        """The kernel is to ask for a file's attributes again; `node` is its number of it."""
        # Attributes alone take no lock that another request could hold, so this may be said by a
        # thread that answers. An error means that the kernel knows nothing of it.
        library.forget_attributes(self._kernel, node, -1, 0)

    def attributes(self, attr: Attr) -> None:
        """Answer a GETATTR that libfuse cannot, for it has no path for the file any more."""
        body = wire.pack_attr(attr, 0.0)
        self._answer(wire.OUT_HEADER.pack(16 + len(body), 0, self._request.unique) + body)

    def error(self, code: int) -> None:
        self._answer(wire.OUT_HEADER.pack(16, -code, self._request.unique))

    def _answer(self, message: bytes) -> None:
        kept = ctypes.create_string_buffer(message, len(message))
        part = library.IoVector(ctypes.addressof(kept), len(message))
        library.send(self._kernel, ctypes.pointer(part), 1)


def _memory(part: Any) -> memoryview:
    return memoryview((ctypes.c_char * part.length).from_address(part.base)).cast("B")
