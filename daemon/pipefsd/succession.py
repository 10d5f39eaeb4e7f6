"""Workers of one mount, one after the other: who follows a dead one, and when to give up.

Forks until one is ready, with growing pauses; workers that die in a loop end the attempts, because
processes that wait in a mount that nobody serves cannot even be killed. Runs in the supervisor's
event loop and decides nothing about the mount itself: whoever calls bounds the time and gives the
mount up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pipefs.errors import PipefsError
from pipefsd import logs
from pipefsd.bounds import BACKOFF_S, Bounds
from pipefsd.worker_process import WorkerDied, WorkerProcess, describe_status

log = logging.getLogger(__name__)


class Succession:
    """The deaths of one mount's workers, and their replacement."""

    def __init__(self, label: str, bounds: Bounds, fork: Callable[[], WorkerProcess]) -> None:
        self.last_error = ""
        """Why the last worker went, or could not come up."""
        self._label = label
        self._bounds = bounds
        self._fork = fork
        self._deaths: list[float] = []

    def _event(self, message: str, **fields: object) -> None:
        logs.event(log, logging.ERROR, message, pipe=self._label, **fields)

    def note_death(self, how: str, pid: int) -> None:
        self._deaths.append(time.monotonic())
        self.last_error = f"worker died ({how})"
        self._event("worker died", pid=pid, how=how)

    async def replace(self) -> list[str]:
        """Fork until a worker is ready; returns its warnings. Raises `PipefsError` when they die
        in a loop; whoever calls bounds the time."""
        attempt = 0
        while True:
            if len(self._recent_deaths()) >= self._bounds.crashes:
                raise PipefsError(
                    f"{self._bounds.crashes} workers died within {self._bounds.crash_window_s:g} s"
                )
            pause = max(attempt, len(self._recent_deaths()) - 1)
            await asyncio.sleep(BACKOFF_S[min(pause, len(BACKOFF_S) - 1)])
            attempt += 1
            worker = self._fork()
            try:
                async with asyncio.timeout(self._bounds.takeover_s):
                    return await asyncio.shield(worker.ready)
            except TimeoutError:
                self.last_error = f"the new worker was not ready in {self._bounds.takeover_s:g} s"
                worker.kill()
            except WorkerDied:
                self.note_death(describe_status(await asyncio.shield(worker.exited)), worker.pid)
            except PipefsError as error:
                self.last_error = str(error)
                self._event("worker cannot start", error=error)
            except asyncio.CancelledError:
                # Out of time: a half-started worker must not answer a mount that is given up.
                worker.kill()
                raise
            await asyncio.shield(worker.exited)

    def _recent_deaths(self) -> list[float]:
        limit = time.monotonic() - self._bounds.crash_window_s
        self._deaths = [death for death in self._deaths if death > limit]
        return self._deaths
