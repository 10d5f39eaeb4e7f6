"""Between libfuse's C calls and `PathOperations`: fusepy's marshalling, and one error boundary.

What is overridden here is what fusepy 3.0.1 gets wrong or loses: an exception without an errno
ends its mount, `utimens` loses UTIME_NOW and UTIME_OMIT, `write` and `read` copy once more, a
directory is read as a whole, and `fallocate` is not declared. Its way of connecting the rest is
kept. Nothing that is raised gets back into libfuse, ever.
"""

from __future__ import annotations

import ctypes
import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Any  # C values of fusepy's types

import fuse

from pipefs.errors import PipefsError
from pipefsd.transports.base import Attr, WouldBlock
from pipefsd.transports.libfuse import library
from pipefsd.transports.libfuse.operations import ENCODING, PathOperations
from pipefsd.transports.libfuse.requests import Request

log = logging.getLogger(__name__)

_NAMES = (
    *("getattr", "fgetattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename"),
    *("link", "chmod", "chown", "truncate", "ftruncate", "utimens", "access", "statfs"),
    *("getxattr", "listxattr", "setxattr", "removexattr"),
    *("create", "open", "read", "write", "flush", "release", "fsync", "fallocate"),
    *("opendir", "readdir", "releasedir", "fsyncdir", "init"),
)
"""Not among them: locks, which the kernel then keeps by itself, as one machine's should be; bmap,
ioctl and poll, which a file system of files does not have."""

_MAY_SAY_ENOSYS = frozenset(
    ("getxattr", "listxattr", "setxattr", "removexattr", "access", "flush", "fsync", "fsyncdir")
)
"""Where ENOSYS means "never ask again, do it without us"."""


class Bridge(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """The callbacks of one mount. Keep it as long as libfuse may call."""

    def __init__(
        self, operations: PathOperations, request: Request, step_back: Callable[[], None]
    ) -> None:
        """`step_back` is called before an operation that waits."""
        # Not fusepy's own, which also mounts and runs libfuse's loop.
        self.request = request
        self.step_back = step_back
        self.operations = operations
        self.raw_fi = True
        self.encoding = ENCODING
        self.use_ns = True
        self.agreed: dict[str, int] = {}
        """What INIT agreed on; empty before."""
        self.callbacks = library.Callbacks()
        kinds = library.prototypes()
        # Kept here as well: in a structure that extends another, ctypes keeps the function of the
        # fifth new field in place of the one of the fifth old field, whose memory is then reused.
        self._kept = {
            name: kinds[name](partial(self._guard, name, getattr(self, name))) for name in _NAMES
        }
        for name, callback in self._kept.items():
            setattr(self.callbacks, name, callback)
        # Open files are known by their handles; asking for paths would make an unlink wait for a
        # read of the same file that waits for the network.
        self.callbacks.flag_nullpath_ok = 1
        self.callbacks.flag_nopath = 1
        self.callbacks.flag_utime_omit_ok = 1

    def _guard(self, name: str, function: Callable[..., int | None], *arguments: Any) -> int:
        try:
            try:
                return function(*arguments) or 0
            except WouldBlock:
                if self.request.may_block:
                    raise
                self.step_back()
                self.request.may_block = True
                return function(*arguments) or 0
        except BaseException as error:  # A C caller: nothing may be raised, whatever it is.
            return -errno_of(error, name)

    # --- what fusepy would do otherwise -------------------------------------------------------

    def init(self, connection: int) -> int:
        agreed = library.Connection.from_address(connection)
        self.agreed = {
            "minor": min(agreed.proto_minor, 19),
            "max_write": agreed.max_write,
            "big_writes": int(bool(agreed.want & library.CAP_BIG_WRITES)),
        }
        return 0

    def getattr(self, path: bytes, buffer: Any) -> None:
        _fill(buffer, self.operations.stat(path, None))

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> None:
        _fill(buffer, self.operations.stat(path, info.contents.fh))

    def utimens(self, path: bytes, buffer: Any) -> None:
        times = None
        if buffer:
            found = buffer.contents
            times = [(t.tv_sec, t.tv_nsec) for t in (found.actime, found.modtime)]
        self.operations.set_times(path, times)

    def read(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        reply = self.operations.read_at(info.contents.fh, offset, size)
        try:
            room, filled = _memory(buffer, size), 0
            for piece in reply.buffers:
                room[filled : filled + len(piece)] = piece
                filled += len(piece)
            return filled
        finally:
            if reply.release is not None:
                reply.release()

    def write(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        written: int = self.operations.write_at(info.contents.fh, offset, _memory(buffer, size))
        return written

    def readdir(self, path: bytes | None, buffer: Any, filler: Any, offset: int, info: Any) -> None:
        about = library.Stat()
        begun = False
        try:
            for item in self.operations.entries(info.contents.fh, offset):
                about.st_ino, about.st_mode = item.ino, item.mode
                if filler(buffer, item.name, about, item.offset):
                    break
                begun = True
        except WouldBlock:
            # What was filled in cannot be taken back: the kernel asks for the rest.
            if not begun:
                raise

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, info: Any) -> None:
        self.operations.allocate(info.contents.fh, mode, offset, length)


def _memory(buffer: Any, size: int) -> memoryview:
    """libfuse's buffer, without a copy; valid during the callback only."""
    if not size:
        return memoryview(b"")
    address = ctypes.addressof(buffer.contents)
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _fill(buffer: Any, attr: Attr) -> None:
    shown = buffer.contents
    ctypes.memset(buffer, 0, ctypes.sizeof(shown))
    shown.st_ino = attr.ino
    shown.st_mode = attr.mode
    shown.st_nlink = attr.nlink
    shown.st_uid = attr.uid
    shown.st_gid = attr.gid
    shown.st_rdev = attr.rdev
    shown.st_size = attr.size
    shown.st_blocks = attr.blocks
    shown.st_blksize = attr.blksize
    for place, ns in (
        (shown.st_atimespec, attr.atime_ns),
        (shown.st_mtimespec, attr.mtime_ns),
        (shown.st_ctimespec, attr.ctime_ns),
    ):
        place.tv_sec, place.tv_nsec = divmod(ns, 10**9)


def errno_of(error: BaseException, name: str) -> int:
    """What the caller of the system call sees; a bug is logged and seen as EIO."""
    code = error.errno if isinstance(error, (OSError, PipefsError)) else None
    if isinstance(error, WouldBlock) or not code or not 0 < code < 4096:
        log.error("%s failed unexpectedly", name, exc_info=error)
        return errno.EIO
    if code == errno.ENOSYS and name not in _MAY_SAY_ENOSYS:
        return errno.EOPNOTSUPP
    return code
