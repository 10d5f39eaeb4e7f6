"""One mount and its worker: from the first fork to the moment the directory is free again.

The mount belongs to the supervisor and outlives its workers. A worker that dies is replaced on
the same descriptor, and the kernel sends the new one what was left unanswered (through libfuse it
mounts anew); when none comes up in time, or they die one after the other, the mount is given up,
because processes that wait in a mount that nobody serves cannot even be killed.

States: starting → live ⇄ restarting; live → unmounting → gone; any → failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pipefs.errors import PipefsError, TimedOut
from pipefsd import logs, mountpoint
from pipefsd.bounds import Bounds
from pipefsd.children import Answer, Work, run_errand
from pipefsd.handoff import Negotiated, WorkerSpec
from pipefsd.mountpoint import MountPlan
from pipefsd.succession import Succession
from pipefsd.worker_process import WorkerDied, WorkerProcess, describe_status

log = logging.getLogger(__name__)

Run = Callable[[WorkerSpec, socket.socket], int]
"""What a forked worker executes: `worker.worker_main`."""


class Mounted:
    """One mount. Made by the supervisor, which keeps it in its table until `gone` is set."""

    def __init__(
        self,
        plan: MountPlan,
        spec: WorkerSpec,
        run: Run,
        bounds: Bounds,
        *,
        now: float,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_closed`: the connection is over, and whoever holds its descriptor too may let go."""
        self.plan = plan
        self.spec = spec
        self.directory = plan.directory
        self.state = "starting"
        self.since = now
        self.warnings: list[str] = []
        self.connection = 0
        self.worker: WorkerProcess | None = None
        self.gone = asyncio.Event()
        self._run = run
        self._bounds = bounds
        self._on_closed = on_closed
        self._workers = Succession(plan.label, bounds, self._fork)
        self._settled = asyncio.Event()
        self._left = asyncio.Event()
        # Held while the mount is taken down.
        self._leaving = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._lost_early = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def label(self) -> str:
        return self.plan.label

    @property
    def last_error(self) -> str:
        return self._workers.last_error

    @property
    def pid(self) -> int:
        """The process that answers the kernel; 0 while there is none."""
        alive = self.worker is not None and not self.worker.exited.done()
        return self.worker.pid if self.worker is not None and alive else 0

    def has_failed(self) -> bool:
        """Given up: nothing is mounted, only the reason is kept."""
        return self.state == "failed"

    def _event(self, level: int, message: str, **fields: object) -> None:
        logs.event(log, level, message, pipe=self.label, **fields)

    # --- mounting -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Mount, start the worker and return when the mount answers.

        Raises:
            PipefsError: why not; nothing is left mounted then.
        """
        try:
            work = partial(mountpoint.mount_pipe, self.plan)
            answer, given = await self._errand(work, "mount")
        except (PipefsError, asyncio.CancelledError):
            # Nothing to take down; who waits for this mount to settle must not wait on.
            self._set("failed")
            self._settled.set()
            raise
        self.directory, self.connection = answer.path, answer.connection
        descriptor = -1 if given is None else given
        self.spec = replace(self.spec, descriptor=descriptor, directory=self.directory)
        try:
            await self._first_worker(self._fork())
        except (PipefsError, asyncio.CancelledError) as error:
            await self._fail(str(error))
            raise
        self._set("live")
        self._settled.set()
        self._start_watch()

    async def _first_worker(self, worker: WorkerProcess) -> None:
        lost = asyncio.create_task(self._lost_early.wait())
        answered = asyncio.create_task(self._first_answer(worker))
        try:
            await asyncio.wait({lost, answered}, return_when="FIRST_COMPLETED")
            if lost.done():
                raise PipefsError(f"{self.directory} was unmounted while it was being mounted")
            await answered
        finally:
            for task in (lost, answered):
                task.cancel()
            await asyncio.gather(lost, answered, return_exceptions=True)

    async def _first_answer(self, worker: WorkerProcess) -> None:
        try:
            async with asyncio.timeout(self._bounds.start_s):
                self.warnings = await asyncio.shield(worker.ready)
                self._remember(await asyncio.shield(worker.negotiated))
        except TimeoutError:
            raise TimedOut(
                f"{self.label} was not ready within {self._bounds.start_s:g} s",
                hint="See the daemon's log",
            ) from None
        if not self.plan.given:  # Whoever gave it looks: we would wait for him.
            await self._errand(partial(mountpoint.probe_mount, self.directory), "first answer")

    def _remember(self, message: Negotiated) -> None:
        agreed = None if message.connection else bytes(message.negotiated)
        self.spec = replace(self.spec, negotiated=agreed, features=tuple(message.features))
        self.connection = message.connection or self.connection

    def _fork(self) -> WorkerProcess:
        self.worker = WorkerProcess(self.spec, self._run, on_gone=self._on_gone)
        self._event(logging.INFO, "worker started", pid=self.worker.pid, path=self.directory)
        return self.worker

    def _set(self, state: str) -> None:
        self.state, self.since = state, time.time()

    # --- from one supervisor to the next ------------------------------------------------------

    def outlives_us(self) -> bool:
        """Whether another supervisor could go on with this mount, given its descriptor."""
        serving = self.state in ("live", "restarting") and self._ending is None
        return serving and self.spec.negotiated is not None and self.spec.descriptor >= 0

    async def take_over(self, descriptor: int, negotiated: Negotiated, connection: int) -> None:
        """Serve a mount that an earlier supervisor made on `directory`; returns when a worker is
        ready. When none comes up the mount is given up, and `has_failed`."""
        self.connection = connection
        self.spec = replace(self.spec, descriptor=descriptor, directory=self.directory)
        self._remember(negotiated)
        self._set("restarting")
        await self._replace_worker()
        self._start_watch()

    async def hand_over(self) -> None:
        """End the worker and leave the mount, with what waits in it, to the next supervisor."""
        self._left.set()
        if self._watch is not None:
            self._watch.cancel()
        if self.worker is not None:
            await self.worker.end(self._bounds.stop_s, unmounted=False)
        self._event(logging.INFO, "left to the next daemon", path=self.directory)
        self._settled.set()
        self.gone.set()

    # --- keeping it served --------------------------------------------------------------------

    def _start_watch(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self.label}")

    async def _keep_alive(self) -> None:
        """Replace workers that die, until the mount is gone or nothing helps."""
        try:
            while not self._left.is_set():
                assert self.worker is not None
                status = await asyncio.shield(self.worker.exited)
                if not self._left.is_set():
                    await self._revive(self.worker.pid, describe_status(status))
        except Exception as error:  # A task's top: nobody else would ever hear of it.
            log.exception("watching %s failed", self.label)
            await self._fail(f"internal error: {error}")

    async def _revive(self, pid: int, how: str) -> None:
        self._settled.clear()
        self._set("restarting")
        self._workers.note_death(how, pid)
        await self._replace_worker()

    async def _replace_worker(self) -> None:
        """Have the mount served by a new worker; it is given up when none comes up in time."""
        try:
            async with asyncio.timeout(self._bounds.restart_s):
                self.warnings = await self._workers.replace()
                if self.worker and self.plan.transport == "libfuse":
                    self._remember(await self.worker.negotiated)
        except (TimeoutError, PipefsError) as error:
            await self._fail(self.last_error if isinstance(error, TimeoutError) else str(error))
            return
        if self.state == "restarting":
            self._event(logging.INFO, "served again", pid=self.pid)
            self._set("live")
        self._settled.set()

    async def _fail(self, reason: str) -> None:
        self._workers.last_error = reason
        self._event(logging.ERROR, "giving the mount up", path=self.directory, error=reason)
        self._left.set()
        await self._abandon()
        self._set("failed")
        self._settled.set()

    async def _abandon(self) -> None:
        """Kill the worker, abort the connection, detach the directory; never fails."""
        if self.worker is not None:
            self.worker.kill()
        try:
            await self._take_down(mountpoint.abandon_mount, "detach")
        except PipefsError as error:
            self._event(logging.ERROR, "cannot detach", path=self.directory, error=error)
        if self.worker is not None:
            # Two workers must never have the state of one pipe open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.stop_s):
                    await asyncio.shield(self.worker.exited)
        self._close()

    def _close(self) -> None:
        """Drop our end of the connection; with the last copy closed the kernel aborts it."""
        if self.spec.descriptor >= 0:
            os.close(self.spec.descriptor)
            self.spec = replace(self.spec, descriptor=-1)
            self._on_closed()
        for path in (self.spec.socket_path, self.spec.backing_path):
            with contextlib.suppress(OSError):
                os.unlink(path)

    # --- unmounting ---------------------------------------------------------------------------

    async def unmount(
        self,
        *,
        drain_s: float | None,
        insist: bool = False,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, int]:
        """Bring the outbox up, detach, stop the worker; returns files and bytes that remain.

        `drain_s` None waits without bound. With `insist` the mount stays when the outbox is not
        empty in the end; with `force` a busy mount is detached from its users.

        Raises:
            Busy: in use; still mounted and served.
            TimedOut: `insist`, and something remains; still mounted and served.
        """
        if self.has_failed() or self._ends_by_itself():
            await self._end_now()
            return 0, 0
        if not force:
            await self._errand(partial(mountpoint.check_idle, self.directory), "look for users")
        remaining = await self.drain(drain_s, progress)
        if insist and remaining[0]:
            raise TimedOut(
                f"{remaining[0]} files of {self.label} are not in the store yet; still mounted",
                hint=f"pipefs status {self.label}",
            )
        if self.has_failed() or self._ends_by_itself():
            await self._end_now()
        else:
            # Whoever asked may go away; half unmounted is no state to be left in.
            await asyncio.shield(asyncio.create_task(self._leave(force)))
        return remaining

    def _ends_by_itself(self) -> bool:
        """Somebody unmounted it behind our back, and its outbox is going up."""
        return self._ending is not None

    async def _end_now(self) -> None:
        """Forget a failed mount; do not wait for the outbox of one that ends by itself."""
        if self.has_failed():
            self.gone.set()
        self._hurry.set()
        await self.gone.wait()

    async def drain(
        self, drain_s: float | None, progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, int]:
        """Bring the outbox up within `drain_s` (None: no bound) and go on serving; returns files
        and bytes that remain. Outlives a worker that dies meanwhile."""
        deadline = None if drain_s is None else time.monotonic() + drain_s
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                async with asyncio.timeout(None if left is None else left + self._bounds.stop_s):
                    await self._settled.wait()
                    if self.worker is None or self.has_failed() or self.gone.is_set():
                        return 0, 0
                    return await self.worker.drain(left, progress)
            except WorkerDied:
                # Its replacement goes on with the same outbox; the watcher may need a moment
                # to notice.
                if left == 0.0 or self._ends_by_itself():
                    return 0, 0
                await asyncio.sleep(0.05)
            except TimeoutError:
                self._event(logging.WARNING, "worker does not answer a drain")
                return 0, 0

    async def _leave(self, force: bool) -> None:
        # Two requests may both have waited for the outbox: the second finds the work done.
        async with self._leaving:
            if not self.gone.is_set() and not self.has_failed():
                await self._detach(force)
                await self._end_worker()
            self.gone.set()

    async def _detach(self, force: bool) -> None:
        self._left.set()
        try:
            await self._take_down(mountpoint.unmount_pipe, "unmount", lazy=False)
        except PipefsError as error:
            if not force:
                self._left.clear()
                # The worker may have died meanwhile; then the watcher left too.
                self._start_watch()
                raise
            self._event(logging.WARNING, "detaching a busy mount", error=error)
            await self._abandon()

    async def _end_worker(self) -> None:
        self._set("unmounting")
        if self._watch is not None:
            self._watch.cancel()
        if self.worker is not None:
            await self.worker.end(self._bounds.stop_s, unmounted=True)
        self._close()
        self._event(logging.INFO, "unmounted", path=self.directory)
        self.gone.set()
        self._settled.set()

    def _on_gone(self) -> None:
        """The kernel told the worker that the mount is gone."""
        if self.state == "starting":
            self._lost_early.set()
        elif not self._left.is_set() and self._ending is None:
            self._left.set()
            self._ending = asyncio.create_task(self._end_foreign(), name=f"end {self.label}")

    async def _end_foreign(self) -> None:
        """Somebody used plain umount: bring the outbox up within a bound, then forget."""
        self._set("unmounting")
        self._event(logging.INFO, "unmounted from outside", path=self.directory)
        hurried = asyncio.create_task(self._hurry.wait())
        drained = asyncio.create_task(self.drain(self._bounds.drain_s))
        await asyncio.wait({hurried, drained}, return_when="FIRST_COMPLETED")
        for task in (hurried, drained):
            task.cancel()
        results = await asyncio.gather(hurried, drained, return_exceptions=True)
        self._event(logging.INFO, "outbox after unmount", remaining=results[1])
        async with self._leaving:
            if not self.gone.is_set():
                try:  # When the connection was aborted, the dead mount is still there.
                    await self._take_down(mountpoint.unmount_pipe, "clear", lazy=True)
                except PipefsError as error:
                    self._event(logging.ERROR, "cannot clear the mount point", error=error)
                await self._end_worker()

    async def _take_down(
        self, work: Callable[..., tuple[Answer, int | None]], what: str, **more: bool
    ) -> None:
        more["remove"] = not self.plan.explicit
        await self._errand(partial(work, self.directory, self.connection, **more), what)

    async def _errand(self, work: Work, what: str) -> tuple[Answer, int | None]:
        return await run_errand(work, timeout_s=self._bounds.errand_s, what=f"{self.label}: {what}")
