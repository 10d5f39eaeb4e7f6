"""From a request to its reply, and the one place where errors become errno.

`serve` is called by the dispatcher thread (no ticket: must not wait) and by the pool's threads
(with one). It always answers, exactly once, unless it raises WouldBlock or the request gets no
reply. Never decides what an operation means.
"""

from __future__ import annotations

import errno
import logging
import os

from pipefs.errors import PipefsError
from pipefsd.transports.base import Caller, Operations, ReadReply, WouldBlock
from pipefsd.transports.kernel import wire
from pipefsd.transports.kernel.handlers_files import FileHandlers
from pipefsd.transports.kernel.handlers_names import Handler, NameHandlers, Reply, oserror
from pipefsd.transports.kernel.negotiate import Negotiated, init_reply
from pipefsd.transports.kernel.notify import KernelNotifier
from pipefsd.transports.kernel.passthrough import BackingTable
from pipefsd.transports.kernel.pool import Pool, Ticket

_log = logging.getLogger(__name__)

_MAY_SAY_ENOSYS = frozenset(
    (
        *(wire.SETXATTR, wire.GETXATTR, wire.LISTXATTR, wire.REMOVEXATTR, wire.ACCESS),
        *(wire.FLUSH, wire.FSYNC, wire.FSYNCDIR, wire.FALLOCATE, wire.LSEEK, wire.RENAME2),
        *(wire.COPY_FILE_RANGE, wire.COPY_FILE_RANGE_64, wire.SYNCFS, wire.TMPFILE, wire.STATX),
        *(wire.BMAP, wire.IOCTL, wire.POLL, wire.GETLK, wire.SETLK, wire.SETLKW),
    )
)
"""Where ENOSYS means "never ask again, do it without us". To OPEN it would mean "no handles"."""

_IOV_LIMIT = 1000
"""Buffers of one writev; the system's limit is 1024."""

_GONE = frozenset(
    {errno.ENOENT, errno.ENODEV, errno.EPERM, errno.EBADF, errno.ECONNABORTED, errno.ENOTCONN}
)
"""Nobody waits for this reply: interrupted (ENOENT), unmounted or aborted."""


class Dispatcher:
    def __init__(
        self,
        fd: int,
        operations: Operations,
        agreed: Negotiated,
        notifier: KernelNotifier,
        backing: BackingTable | None,
    ) -> None:
        self._fd = fd
        self._agreed = agreed
        self._pool: Pool | None = None
        self._muted = False
        setxattr_ext = bool(agreed.flags & wire.SETXATTR_EXT)
        table = NameHandlers(operations, setxattr_ext=setxattr_ext).table()
        table |= FileHandlers(operations, notifier, backing).table()
        table |= {
            wire.INIT: self._init,
            wire.INTERRUPT: self._interrupt,
            wire.DESTROY: self._destroy,
            wire.NOTIFY_REPLY: self._no_reply,
        }
        self._handlers: list[Handler] = [
            table.get(opcode, self._unknown) for opcode in range(wire.OPCODES)
        ]

    def use_pool(self, pool: Pool) -> None:
        self._pool = pool

    def mute(self) -> None:
        """Write no more replies: another worker is about to answer what is still under way."""
        self._muted = True

    def serve(self, request: memoryview, ticket: Ticket | None = None) -> None:
        """Answer one request.

        Raises:
            WouldBlock: only without a ticket; nothing was changed or answered.
        """
        _, opcode, unique, node, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(request)
        resent = unique > wire.UNIQUE_MASK
        key = unique & wire.UNIQUE_MASK
        if ticket is None:
            caller = Caller(uid, gid, pid, 0, key, resent, False)
        else:
            caller = Caller(uid, gid, pid, 0, key, resent, True, ticket)
        try:
            handler = self._handlers[opcode] if opcode < wire.OPCODES else self._unknown
            body = handler(caller, node, request)
        except WouldBlock:
            if ticket is None:
                raise
            _log.exception(
                "%s said it would block where it may", wire.OPCODE_NAMES.get(opcode, opcode)
            )
            self._fail(unique, errno.EIO)
        except Exception as e:
            self._fail(unique, _errno_of(e, opcode, node))
        else:
            if body is not None:
                self._send(unique, body)

    def _send(self, unique: int, body: bytes | ReadReply) -> None:
        if isinstance(body, bytes):
            self._write(unique, [wire.OUT_HEADER.pack(16 + len(body), 0, unique), body])
            return
        try:
            buffers = body.buffers
            size = 16
            for buffer in buffers:
                size += len(buffer)
            if len(buffers) > _IOV_LIMIT:
                buffers = (b"".join(buffers),)
            self._write(unique, [wire.OUT_HEADER.pack(size, 0, unique), *buffers])
        finally:
            if body.release is not None:
                body.release()

    def _write(self, unique: int, parts: list[bytes | memoryview]) -> None:
        if self._muted:
            return
        try:
            os.writev(self._fd, parts)
        except OSError as e:
            if e.errno in _GONE:
                return
            # A reply that the kernel does not take (too long, say) must not leave its caller
            # waiting for ever.
            _log.exception("the kernel refused a reply of %d bytes", sum(map(len, parts)))
            self._fail(unique, errno.EIO)

    def _fail(self, unique: int, code: int) -> None:
        if self._muted:
            return
        try:
            os.write(self._fd, wire.OUT_HEADER.pack(16, -code, unique))
        except OSError as e:
            if e.errno not in _GONE:
                raise

    def _init(self, caller: Caller, node: int, request: memoryview) -> Reply:
        # The worker before this one died between recording what it agreed to and replying.
        return init_reply(self._agreed)

    def _interrupt(self, caller: Caller, node: int, request: memoryview) -> Reply:
        (unique,) = wire.U64.unpack_from(request, wire.BODY)
        if self._pool is not None:
            self._pool.interrupt(unique & wire.UNIQUE_MASK)
        return None

    def _destroy(self, caller: Caller, node: int, request: memoryview) -> Reply:
        return b""

    def _no_reply(self, caller: Caller, node: int, request: memoryview) -> Reply:
        return None

    def _unknown(self, caller: Caller, node: int, request: memoryview) -> Reply:
        raise oserror(errno.ENOSYS)


def _errno_of(error: Exception, opcode: int, node: int) -> int:
    """What the caller of the system call sees; a bug is logged and seen as EIO."""
    code = error.errno if isinstance(error, (OSError, PipefsError)) else None
    if not code or not 0 < code < 4096:
        _log.error(
            "%s of node %d failed unexpectedly",
            wire.OPCODE_NAMES.get(opcode, opcode),
            node,
            exc_info=error,
        )
        return errno.EIO
    if code == errno.ENOSYS and opcode not in _MAY_SAY_ENOSYS and opcode in wire.OPCODE_NAMES:
        return errno.EOPNOTSUPP
    return code
