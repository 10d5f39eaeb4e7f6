"""The supervisor: one process a home, which holds every mount and keeps its worker alive.

One thread, one event loop: the life of the daemon, from the first mount to the last. It opens no
LMDB, imports what workers need without starting threads (so that forking a worker takes
milliseconds), and must never touch a path inside a mount of its own: whatever could wait is done
in a forked errand. A slow unmount of one pipe therefore never holds up `list` or another pipe.

Under a service manager it says when it is ready, how it is and when it leaves. SIGTERM unmounts
after a bounded wait for the outboxes; when the manager only restarts us, and its store holds our
mounts, they are left to the next supervisor instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time

from pipefs.home import Home
from pipefs.protocol import Mount
from pipefs.units import show_count, show_size
from pipefsd.automount import Automount
from pipefsd.bounds import Bounds
from pipefsd.descriptor_store import DescriptorStore
from pipefsd.mounts import Factory, Mounts
from pipefsd.notify_socket import Surroundings
from pipefsd.pipes import Pipes, build_service
from pipefsd.pulse import Pulse
from pipefsd.requests import Requests
from pipefsd.service_manager import restarts_with_store

__all__ = ["Factory", "Supervisor"]

log = logging.getLogger(__name__)

EXTEND_S = 30.0
"""Starting and stopping ask the service manager for so much more time, several times within it."""


class Supervisor:
    """Serves one home from `run` until SIGTERM, a shutdown request, or (`joined`) idleness."""

    def __init__(
        self,
        home: Home,
        *,
        factory: Factory = build_service,
        joined: bool = False,
        bounds: Bounds | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.home = home
        self.bounds = bounds or Bounds()
        self._joined = joined
        self._surroundings = surroundings or Surroundings()
        self._notify = self._surroundings.notify
        self._store = DescriptorStore(self._notify)
        self.mounts = Mounts(home, Pipes(home), factory, self.bounds, self._store)
        self._automount = Automount(self.mounts)
        self._pulse = Pulse(self._surroundings, self.mounts, self._automount)
        self._requests = Requests(home, self.mounts, self._shut_down)
        self._stop = asyncio.Event()
        self._impatient = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()

    # --- life ---------------------------------------------------------------------------------

    async def run(self, first: list[Mount] | None = None) -> int:
        """Serve; goes on with the mounts of an earlier supervisor, and mounts `first` and every
        pipe with automount. Returns the exit code: 0, or 1 when something of `first` could not
        be mounted."""
        await self._requests.open()
        self._signals()
        log.info("supervisor started pid=%d home=%s", os.getpid(), self.home.state)
        tasks = [asyncio.create_task(self._pulse.feed_watchdog())]
        failed = await self._start(first or [])
        if failed and not self.mounts.table:
            self._stop.set()
        tasks.append(asyncio.create_task(self._watch_idleness()))
        if self._notify.is_open:
            tasks.append(asyncio.create_task(self._pulse.keep_saying()))
        await self._stop.wait()
        for task in tasks[1:]:
            task.cancel()
        self._requests.refuse_new()
        await self._leave()
        tasks[0].cancel()
        await self._requests.close()
        log.info("supervisor ended")
        return 1 if failed else 0

    async def _start(self, first: list[Mount]) -> bool:
        """Ready is what has been tried: a pipe that cannot be mounted is in the status line."""
        extending = asyncio.create_task(self._extend())
        stored = self._store.take(self._surroundings.stored)
        there = [one for one in stored if one.descriptor >= 0]
        await asyncio.gather(*map(self.mounts.take_over, there))
        again = [s.record for s in stored if s.descriptor < 0]
        by_hand = [record.request for record in again if not record.automatic]
        failed = await self._automount.start(first, by_hand)
        extending.cancel()
        await self._say_ready()
        if not self._joined:
            self.mounts.background(self._automount.retry_forever())
        return failed

    async def _say_ready(self) -> None:
        if self._notify.is_open:
            await self._pulse.say_status()
            self._notify.ready()

    def stop(self) -> None:
        """Begin the orderly end; called again, stop waiting for outboxes."""
        if self._stop.is_set():
            self._impatient.set()
        self._stop.set()

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # A log or client that went away is an error to handle, not a reason to die.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _reload(self) -> None:
        """SIGHUP: the registry and the configuration are read again."""
        log.info("reading the configuration again")
        self._notify.reloading()
        self.mounts.background(self._do_reload())

    async def _do_reload(self) -> None:
        async with self._reloading:
            await self._automount.reload()
            await self._say_ready()

    async def _watch_idleness(self) -> None:
        """A supervisor that a mount command started ends once nothing has been mounted for a
        while; one that a service manager started stays."""
        pause_s = min(1.0, self.bounds.idle_exit_s / 4)
        while self._joined:
            await asyncio.sleep(pause_s)
            if self.mounts.table or self._requests.busy:
                self.mounts.quiet_since = time.monotonic()
            elif time.monotonic() - self.mounts.quiet_since >= self.bounds.idle_exit_s:
                log.info("nothing mounted for %g s, ending", self.bounds.idle_exit_s)
                self._stop.set()

    # --- the end ------------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        """A client asked for the end: nothing stays mounted, and only then we go."""
        await self._unmount_all()
        asyncio.get_running_loop().call_soon(self._stop.set)

    async def _leave(self) -> None:
        self.mounts.closed = True
        self._notify.stopping()
        extending = asyncio.create_task(self._extend())
        if self._stopping is None and await self._is_restart():
            self._pulse.say("restarting, the mounts stay")
            await self.mounts.hand_over()
        await self._unmount_all()
        extending.cancel()
        self._pulse.say("stopped")

    async def _is_restart(self) -> bool:
        kept, unit = self._store.descriptors, self._surroundings.unit
        if not kept or not unit:
            return False
        of_user = self._surroundings.of_user
        return await restarts_with_store(unit, of_user=of_user, descriptors=kept)

    async def _unmount_all(self) -> None:
        self.mounts.closed = True
        if self._stopping is None:
            left: dict[str, tuple[int, int]] = {}

            def progress(label: str, files: int, size: int) -> None:
                left[label] = (files, size)
                count = sum(files for files, _ in left.values())
                volume = show_size(sum(size for _, size in left.values()))
                if count:
                    self._pulse.say(f"stopping, {show_count(count, 'file')} ({volume}) going up")

            work = self.mounts.unmount_all(self._impatient, progress)
            self._stopping = asyncio.create_task(work)
        await self._stopping

    async def _extend(self) -> None:
        """Each part of starting and stopping has a bound of its own; ask for time meanwhile."""
        with contextlib.suppress(asyncio.CancelledError):
            while self._notify.is_open:
                self._notify.extend(EXTEND_S)
                await asyncio.sleep(EXTEND_S / 6)
