"""Tells the kernel what to forget, from a thread of its own.

A notify may wait in the kernel for a page or directory lock whose holder waits for one of our
replies; so it is never sent by a thread that answers requests. Order is kept. What the kernel
does not know (ENOENT) is forgotten already. Nothing here reports back to the filesystem: these
are hints to a cache whose timeouts bound the harm of a lost one.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from pipefsd.transports.kernel import wire

_log = logging.getLogger(__name__)

_GONE = frozenset({errno.ENODEV, errno.EBADF, errno.EPERM, errno.ECONNABORTED, errno.ENOTCONN})
ROOT_NODE = 1


def send(fd: int, code: int, *parts: bytes) -> None:
    """Write one notification.

    Raises:
        OSError: as the kernel says (ENOENT: it knows no such inode or name; EINVAL: nor the code).
    """
    size = wire.OUT_HEADER.size + sum(map(len, parts))
    os.writev(fd, (wire.OUT_HEADER.pack(size, code, 0), *parts))


class KernelNotifier:
    """The `Notifier` of a session. Calls only enqueue; `start` and `stop` belong to the session."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._epochs = False
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)

    def start(self, *, epochs: bool) -> None:
        """Begin to send. `epochs`: the kernel knows INC_EPOCH."""
        self._epochs = epochs
        self._thread.start()

    def stop(self, wait_s: float = 5.0) -> None:
        """Send what is queued and end. After `wait_s` a thread still held by the kernel is left
        behind; it ends when the connection does."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def inval_inode(self, node: int, offset: int, length: int) -> None:
        body = wire.NOTIFY_INVAL_INODE_OUT.pack(node, offset, length)
        self._queue.put(lambda: send(self._fd, wire.NOTIFY_INVAL_INODE, body))

    def inval_entry(self, parent: int, name: bytes) -> None:
        self._queue.put(lambda: self._send_inval_entry(parent, name))

    def delete_entry(self, parent: int, node: int, name: bytes) -> None:
        self._queue.put(lambda: self._send_delete(parent, node, name))

    def increment_epoch(self) -> None:
        self._queue.put(self._send_epoch)

    def flush(self, wait_s: float) -> bool:
        """Wait until everything queued so far was sent; False if that takes too long."""
        done = threading.Event()
        self._queue.put(done.set)
        return done.wait(wait_s)

    def _send_inval_entry(self, parent: int, name: bytes) -> None:
        body = wire.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0)
        send(self._fd, wire.NOTIFY_INVAL_ENTRY, body, name, b"\0")

    def _send_delete(self, parent: int, node: int, name: bytes) -> None:
        body = wire.NOTIFY_DELETE_OUT.pack(parent, node, len(name))
        try:
            send(self._fd, wire.NOTIFY_DELETE, body, name, b"\0")
        except OSError as e:
            # Not empty, a mount point, or by now another inode: looking it up again is right.
            if e.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ENOENT, errno.ENOTDIR):
                raise
            self._send_inval_entry(parent, name)

    def _send_epoch(self) -> None:
        if self._epochs:
            send(self._fd, wire.NOTIFY_INC_EPOCH)
        else:
            # Before 7.44 nothing drops all entries; the root's own attributes and listing are
            # what comes nearest, the rest ages by its timeouts.
            send(
                self._fd,
                wire.NOTIFY_INVAL_INODE,
                wire.NOTIFY_INVAL_INODE_OUT.pack(ROOT_NODE, 0, 0),
            )

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job()
            except OSError as e:
                if e.errno in _GONE:
                    continue  # unmounted; the queue is drained so that `flush` never hangs
                if e.errno != errno.ENOENT:
                    _log.warning("the kernel refused a notification: %s", e)
