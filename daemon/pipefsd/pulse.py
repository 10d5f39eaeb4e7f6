"""The daemon's pulse: its status line, and the watchdog that is fed while the mounts answer.

For the service manager only; without one nothing here runs. Whether a mount answers is asked
through the kernel, as a program would, by an errand with a time limit. A worker that does not
answer is replaced; when that does not help the watchdog starves, and the manager ends and starts
all of us, with the mounts in its store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipefs.errors import PipefsError, TimedOut
from pipefs.units import show_count, show_size
from pipefsd import logs, mountpoint
from pipefsd.automount import Automount
from pipefsd.children import run_errand
from pipefsd.handoff import Told
from pipefsd.mounted import Mounted
from pipefsd.mounts import Mounts
from pipefsd.notify_socket import Surroundings
from pipefsd.worker_process import WorkerDied

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Figures:
    """One mount in the status line; `told` is None when its worker did not say."""

    label: str
    state: str
    told: Told | None


class Pulse:
    """Tells the service manager how we are."""

    def __init__(self, surroundings: Surroundings, mounts: Mounts, automount: Automount) -> None:
        self._notify = surroundings.notify
        self._watchdog_s = surroundings.watchdog_s
        self._mounts = mounts
        self._automount = automount
        self._said = ""

    async def say_status(self) -> None:
        """Send the status line if it changed."""
        asked = [_figures(m, self._mounts.bounds.status_s) for m in self._mounts.all()]
        figures = await asyncio.gather(*asked)
        line = status_line(figures, self._automount.trouble, self._automount.leaving)
        self.say(line)

    def say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._notify.status(line)

    async def keep_saying(self) -> None:
        """The status line, for ever."""
        while True:
            await self.say_status()
            await asyncio.sleep(self._mounts.bounds.status_s)

    async def feed_watchdog(self) -> None:
        """Feed it while every mount answers, four times within its patience: a worker that is
        replaced after one of these is served again before the next."""
        if self._watchdog_s is None:
            return
        step_s = self._watchdog_s / 4
        while True:
            live = [m for m in self._mounts.all() if m.state == "live"]
            answers = await asyncio.gather(*(self._answers(m, step_s) for m in live))
            if all(answers):
                self._notify.alive()
            await asyncio.sleep(step_s)

    async def _answers(self, mount: Mounted, within_s: float) -> bool:
        """Whether it answered; one that is being mounted, restarted or unmounted has bounds of its
        own and is not asked."""
        worker = mount.worker
        try:
            await _look(mount, within_s)
        except (TimedOut, TimeoutError):
            if mount.state != "live" or mount.worker is not worker or worker is None:
                return True
            message = "the mount does not answer, replacing its worker"
            logs.event(log, logging.ERROR, message, pipe=mount.label, pid=worker.pid)
            worker.kill()
            return False
        except PipefsError:
            pass  # An error is an answer.
        return True


async def _look(mount: Mounted, within_s: float) -> None:
    """Return when it answered; raises `TimedOut`, TimeoutError, or what it answered."""
    if mount.plan.given and mount.worker is not None:
        # On an automount point a look counts as use, and the idle timeout would never come.
        async with asyncio.timeout(within_s):
            await mount.worker.ask()
        return
    probe = partial(mountpoint.probe_mount, mount.directory)
    await run_errand(probe, timeout_s=within_s, what=f"{mount.label}: first answer")


async def _figures(mount: Mounted, within_s: float) -> Figures:
    told = None
    if mount.state == "live" and mount.worker is not None:
        try:
            async with asyncio.timeout(within_s):
                told = await mount.worker.ask()
        except (TimeoutError, WorkerDied):
            pass
    return Figures(mount.label, mount.state, told)


def status_line(
    figures: Sequence[Figures], trouble: dict[str, str], leaving: set[str] | frozenset[str]
) -> str:
    """One line for an operator: mounts, what waits, and what is wrong."""
    parts = [show_count(len(figures), "mount") if figures else "nothing mounted"]
    told = [f.told for f in figures if f.told is not None]
    files, size = sum(t.files for t in told), sum(t.bytes for t in told)
    if files:
        parts.append(f"{show_count(files, 'file')} ({show_size(size)}) going up")
    elif told and len(told) == len(figures):
        parts.append("all saved")
    if told:
        parts.append(f"cache {show_size(max(t.cache_bytes for t in told))}")
    for what, labels in (
        ("OFFLINE", [f.label for f in figures if f.told is not None and f.told.offline]),
        ("conflicts", [f.label for f in figures if f.told is not None and f.told.conflicts]),
        ("does not answer", [f.label for f in figures if f.state == "live" and f.told is None]),
        ("restarting", [f.label for f in figures if f.state == "restarting"]),
        ("given up", [f.label for f in figures if f.state == "failed"]),
        ("leaves when idle", sorted(leaving)),
    ):
        if labels:
            parts.append(f"{what}: {', '.join(labels)}")
    for name, error in trouble.items():
        parts.append(f"NOT MOUNTED: {name} ({error})" if name else error)
    return ", ".join(parts)
