"""The supervisor: one process a home, which holds every mount and keeps its worker alive.

One thread, one event loop. It opens no LMDB, imports what workers need without starting threads
(so that forking a worker takes milliseconds), answers the control socket, and must never touch a
path inside a mount of its own: whatever could wait is done in a forked errand. A slow unmount of
one pipe therefore never holds up `list` or another pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from functools import partial

from pipefs.errors import AlreadyExists, NotFound, PipefsError, Refused, UsageError
from pipefs.home import Home
from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.protocol import (
    MAX_LINE_BYTES,
    Empty,
    FlushProgress,
    ListMounts,
    Mount,
    MountItem,
    MountList,
    Ping,
    Pong,
    Shutdown,
    SupervisorRequest,
    Umount,
    Unmounted,
    decode_supervisor_request,
    encode_error,
    encode_progress,
    encode_result,
)
from pipefs.protocol import Mounted as MountedReply
from pipefs.version import VERSION
from pipefsd import logs
from pipefsd.bounds import Bounds
from pipefsd.control import Result, check_peer, listen
from pipefsd.handoff import Service, WorkerSpec
from pipefsd.mounted import Mounted
from pipefsd.pipes import Pipes, Target, build_service
from pipefsd.worker import worker_main

log = logging.getLogger(__name__)

Factory = Callable[[Home, Target], Service]


class Supervisor:
    """Serves one home from `run` until SIGTERM, a shutdown request, or (`joined`) idleness."""

    def __init__(
        self,
        home: Home,
        *,
        factory: Factory = build_service,
        joined: bool = False,
        bounds: Bounds | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.home = home
        self.pipes = Pipes(home)
        self.bounds = bounds or Bounds()
        self.mounts: dict[str, Mounted] = {}
        self._factory = factory
        self._joined = joined
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._impatient = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._busy_since = time.monotonic()
        self._clients: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[object]] = set()

    # --- life ---------------------------------------------------------------------------------

    async def run(self, first: list[Mount] | None = None) -> int:
        """Serve; mounts `first` and every pipe with automount at the start. Returns the exit
        code: 0, or 1 when something of `first` could not be mounted."""
        server = await asyncio.start_unix_server(
            self._client, sock=listen(self.home.supervisor_socket), limit=MAX_LINE_BYTES
        )
        self._signals()
        log.info("supervisor started pid=%d home=%s", os.getpid(), self.home.state)
        failed = await self._mount_first(first or [])
        self._on_ready()
        if failed and not self.mounts:
            self._stop.set()
        idle = asyncio.create_task(self._watch_idleness())
        await self._stop.wait()
        idle.cancel()
        # Nobody new from here on; a mount command that comes now starts the next supervisor,
        # which waits for our lock.
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.home.supervisor_socket)
        await self._unmount_all()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        log.info("supervisor ended")
        return 1 if failed else 0

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
        """SIGHUP: pipes whose automount was switched on since appear."""
        log.info("reading the configuration again")
        self._background(self._mount_first([]))

    def _background(self, work: Coroutine[object, object, object]) -> None:
        """Run `work` on the side; the loop itself keeps only weak references to tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mount_first(self, first: list[Mount]) -> bool:
        """Mount `first` and the automount pipes at the same time; True when one of `first`
        failed. A pipe that cannot be mounted never keeps the others from it."""
        names = {m.name for m in first}
        try:
            found = self.pipes.automount()
        except PipefsError as error:
            log.error("cannot read the pipes: %s", error)
            found = []
        wanted = [*first, *(Mount(n) for n in found if n not in names and n not in self.mounts)]
        results = await asyncio.gather(*map(self._mount, wanted), return_exceptions=True)
        for request, result in zip(wanted, results, strict=True):
            if isinstance(result, BaseException):
                logs.event(log, logging.ERROR, "not mounted", pipe=request.name, error=result)
        return any(isinstance(r, BaseException) for r in results[: len(first)])

    async def _watch_idleness(self) -> None:
        """A supervisor that a mount command started ends once nothing has been mounted for a
        while; one that a service manager started stays."""
        pause_s = min(1.0, self.bounds.idle_exit_s / 4)
        while self._joined:
            await asyncio.sleep(pause_s)
            if self.mounts or self._clients:
                self._busy_since = time.monotonic()
            elif time.monotonic() - self._busy_since >= self.bounds.idle_exit_s:
                log.info("nothing mounted for %g s, ending", self.bounds.idle_exit_s)
                self._stop.set()

    async def _unmount_all(self) -> None:
        """Every mount at once, outboxes within one bound, busy mounts detached from their users:
        a machine that goes down must not wait for a shell that sits in a directory."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._do_unmount_all())
        await self._stopping

    async def _do_unmount_all(self) -> None:
        ends = [asyncio.create_task(self._end(mount)) for mount in self.mounts.values()]
        await asyncio.gather(*ends)

    async def _end(self, mount: Mounted) -> None:
        drained = asyncio.create_task(mount.drain(self.bounds.drain_s))
        impatient = asyncio.create_task(self._impatient.wait())
        await asyncio.wait({drained, impatient}, return_when="FIRST_COMPLETED")
        drained.cancel()
        impatient.cancel()
        await asyncio.gather(drained, impatient, return_exceptions=True)
        try:
            files, size = await mount.unmount(drain_s=0.0, force=True)
        except PipefsError as error:
            logs.event(log, logging.ERROR, "cannot unmount", pipe=mount.label, error=error)
            return
        if files:
            logs.event(
                log,
                logging.WARNING,
                "changes wait in the outbox for the next mount",
                pipe=mount.label,
                files=files,
                bytes=size,
            )

    # --- clients ------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            check_peer(writer.get_extra_info("socket"))
            while line := await reader.readline():
                await self._answer(line, reader, writer)
        except Refused as error:
            writer.write(encode_error(error))
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # It hung up, its line was endless, or we are leaving.
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        def progress(files: int, size: int) -> None:
            writer.write(encode_progress(FlushProgress(files, size)))

        try:
            request = decode_supervisor_request(line)
            work = asyncio.create_task(self._handle(request, progress))
            if isinstance(request, Umount):
                # Ctrl-C on `umount --wait` means: leave it mounted.
                await _cancel_on_hangup(work, reader)
            reply = encode_result(await work)
        except PipefsError as error:
            reply = encode_error(error)
        except Exception as error:  # The loop's top: a bug must reach the client as an answer.
            log.exception("request failed")
            reply = encode_error(error)
        writer.write(reply)
        await writer.drain()

    async def _handle(
        self, request: SupervisorRequest, progress: Callable[[int, int], None]
    ) -> Result:
        if isinstance(request, Ping):
            return Pong(os.getpid(), VERSION)
        if isinstance(request, ListMounts):
            return self._list()
        if isinstance(request, Mount):
            return await self._mount(request)
        if isinstance(request, Umount):
            return await self._umount(request, progress)
        assert isinstance(request, Shutdown)
        await self._unmount_all()
        asyncio.get_running_loop().call_soon(self._stop.set)
        return Empty()

    def _list(self) -> MountList:
        return MountList([self._item(mount) for mount in self.mounts.values()])

    def _item(self, mount: Mounted) -> MountItem:
        name, _, snapshot = mount.label.partition("@")
        return MountItem(
            name=name,
            path=mount.directory,
            pid=mount.pid,
            socket=mount.spec.socket_path,
            state=mount.state,
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(mount.since)),
            snapshot=snapshot or None,
            last_error=mount.last_error,
        )

    # --- mounting -----------------------------------------------------------------------------

    async def _mount(self, request: Mount) -> MountedReply:
        began = time.monotonic()
        if self._stop.is_set() or self._stopping is not None:
            raise Refused("the daemon is shutting down", hint="Mount again in a moment")
        target = self.pipes.resolve(request)
        label = target.plan.label
        await self._make_way(label)
        spec = WorkerSpec(
            label=label,
            directory=target.plan.directory,
            descriptor=-1,
            socket_path=target.socket_path,
            factory=partial(self._factory, self.home, target),
            transport=target.plan.transport,
            allow_other=target.plan.allow_other,
            read_only=target.plan.read_only,
        )
        mount = Mounted(target.plan, spec, worker_main, self.bounds, now=time.time())
        self.mounts[label] = mount
        try:
            await mount.start()
        except BaseException:
            self._forget(mount)
            raise
        self._background(self._forget_when_gone(mount))
        seconds = time.monotonic() - began
        logs.event(log, logging.INFO, "mounted", pipe=label, path=mount.directory, seconds=seconds)
        return MountedReply(
            name=request.name,
            path=mount.directory,
            pid=mount.pid,
            features=list(mount.spec.features),
            warnings=mount.warnings,
            seconds=round(seconds, 3),
            snapshot=request.snapshot,
        )

    async def _make_way(self, label: str) -> None:
        """Refuse a pipe that is mounted already; end what is left of an earlier mount of it."""
        mount = self.mounts.get(label)
        if mount is None:
            return
        listed = any(e.path == mount.directory and e.fstype == PIPEFS_TYPE for e in read_mounts())
        if mount.state in ("live", "starting", "restarting") and listed:
            raise AlreadyExists(
                f"{label} is already mounted on {mount.directory}",
                hint=f"pipefs umount {label}",
            )
        if mount.state == "starting":
            raise AlreadyExists(f"{label} is just being mounted on {mount.directory}")
        # Given up, on its way out, or detached with umount -l while files are still open.
        await mount.unmount(drain_s=0.0, force=True)
        self._forget(mount)

    def _forget(self, mount: Mounted) -> None:
        if self.mounts.get(mount.label) is mount:
            del self.mounts[mount.label]
        self._busy_since = time.monotonic()

    async def _forget_when_gone(self, mount: Mounted) -> None:
        await mount.gone.wait()
        self._forget(mount)

    # --- unmounting ---------------------------------------------------------------------------

    async def _umount(self, request: Umount, progress: Callable[[int, int], None]) -> Unmounted:
        mount = self._find(request)
        wait = request.wait
        files, size = await mount.unmount(
            drain_s=0.0 if wait is False else request.timeout_s,
            insist=wait is True,
            progress=progress,
        )
        self._forget(mount)
        return Unmounted(mount.label, mount.directory, files, size)

    def _find(self, request: Umount) -> Mounted:
        if request.name:
            mount = self.mounts.get(request.name)
            if mount is None:
                raise NotFound(f"{request.name} is not mounted", hint="pipefs status")
            return mount
        if not request.directory:
            raise UsageError("umount needs a name or a directory")
        directory = os.path.normpath(request.directory)
        for mount in self.mounts.values():
            if directory in (mount.directory, mount.plan.directory):
                return mount
        raise NotFound(f"no pipe is mounted on {directory}", hint="pipefs status")


async def _cancel_on_hangup(work: asyncio.Task[Result], reader: asyncio.StreamReader) -> None:
    """Wait for `work`; cancel it when the client hangs up first."""
    while not work.done():
        hangup = asyncio.create_task(_hangup(reader))
        await asyncio.wait({work, hangup}, return_when="FIRST_COMPLETED")
        if hangup.done() and not work.done():
            log.info("whoever asked to unmount hung up; not waiting any more")
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise ConnectionResetError
        hangup.cancel()
        await asyncio.gather(hangup, return_exceptions=True)


async def _hangup(reader: asyncio.StreamReader) -> None:
    # Looks without reading: a client may send its next request before this one is answered.
    while not reader.at_eof():
        await asyncio.sleep(0.1)
