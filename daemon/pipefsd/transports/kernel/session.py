"""One mount, served: negotiation, the loop, and a stop that leaves the mount alive.

`run` is the dispatcher: the only thread that reads requests. It answers at once what is at hand
and gives to the pool what would wait. Whoever owns the descriptor closes it; a session never
mounts, unmounts or closes anything. The mount outlives the session as long as some process holds
the descriptor: requests that were read and not answered are sent again to the next worker.

The process that serves must not start another while it holds a file of its own mount open: the
child's close waits for a FLUSH, and nobody answers during a fork.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import sys
import weakref
from collections.abc import Callable
from typing import Literal

from pipefs.errors import Refused
from pipefsd.transports.base import Operations, WouldBlock
from pipefsd.transports.kernel import wire
from pipefsd.transports.kernel.dispatch import Dispatcher
from pipefsd.transports.kernel.negotiate import (
    MAX_WRITE_BYTES,
    Negotiated,
    features,
    init_reply,
    negotiate,
)
from pipefsd.transports.kernel.notify import KernelNotifier, send
from pipefsd.transports.kernel.passthrough import BackingTable, Record
from pipefsd.transports.kernel.pool import Pool

__all__ = ["KernelSession", "Negotiated", "Reason"]

_log = logging.getLogger(__name__)

Reason = Literal["unmounted", "aborted", "stopped"]

_READ_AGAIN = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
"""ENOENT: the request was withdrawn between its announcement and our read."""
_HEADER_ROOM = 4096
_CAP_SYS_ADMIN = 21
_SWITCH_INTERVAL_S = 0.0001
"""How long a thread that computes may keep the interpreter from the dispatcher. With Python's
default of 5 ms one computing pool thread makes an uncached stat take 15 ms; so it takes 0.06 ms."""


def _ignore(_: Negotiated) -> None:
    return None


class KernelSession:
    """Serves `operations` on the /dev/fuse descriptor `fd`. One `run` per session."""

    def __init__(
        self,
        fd: int,
        operations: Operations,
        *,
        pool_threads: int = 8,
        negotiated: Negotiated | None = None,
        on_negotiated: Callable[[Negotiated], None] = _ignore,
        passthrough: bool = True,
        acls: bool = False,
        drain_s: float = 10.0,
        record: Record | None = None,
    ) -> None:
        """With `negotiated` this worker takes over a mount that another has served, and asks for
        the requests that one left unanswered. Without it INIT comes first; `on_negotiated` gets
        its outcome before the kernel does, so that a record of it always exists.

        `record` carries passthrough ids from worker to worker.
        `acls`: let the kernel enforce POSIX access lists, which then asks for them.
        `drain_s`: how long `stop` lets requests under way finish before they are left to the next
        worker.
        """
        self._fd = fd
        self._operations = operations
        self._pool_threads = pool_threads
        self._negotiated = negotiated
        self._on_negotiated = on_negotiated
        self._passthrough = passthrough and _may_pass_through()
        self._acls = acls
        self._drain_s = drain_s
        self._record = record
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Closed with the object, not by `run`: a late `stop` must not hit somebody else's number.
        weakref.finalize(self, os.close, self._wake)
        self.notifier = KernelNotifier(fd)

    @property
    def negotiated(self) -> Negotiated | None:
        """None until INIT was answered."""
        return self._negotiated

    def stop(self) -> None:
        """Make `run` return without unmounting. From any thread or signal handler, any time; no
        effect on a session that has ended."""
        os.eventfd_write(self._wake, 1)

    def run(self) -> Reason:
        """Serve until unmounted or stopped, and say which. `operations.stop` is called when the
        mount is gone, not when another worker is to go on.

        Raises:
            Unsupported: the kernel is too old.
            Refused: the mount is already negotiated and nobody said how.
            OSError: the descriptor is no FUSE device.
        """
        os.set_blocking(self._fd, False)
        self._ask_again()
        if self._negotiated is None:
            early = self._await_init()
            if early is not None:
                return early
        agreed = self._negotiated
        assert agreed is not None
        backing = BackingTable(self._fd, self._record) if agreed.passthrough else None
        dispatcher = Dispatcher(self._fd, self._operations, agreed, self.notifier, backing)
        pool = Pool(dispatcher.serve, self._pool_threads)
        dispatcher.use_pool(pool)
        self.notifier.start(epochs=agreed.epochs)
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_interval_s, _SWITCH_INTERVAL_S))
        try:
            offered = features(agreed)
            if backing is not None:
                offered.passthrough, offered.passed = True, backing.handles()
            self._operations.start(self.notifier, offered)
            reason = self._loop(dispatcher, pool, agreed.max_write)
            if reason == "aborted":
                pool.interrupt_all()  # those who asked have their error already
        finally:
            self._wind_up(dispatcher, pool)
            sys.setswitchinterval(switch_interval_s)
        if reason != "stopped":
            self._operations.stop()
        return reason

    def _loop(self, dispatcher: Dispatcher, pool: Pool, max_write: int) -> Reason:
        fd, wake, serve, readv = self._fd, self._wake, dispatcher.serve, os.readv
        # Page aligned, and reused: a request is served, or copied, before the next is read.
        view = memoryview(mmap.mmap(-1, max_write + _HEADER_ROOM))
        buffers = (view,)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(wake, select.POLLIN)
        wait = poll.poll
        while True:
            for ready, _ in wait():
                if ready == wake:
                    return "stopped"
            try:
                size = readv(fd, buffers)
            except OSError as e:
                if e.errno in _READ_AGAIN:
                    continue
                gone = _reason(e)
                if gone is None:
                    raise
                return gone
            request = view[:size]
            try:
                serve(request)
            except WouldBlock:
                pool.submit(request)

    def _await_init(self) -> Reason | None:
        """Read INIT and answer it; a reason if the mount ends or `stop` comes before that."""
        buffer = bytearray(MAX_WRITE_BYTES + _HEADER_ROOM)
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            if any(ready == self._wake for ready, _ in poll.poll()):
                return "stopped"
            try:
                size = os.readv(self._fd, (buffer,))
                break
            except OSError as e:
                if e.errno in _READ_AGAIN:
                    continue
                gone = _reason(e)
                if gone is None:
                    raise
                return gone
        request = memoryview(buffer)[:size]
        _, opcode, unique, *_ = wire.IN_HEADER.unpack_from(request)
        if opcode != wire.INIT:
            raise Refused(
                "this mount was negotiated by another worker, and how is not known",
                hint="unmount it and mount it again",
            )
        agreed = negotiate(request, passthrough=self._passthrough, acls=self._acls)
        self._on_negotiated(agreed)
        body = init_reply(agreed)
        os.writev(self._fd, (wire.OUT_HEADER.pack(16 + len(body), 0, unique), body))
        self._negotiated = agreed
        return None

    def _ask_again(self) -> None:
        """Have the kernel queue again what a dead worker has read and not answered, be it INIT.
        On a fresh mount there is nothing; before Linux 6.9 it cannot be done."""
        try:
            send(self._fd, wire.NOTIFY_RESEND)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EPERM, errno.ENODEV):
                raise

    def _wind_up(self, dispatcher: Dispatcher, pool: Pool) -> None:
        if not pool.drain(self._drain_s):
            pool.interrupt_all()
            if not pool.drain(self._drain_s / 5):
                _log.warning("requests under way are left to the next worker")
        dispatcher.mute()
        pool.close()
        self.notifier.stop()


def _reason(error: OSError) -> Reason | None:
    if error.errno == errno.ENODEV:
        return "unmounted"
    return "aborted" if error.errno == errno.ECONNABORTED else None


def _may_pass_through() -> bool:
    """The kernel lets only CAP_SYS_ADMIN register backing files."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    except OSError:
        pass
    return False
