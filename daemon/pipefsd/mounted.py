"""One mount and its worker: from the first fork to the moment the directory is free again.

The mount belongs to the supervisor and outlives its workers. A worker that dies is replaced on
the same descriptor, and the kernel sends the new one what was left unanswered; when none comes up
within a bound, or they die one after the other, the connection is aborted, because processes that
wait in a mount that nobody serves cannot even be killed.

States: starting → live ⇄ restarting; live → unmounting → gone; any → failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pipefs.errors import PipefsError, TimedOut
from pipefsd import logs, mountpoint
from pipefsd.children import Answer, Work, run_errand
from pipefsd.handoff import Negotiated, WorkerSpec
from pipefsd.mountpoint import MountPlan
from pipefsd.worker_process import WorkerDied, WorkerProcess, describe_status

log = logging.getLogger(__name__)

Run = Callable[[WorkerSpec, socket.socket], int]
"""What a forked worker executes: `worker.worker_main`."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long the supervisor waits for what, in seconds unless named otherwise."""

    start_s: float = 30.0
    """For a worker to open its state, and for the mount to answer."""
    restart_s: float = 60.0
    """Without a worker for so long, the connection is aborted (DESIGN: 60 s)."""
    crashes: int = 5
    """So many deaths within `crash_window_s` are a loop, not bad luck."""
    crash_window_s: float = 60.0
    drain_s: float = 60.0
    """For the outbox, when the mount goes without a request that says otherwise."""
    stop_s: float = 15.0
    """For a worker to stop before it is killed."""
    errand_s: float = 20.0
    """For checking a directory, mounting, unmounting."""
    idle_exit_s: float = 30.0
    """A supervisor that a mount command started ends after so long without a mount."""


BACKOFF_S = (0.0, 0.25, 1.0, 2.0, 4.0, 8.0)
"""Waits before each new worker; the last one repeats."""


class Mounted:
    """One mount. Made by the supervisor, which keeps it in its table until `gone` is set."""

    def __init__(
        self, plan: MountPlan, spec: WorkerSpec, run: Run, bounds: Bounds, *, now: float
    ) -> None:
        self.plan = plan
        self.spec = spec
        self.directory = plan.directory
        self.state = "starting"
        self.since = now
        self.last_error = ""
        self.warnings: list[str] = []
        self.connection = 0
        self.worker: WorkerProcess | None = None
        self.gone = asyncio.Event()
        self._run = run
        self._bounds = bounds
        self._deaths: deque[float] = deque(maxlen=bounds.crashes)
        self._settled = asyncio.Event()
        self._left = asyncio.Event()
        self._hurry = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def label(self) -> str:
        return self.plan.label

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
        answer, descriptor = await self._errand(partial(mountpoint.mount_pipe, self.plan), "mount")
        if descriptor is None:
            raise PipefsError(f"mounting {self.label} gave no descriptor")
        self.directory, self.connection = answer.path, answer.connection
        self.spec = replace(self.spec, descriptor=descriptor, directory=self.directory)
        worker = self._fork()
        try:
            async with asyncio.timeout(self._bounds.start_s):
                self.warnings = await asyncio.shield(worker.ready)
                self._remember(await asyncio.shield(worker.negotiated))
            await self._errand(partial(mountpoint.probe_mount, self.directory), "first answer")
        except TimeoutError:
            await self._abandon()
            raise TimedOut(
                f"{self.label} was not ready within {self._bounds.start_s:g} s",
                hint="See the daemon's log",
            ) from None
        except (PipefsError, asyncio.CancelledError):
            await self._abandon()
            raise
        self._set("live")
        self._settled.set()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self.label}")

    def _remember(self, message: Negotiated) -> None:
        self.spec = replace(
            self.spec, negotiated=bytes(message.negotiated), features=tuple(message.features)
        )

    def _fork(self) -> WorkerProcess:
        self.worker = WorkerProcess(self.spec, self._run, on_gone=self._on_gone)
        self._event(logging.INFO, "worker started", pid=self.worker.pid, path=self.directory)
        return self.worker

    def _set(self, state: str) -> None:
        self.state, self.since = state, time.time()

    # --- keeping it served --------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Replace workers that die, until the mount is gone or nothing helps."""
        while not self._left.is_set():
            worker = self.worker
            assert worker is not None
            status = await asyncio.shield(worker.exited)
            if self._left.is_set():
                return
            self._settled.clear()
            self._set("restarting")
            self._note_death(describe_status(status), worker.pid)
            try:
                async with asyncio.timeout(self._bounds.restart_s):
                    await self._replace_worker()
            except (TimeoutError, PipefsError) as error:
                await self._fail(self.last_error if isinstance(error, TimeoutError) else str(error))
                return
            self._set("live")
            self._settled.set()

    def _note_death(self, how: str, pid: int) -> None:
        self._deaths.append(time.monotonic())
        self.last_error = f"worker died ({how})"
        self._event(logging.ERROR, "worker died", pid=pid, how=how)

    async def _replace_worker(self) -> None:
        """Fork until a worker is ready. Raises `PipefsError` when they die in a loop; whoever
        calls bounds the time."""
        attempt = 0
        while True:
            if self._looping():
                raise PipefsError(
                    f"{self._bounds.crashes} workers died within {self._bounds.crash_window_s:g} s"
                )
            await asyncio.sleep(BACKOFF_S[min(max(attempt, len(self._deaths) - 1), 5)])
            attempt += 1
            worker = self._fork()
            try:
                async with asyncio.timeout(self._bounds.start_s):
                    self.warnings = await asyncio.shield(worker.ready)
                return
            except TimeoutError:
                self.last_error = f"the new worker was not ready in {self._bounds.start_s:g} s"
                worker.kill()
            except WorkerDied:
                self._note_death(describe_status(await asyncio.shield(worker.exited)), worker.pid)
            except PipefsError as error:
                self.last_error = str(error)
                self._event(logging.ERROR, "worker cannot start", error=error)
            except asyncio.CancelledError:
                # Out of time: a half-started worker must not answer a mount that is given up.
                worker.kill()
                raise
            await asyncio.shield(worker.exited)

    def _looping(self) -> bool:
        if len(self._deaths) < self._bounds.crashes:
            return False
        return time.monotonic() - self._deaths[0] < self._bounds.crash_window_s

    async def _fail(self, reason: str) -> None:
        self.last_error = reason
        self._event(logging.ERROR, "giving the mount up", path=self.directory, error=reason)
        self._left.set()
        await self._abandon()
        self._set("failed")
        self._settled.set()

    async def _abandon(self) -> None:
        """Kill the worker, abort the connection, detach the directory; never fails."""
        if self.worker is not None:
            self.worker.kill()
        work = partial(
            mountpoint.abandon_mount,
            self.directory,
            self.connection,
            remove=not self.plan.explicit,
        )
        try:
            await self._errand(work, "detach")
        except PipefsError as error:
            self._event(logging.ERROR, "cannot detach", path=self.directory, error=error)
        self._close()

    def _close(self) -> None:
        """Drop our end of the connection; with the last copy closed the kernel aborts it."""
        if self.spec.descriptor >= 0:
            os.close(self.spec.descriptor)
            self.spec = replace(self.spec, descriptor=-1)
        with contextlib.suppress(OSError):
            os.unlink(self.spec.socket_path)

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
        if self.has_failed():
            self.gone.set()
            return 0, 0
        if self._ending is not None:
            # Somebody unmounted it behind our back and its outbox is going up: do not wait.
            self._hurry.set()
            await self.gone.wait()
            return 0, 0
        if not force:
            await self._errand(partial(mountpoint.check_idle, self.directory), "look for users")
        remaining = await self.drain(drain_s, progress)
        if insist and remaining[0]:
            raise TimedOut(
                f"{remaining[0]} files of {self.label} are not in the store yet; still mounted",
                hint=f"pipefs status {self.label}",
            )
        if self.has_failed():
            self.gone.set()
            return 0, 0
        # Whoever asked may go away; half unmounted is no state to be left in.
        await asyncio.shield(asyncio.create_task(self._leave(force)))
        return remaining

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
                    if self.worker is None or self.has_failed():
                        return 0, 0
                    return await self.worker.drain(left, progress)
            except WorkerDied:
                # Its replacement goes on with the same outbox; the watcher may need a moment
                # to notice.
                if left == 0.0:
                    return 0, 0
                await asyncio.sleep(0.05)
            except TimeoutError:
                self._event(logging.WARNING, "worker does not answer a drain")
                return 0, 0

    async def _leave(self, force: bool) -> None:
        await self._detach(force)
        await self._end_worker()

    async def _detach(self, force: bool) -> None:
        self._left.set()
        remove = not self.plan.explicit
        work = partial(mountpoint.unmount_pipe, self.directory, remove=remove, lazy=False)
        try:
            await self._errand(work, "unmount")
        except PipefsError as error:
            if not force:
                self._left.clear()
                self._resume_watch()
                raise
            self._event(logging.WARNING, "detaching a busy mount", error=error)
            await self._abandon()

    def _resume_watch(self) -> None:
        """The worker may have died while we were about to leave; then the watcher left too."""
        if self._watch is not None and self._watch.done():
            self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self.label}")

    async def _end_worker(self) -> None:
        self._set("unmounting")
        if self._watch is not None:
            self._watch.cancel()
        if self.worker is not None:
            await self.worker.end(self._bounds.stop_s, unmounted=True)
        self._close()
        self._event(logging.INFO, "unmounted", path=self.directory)
        self.gone.set()

    def _on_gone(self) -> None:
        """The kernel told the worker that the mount is gone."""
        if not self._left.is_set() and self._ending is None:
            self._left.set()
            self._ending = asyncio.create_task(self._end_foreign(), name=f"end {self.label}")

    async def _end_foreign(self) -> None:
        """Somebody used plain umount: bring the outbox up within a bound, then forget."""
        self._set("unmounting")
        self._event(logging.INFO, "unmounted from outside", path=self.directory)
        hurried = asyncio.create_task(self._hurry.wait())
        worker = self.worker
        assert worker is not None
        drained = asyncio.create_task(worker.drain(self._bounds.drain_s))
        bound = self._bounds.drain_s + self._bounds.stop_s
        await asyncio.wait({hurried, drained}, timeout=bound, return_when="FIRST_COMPLETED")
        for task in (hurried, drained):
            task.cancel()
        results = await asyncio.gather(hurried, drained, return_exceptions=True)
        self._event(logging.INFO, "outbox after unmount", remaining=results[1])
        if not self.plan.explicit:
            with contextlib.suppress(PipefsError):
                remove = partial(mountpoint.unmount_pipe, self.directory, remove=True, lazy=False)
                await self._errand(remove, "remove the mount point")
        await self._end_worker()

    async def _errand(self, work: Work, what: str) -> tuple[Answer, int | None]:
        return await run_errand(work, timeout_s=self._bounds.errand_s, what=f"{self.label}: {what}")
