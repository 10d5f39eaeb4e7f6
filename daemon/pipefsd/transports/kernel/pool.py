"""Threads for requests that must wait, and the tickets by which the kernel can interrupt them.

Started on demand, at most as many as asked; when all wait, further requests queue in order.
A ticket lives from `submit` until its request was answered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from pipefsd.transports.kernel import wire

_log = logging.getLogger(__name__)


class Ticket:
    """One waiting request; calling it tells whether the kernel has sent INTERRUPT for it."""

    __slots__ = ("flagged", "unique")

    def __init__(self, unique: int) -> None:
        self.unique = unique
        self.flagged = False

    def __call__(self) -> bool:
        return self.flagged


class Pool:
    """`serve` is called with a copy of each submitted request and its ticket."""

    def __init__(self, serve: Callable[[memoryview, Ticket], None], threads: int) -> None:
        self._serve = serve
        self._limit = max(1, threads)
        self._queue: SimpleQueue[tuple[memoryview, Ticket] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Protects the four below; a leaf: nothing is called with it held.
        self._changed = threading.Condition()
        self._jobs = 0
        self._tickets: dict[int, Ticket] = {}

    def submit(self, request: memoryview) -> None:
        """Take over a request; its bytes are copied, for the caller's buffer is reused."""
        unique = wire.IN_HEADER.unpack_from(request)[2] & wire.UNIQUE_MASK
        ticket = Ticket(unique)
        item = (memoryview(bytes(request)), ticket)
        with self._changed:
            self._tickets[unique] = ticket
            self._jobs += 1
            if self._jobs > len(self._threads) < self._limit:
                name = f"fuse-pool-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(item)

    def interrupt(self, unique: int) -> None:
        """Mark the ticket; a request that was answered meanwhile has none."""
        ticket = self._tickets.get(unique)
        if ticket is not None:
            ticket.flagged = True

    def interrupt_all(self) -> None:
        with self._changed:
            for ticket in self._tickets.values():
                ticket.flagged = True

    def drain(self, wait_s: float) -> bool:
        """Wait until nothing is under way; False if `wait_s` was not enough."""
        end = time.monotonic() + wait_s
        with self._changed:
            while self._jobs:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """Let idle threads end; those that serve end after it."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            request, ticket = item
            try:
                self._serve(request, ticket)
            except Exception:
                # `serve` answers for the filesystem's errors; what comes here is our own bug.
                _log.exception("request %d was lost", ticket.unique)
            finally:
                del item, request
                with self._changed:
                    self._jobs -= 1
                    self._tickets.pop(ticket.unique, None)
                    self._changed.notify_all()
