"""The mounts of one supervisor: making them, finding them, ending them, handing them on.

Runs in the supervisor's event loop. Keeps the service manager's descriptor store in step with
what is mounted. Never touches a path inside a mount: whatever could wait is an errand of `mounted`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial

import msgspec

from pipefs.errors import AlreadyExists, NotFound, PipefsError, Refused, UsageError
from pipefs.home import Home
from pipefs.mountinfo import PIPEFS_TYPE, read_mounts
from pipefs.protocol import Mount, MountItem, Umount, Unmounted
from pipefs.protocol import Mounted as MountedReply
from pipefsd import logs
from pipefsd.bounds import Bounds
from pipefsd.descriptor_store import DescriptorStore, Record, Stored
from pipefsd.handoff import Negotiated, Service, WorkerSpec
from pipefsd.mounted import Mounted
from pipefsd.mountpoint import MountPlan
from pipefsd.pipes import Pipes, Target
from pipefsd.worker import worker_main

log = logging.getLogger(__name__)

Factory = Callable[[Home, Target], Service]


@dataclass(frozen=True, slots=True)
class Entry:
    """One mount and what it was asked for."""

    mounted: Mounted
    request: Mount
    target: Target
    automatic: bool
    """Because of the pipe's automount setting."""


class Mounts:
    """The table of mounts, by label."""

    def __init__(
        self, home: Home, pipes: Pipes, factory: Factory, bounds: Bounds, store: DescriptorStore
    ) -> None:
        self.home = home
        self.pipes = pipes
        self.bounds = bounds
        self.store = store
        self.table: dict[str, Entry] = {}
        self.closed = False
        """Nothing new is mounted: the daemon is ending."""
        self.quiet_since = time.monotonic()
        self._handing_over = False
        self._factory = factory
        self._tasks: set[asyncio.Task[object]] = set()

    def all(self) -> list[Mounted]:
        return [entry.mounted for entry in self.table.values()]

    def items(self) -> list[MountItem]:
        return [_item(mount) for mount in self.all()]

    def background(self, work: Coroutine[object, object, object]) -> None:
        """Run `work` on the side; the loop itself keeps only weak references to tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- mounting -----------------------------------------------------------------------------

    async def mount(self, request: Mount, *, automatic: bool = False) -> MountedReply:
        """Mount and return when the mount answers. Raises what kept it from that."""
        began = time.monotonic()
        self._check_open()
        target = self.pipes.resolve(request)
        label = target.plan.label
        await self._make_way(label)
        mount = self._enter(request, target, target.plan, automatic)
        try:
            await mount.start()
        except BaseException:
            self.forget(mount)
            raise
        self._keep(self.table[label])
        self.background(self._forget_when_gone(mount))
        seconds = round(time.monotonic() - began, 3)
        logs.event(log, logging.INFO, "mounted", pipe=label, path=mount.directory, seconds=seconds)
        return MountedReply(
            name=request.name,
            path=mount.directory,
            pid=mount.pid,
            features=list(mount.spec.features),
            warnings=mount.warnings,
            seconds=seconds,
            snapshot=request.snapshot,
        )

    def _check_open(self) -> None:
        if self.closed:
            raise Refused("the daemon is shutting down", hint="Mount again in a moment")

    def _enter(self, request: Mount, target: Target, plan: MountPlan, automatic: bool) -> Mounted:
        spec = WorkerSpec(
            label=plan.label,
            directory=plan.directory,
            descriptor=-1,
            socket_path=target.socket_path,
            factory=partial(self._factory, self.home, target),
            transport=plan.transport,
            allow_other=plan.allow_other,
            read_only=plan.read_only,
            flags=plan.flags,
            acl=plan.acl,
        )
        closed = partial(self.store.drop, plan.label)
        now = time.time()
        mount = Mounted(plan, spec, worker_main, self.bounds, now=now, on_closed=closed)
        self.table[plan.label] = Entry(mount, request, target, automatic)
        return mount

    async def _make_way(self, label: str) -> None:
        """Refuse a pipe that is mounted already; end what is left of an earlier mount of it."""
        entry = self.table.get(label)
        if entry is None:
            return
        mount = entry.mounted
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
        self.forget(mount)

    def forget(self, mount: Mounted) -> None:
        entry = self.table.get(mount.label)
        if entry is not None and entry.mounted is mount:
            del self.table[mount.label]
            if not self._handing_over:
                self.store.drop(mount.label)
        self.quiet_since = time.monotonic()

    async def _forget_when_gone(self, mount: Mounted) -> None:
        await mount.gone.wait()
        self.forget(mount)

    # --- from one supervisor to the next ------------------------------------------------------

    def _keep(self, entry: Entry) -> None:
        """What was negotiated can be gone on with, the rest be mounted again."""
        mount, agreed = entry.mounted, None
        if mount.outlives_us() and mount.spec.negotiated is not None:
            raw = msgspec.Raw(mount.spec.negotiated)
            agreed = Negotiated(raw, features=list(mount.spec.features))
        record = Record(
            request=entry.request,
            plan=mount.plan,
            directory=mount.directory,
            connection=mount.connection,
            automatic=entry.automatic,
            negotiated=agreed,
        )
        self.store.keep(-1 if agreed is None else mount.spec.descriptor, record)

    async def take_over(self, stored: Stored) -> None:
        """Go on with a mount of an earlier supervisor. Its programs get errors only when its pipe
        cannot be served any more."""
        record = stored.record
        plan = record.plan
        assert record.negotiated is not None
        try:
            target = self.pipes.resolve(record.request)
        except PipefsError as error:
            logs.event(log, logging.ERROR, "cannot go on with a mount", pipe=plan.label, why=error)
            # The next attempt to mount clears what is left of it.
            os.close(stored.descriptor)
            self.store.drop(plan.label)
            return
        mount = self._enter(record.request, target, plan, record.automatic)
        mount.directory = record.directory
        await mount.take_over(stored.descriptor, record.negotiated, record.connection)
        self.background(self._forget_when_gone(mount))
        if not mount.has_failed():
            path = mount.directory
            logs.event(log, logging.INFO, "went on with a mount", pipe=plan.label, path=path)

    async def hand_over(self) -> None:
        """Leave every mount that allows it to the next supervisor. The rest stays in the table, but
        its records in the store: it is to be unmounted now, and mounted again by the next one."""
        self._handing_over = True
        leaving = [mount for mount in self.all() if mount.outlives_us()]
        await asyncio.gather(*(mount.hand_over() for mount in leaving))
        for mount in leaving:
            self.forget(mount)

    # --- unmounting ---------------------------------------------------------------------------

    async def umount(
        self, request: Umount, progress: Callable[[int, int], None] | None = None
    ) -> Unmounted:
        """Raises `NotFound`, `Busy`, or (told to insist) `TimedOut`."""
        mount = self._find(request)
        wait = request.wait
        files, size = await mount.unmount(
            drain_s=0.0 if wait is False else request.timeout_s,
            insist=wait is True,
            progress=progress,
        )
        self.forget(mount)
        return Unmounted(mount.label, mount.directory, files, size)

    def _find(self, request: Umount) -> Mounted:
        if request.name:
            entry = self.table.get(request.name)
            if entry is None:
                raise NotFound(f"{request.name} is not mounted", hint="pipefs status")
            return entry.mounted
        if not request.directory:
            raise UsageError("umount needs a name or a directory")
        directory = os.path.normpath(request.directory)
        for mount in self.all():
            if directory in (mount.directory, mount.plan.directory):
                return mount
        raise NotFound(f"no pipe is mounted on {directory}", hint="pipefs status")

    async def unmount_all(
        self, impatient: asyncio.Event, progress: Callable[[str, int, int], None]
    ) -> None:
        """Every mount at once, outboxes within one bound (`impatient` ends it), busy mounts
        detached from their users: a machine that goes down must not wait for a shell that sits
        in a directory. `progress` gets label, files and bytes that still wait."""
        ends = (_end(mount, self.bounds.drain_s, impatient, progress) for mount in self.all())
        await asyncio.gather(*ends)


async def _end(
    mount: Mounted,
    drain_s: float,
    impatient: asyncio.Event,
    progress: Callable[[str, int, int], None],
) -> None:
    drained = asyncio.create_task(mount.drain(drain_s, partial(progress, mount.label)))
    hurried = asyncio.create_task(impatient.wait())
    await asyncio.wait({drained, hurried}, return_when="FIRST_COMPLETED")
    drained.cancel()
    hurried.cancel()
    await asyncio.gather(drained, hurried, return_exceptions=True)
    progress(mount.label, 0, 0)
    try:
        files, size = await mount.unmount(drain_s=0.0, force=True)
    except PipefsError as error:
        logs.event(log, logging.ERROR, "cannot unmount", pipe=mount.label, error=error)
        return
    if files:
        message = "changes wait in the outbox for the next mount"
        logs.event(log, logging.WARNING, message, pipe=mount.label, files=files, bytes=size)


def _item(mount: Mounted) -> MountItem:
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
