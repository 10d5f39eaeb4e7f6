"""The request a thread is serving, read from its raw header before libfuse takes it.

libfuse's path-based interface hides what was asked: an unlink of an open file and the replacement
of one by rename(2) both arrive as a rename to `.fuse_hidden…`. The header says which it is.
"""

from __future__ import annotations

import struct
import threading

LOOKUP, GETATTR, UNLINK, RENAME, INIT = 1, 3, 10, 12, 26

_HEADER = struct.Struct("=IIQQIIII")
_RENAME_NAMES = _HEADER.size + 8


class Request(threading.local):
    """Of the calling thread. Valid while libfuse processes what was passed to `begin`."""

    opcode: int = 0
    new_name: bytes = b""
    """Of RENAME: the name that the caller asked for."""

    def begin(self, message: memoryview) -> None:
        self.opcode = _HEADER.unpack_from(message)[1]
        if self.opcode == RENAME:
            self.new_name = bytes(message[_RENAME_NAMES:]).split(b"\0", 2)[1]
