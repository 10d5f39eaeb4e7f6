"""A worker as the supervisor sees it: forking it, talking to it, learning of its end.

All runs in the supervisor's event loop; nothing here waits for the worker except through futures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any  # futures of several kinds in one list

import msgspec

from pipefs.errors import PipefsError
from pipefs.protocol import error_from_wire
from pipefsd import handoff, logs
from pipefsd.children import fork_child, watch_exit
from pipefsd.handoff import WorkerSpec

log = logging.getLogger(__name__)


class WorkerDied(PipefsError):
    """The worker ended before it answered; whether to start another is the supervisor's choice."""


@dataclass(slots=True)
class _Waiting:
    """Somebody who waits for the outbox; there may be several at a time."""

    done: asyncio.Future[tuple[int, int]]
    progress: Callable[[int, int], None] | None

    def take(self, message: handoff.Draining) -> None:
        if not message.done:
            if self.progress is not None:
                self.progress(message.files, message.bytes)
        elif not self.done.done():
            if message.error is not None:
                self.done.set_exception(error_from_wire(message.error))
            else:
                self.done.set_result((message.files, message.bytes))


class WorkerProcess:
    """One forked worker. Futures carry what it says; `exited` gives its wait status.

    `ready` fails with the worker's own error when its service cannot start, and with
    `WorkerDied` when it ends without a word.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        run: Callable[[WorkerSpec, socket.socket], int],
        *,
        on_gone: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.label = spec.label
        self.ready: asyncio.Future[list[str]] = loop.create_future()
        self.negotiated: asyncio.Future[handoff.Negotiated] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.failed = False
        """It said why it could not start (as opposed to a crash)."""
        self._numbered = 0
        self._waiting: dict[int, _Waiting] = {}
        self._asked: dict[int, asyncio.Future[handoff.Told]] = {}
        self._on_gone = on_gone
        for future in (self.ready, self.negotiated):
            # Not everybody waits for both; an error nobody asked for is logged elsewhere.
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
        ours, theirs = handoff.link()
        keep = {theirs.fileno(), spec.descriptor}
        self.pid = fork_child(lambda: run(spec, theirs), keep=keep, ignore_signals=True)
        theirs.close()
        ours.setblocking(False)
        self._link = ours
        loop.add_reader(ours, self._readable)
        watch_exit(loop, self.pid, self._ended)

    def send(self, message: handoff.ToWorker) -> None:
        """Tell the worker; a dead one is noticed by its end, not here."""
        with contextlib.suppress(OSError):
            self._link.send(handoff.encode(message))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self.exited.done():
                os.kill(self.pid, signal.SIGKILL)

    async def end(self, timeout_s: float, *, unmounted: bool) -> int:
        """Let the worker stop; killed when it takes longer. Returns its wait status."""
        self.send(handoff.Stop(unmounted))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self.exited)
        except TimeoutError:
            logs.event(log, logging.WARNING, "worker did not stop, killing it", pipe=self.label)
            self.kill()
            return await asyncio.shield(self.exited)

    async def drain(
        self, timeout_s: float | None, progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, int]:
        """Bring the outbox up; returns files and bytes that remain. When this is cancelled the
        worker goes back to serving. Raises `WorkerDied`, or what kept the service from it."""
        if self.exited.done():
            raise WorkerDied(f"the worker of {self.label} is not running")
        self._numbered += 1
        number = self._numbered
        done: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(done, progress)
        self.send(handoff.Drain(number, timeout_s))
        try:
            return await done
        except asyncio.CancelledError:
            self.send(handoff.CancelDrain(number))
            raise
        finally:
            del self._waiting[number]

    async def ask(self) -> handoff.Told:
        """Its figures. Raises `WorkerDied`; whoever calls bounds the time."""
        if self.exited.done():
            raise WorkerDied(f"the worker of {self.label} is not running")
        self._numbered += 1
        number = self._numbered
        told: asyncio.Future[handoff.Told] = asyncio.get_running_loop().create_future()
        self._asked[number] = told
        self.send(handoff.Ask(number))
        try:
            return await told
        finally:
            del self._asked[number]

    def _readable(self) -> None:
        while True:
            try:
                data = self._link.recv(handoff.MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # The process is ending; `exited` says how.
                asyncio.get_running_loop().remove_reader(self._link)
                return
            try:
                self._take(handoff.decode_from_worker(data))
            except msgspec.MsgspecError:
                log.exception("message of a worker not understood")

    def _take(self, message: handoff.FromWorker) -> None:
        if isinstance(message, handoff.Negotiated):
            if not self.negotiated.done():
                self.negotiated.set_result(message)
            self.send(handoff.Ack())
        elif isinstance(message, handoff.Ready):
            if not self.ready.done():
                self.ready.set_result(message.warnings)
        elif isinstance(message, handoff.StartFailed):
            self.failed = True
            if not self.ready.done():
                self.ready.set_exception(error_from_wire(message.error))
        elif isinstance(message, handoff.Gone):
            self._on_gone()
        elif isinstance(message, handoff.Told):
            asked = self._asked.get(message.number)
            if asked is not None and not asked.done():
                asked.set_result(message)
        elif message.number in self._waiting:
            self._waiting[message.number].take(message)

    def _ended(self, status: int) -> None:
        self._readable()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link)
        self._link.close()
        died = WorkerDied(f"the worker of {self.label} died ({describe_status(status)})")
        waiting = [waiting.done for waiting in self._waiting.values()]
        asked = self._asked.values()
        futures: list[asyncio.Future[Any]] = [self.ready, self.negotiated, *waiting, *asked]
        for future in futures:
            if not future.done():
                future.set_exception(died)
        self.exited.set_result(status)


def describe_status(status: int) -> str:
    """A wait status in words: `signal SIGKILL`, `exit code 1`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
